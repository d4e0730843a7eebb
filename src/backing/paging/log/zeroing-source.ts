/**
 * ZeroingSource makes ranges of a source read as zeroes by the best method that the source has. Only trying tells whether the source can
 * punch a hole or zero a range: until then, requests are short, because the zeroes may have to be written.
 */
import type { AsyncImageFile } from "../../async-image-file.ts"
import type { BackingError } from "../../backing.ts"
import type { Change } from "./change.ts"

/** Zeroes are written in pieces of this many bytes. */
const CHUNK = 1 << 18
/** Bytes of one request until the source has proven that it can. */
const UNPROVEN_AT_ONCE = 16 << 20

/** A method of the source: not tried yet, known to work, or missing or declined. */
type Ability = "untried" | "proven" | "declined"

export class ZeroingSource {
  readonly #source: AsyncImageFile
  #punching: Ability
  #zeroing: Ability

  constructor(source: AsyncImageFile) {
    this.#source = source
    this.#punching = source.punchHole === undefined ? "declined" : "untried"
    this.#zeroing = source.zeroRange === undefined ? "declined" : "untried"
  }

  /** False if the source has no such method, or has declined. `frees`: by punching a hole. */
  can(frees: boolean): boolean {
    return (frees ? this.#punching : this.#zeroing) !== "declined"
  }

  isProven(frees: boolean): boolean {
    return (frees ? this.#punching : this.#zeroing) === "proven"
  }

  /** Bytes that one call should ask for; 0 if the source cannot. */
  atOnce(frees: boolean): number {
    if (!this.can(frees)) return 0
    return this.isProven(frees) ? Number.MAX_SAFE_INTEGER : UNPROVEN_AT_ONCE
  }

  /** Makes the range zero. Rejects with the source's error, and, between two pieces, with the error that `failure` returns. */
  async zero({ offset, length, frees }: Change & { readonly kind: "zero" }, failure: () => BackingError | undefined): Promise<void> {
    if (frees && this.#punching !== "declined") {
      const isDone = (await this.#source.punchHole?.(offset, length)) === true
      this.#punching = isDone ? "proven" : "declined"
      if (isDone) return
    }
    if (this.#zeroing !== "declined") {
      const isDone = (await this.#source.zeroRange?.(offset, length)) === true
      this.#zeroing = isDone ? "proven" : "declined"
      if (isDone) return
    }
    const zeroes = new Uint8Array(Math.min(length, CHUNK))
    for (let done = 0; done < length; done += CHUNK) {
      const failed = failure()
      if (failed !== undefined) throw failed
      await this.#source.write?.(zeroes.subarray(0, Math.min(CHUNK, length - done)), offset + done)
    }
  }
}
