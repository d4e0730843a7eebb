/** FileWindow: many small pieces of a file, one behind the other, by few reads: a read costs more than what it brings. */
import type { ImageFile } from "../../image-file.ts"
import { viewOf } from "./bytes.ts"

/** Bytes: more than any piece has. */
const WINDOW = 1 << 18

export class FileWindow {
  readonly bytes = new Uint8Array(WINDOW)
  /** Of `bytes`: a view for each piece would take longer than to read the piece. */
  readonly view = viewOf(this.bytes)
  readonly #file: ImageFile
  /** Which bytes of the file are in it. */
  #start = 0
  #end = 0

  constructor(file: ImageFile) {
    this.#file = file
  }

  /** Where in `bytes` the `length` bytes of the file from `offset` on are, until the next call; -1 when the file ends before. */
  locate(offset: number, length: number): number {
    if (offset < this.#start || offset + length > this.#end) {
      this.#end = this.#start
      const got = this.#file.read(this.bytes, offset)
      this.#start = offset
      this.#end = offset + got
    }
    return offset + length > this.#end ? -1 : offset - this.#start
  }

  /** A copy of that; undefined when the file ends before. */
  copy(offset: number, length: number): Uint8Array | undefined {
    const at = this.locate(offset, length)
    return at < 0 ? undefined : this.bytes.slice(at, at + length)
  }
}
