/**
 * ZeroingSource: makes ranges of a source read as zeroes, in the best way that it has. Whether it can punch a hole, or zero a range, is
 * known only when it has been asked: until then little is asked for at a time, because it may have to be written.
 */
import type { AsyncImageFile } from "../../async-image-file.ts"
import type { BackingError } from "../../backing.ts"
import type { Change } from "./change.ts"

/** Zeroes are written in pieces of so many bytes. */
const CHUNK = 1 << 18
/** Bytes to ask for at a time until it is known that the source does it. */
const UNPROVEN_AT_ONCE = 16 << 20

/** What is known of one way: the source has such a method, has done it, or has declined. */
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

  /** False when the source has no such method, or has declined. `frees`: to punch a hole. */
  can(frees: boolean): boolean {
    return (frees ? this.#punching : this.#zeroing) !== "declined"
  }

  isProven(frees: boolean): boolean {
    return (frees ? this.#punching : this.#zeroing) === "proven"
  }

  /** Bytes that one call should ask for: 0 where the source cannot. */
  atOnce(frees: boolean): number {
    if (!this.can(frees)) return 0
    return this.isProven(frees) ? Number.MAX_SAFE_INTEGER : UNPROVEN_AT_ONCE
  }

  /** Makes the range zero. Rejects with what the source rejects with, and, between two pieces, with what `failure` returns. */
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
