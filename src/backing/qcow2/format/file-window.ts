/** FileWindow: reads many small consecutive pieces of a file with few calls, because each call has a high fixed cost. */
import type { ImageFile } from "../../image-file.ts"
import { viewOf } from "../../bytes/fields.ts"

/** Bytes: more than the largest piece. */
const WINDOW = 1 << 18

export class FileWindow {
  readonly bytes = new Uint8Array(WINDOW)
  /** One view of `bytes` for all pieces: making one for each piece would take longer than reading it. */
  readonly view = viewOf(this.bytes)
  readonly #file: ImageFile
  /** The bytes of the file that are in the window: `#start` to `#end`. */
  #start = 0
  #end = 0

  constructor(file: ImageFile) {
    this.#file = file
  }

  /** Index in `bytes` of the `length` bytes of the file from `offset` on, valid until the next call. -1 if the file ends before. */
  locate(offset: number, length: number): number {
    if (offset < this.#start || offset + length > this.#end) {
      this.#end = this.#start
      const got = this.#file.read(this.bytes, offset)
      this.#start = offset
      this.#end = offset + got
    }
    return offset + length > this.#end ? -1 : offset - this.#start
  }

  /** A copy of these bytes; undefined if the file ends before. */
  copy(offset: number, length: number): Uint8Array | undefined {
    const at = this.locate(offset, length)
    return at < 0 ? undefined : this.bytes.slice(at, at + length)
  }
}
