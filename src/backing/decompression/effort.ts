/**
 * Effort: bounds the time that a decompressor may take by the length of its output. A stream can have many blocks that yield little or
 * nothing, and whoever made a hostile one would have its reader build tables for seconds.
 */
import { DecompressionError } from "./decompression-error.ts"

/** What a small output may cost beyond its length: an encoder may end any stream with a few blocks of nothing. */
const SLACK = 16 << 10

export class Effort {
  #left: number

  /** `outputLength` in bytes. */
  constructor(outputLength: number) {
    this.#left = outputLength + SLACK
  }

  /**
   * Charges for work that yields no output. `bytes` is less than the output that an encoder spends such work on.
   * @throws DecompressionError when all of it together is more than any encoder asks for
   */
  spend(bytes: number): void {
    this.#left -= bytes
    if (this.#left < 0) throw new DecompressionError("the compressed data has more blocks than any encoder writes for its length")
  }
}
