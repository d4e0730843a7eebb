/**
 * Effort bounds the time of a decompressor by the length of its output. A hostile stream can have many blocks that yield little or nothing,
 * and make its reader build tables for seconds.
 */
import { DecompressionError } from "./decompression-error.ts"

/** The effort allowed beyond the output's length: an encoder may end any stream with a few empty blocks. */
const SLACK = 16 << 10

export class Effort {
  #left: number

  /** `outputLength` in bytes. */
  constructor(outputLength: number) {
    this.#left = outputLength + SLACK
  }

  /**
   * Charges for work that yields no output. `bytes` is less than the output for which an encoder causes such work.
   * @throws DecompressionError when the total is more than any encoder causes
   */
  spend(bytes: number): void {
    this.#left -= bytes
    if (this.#left < 0) throw new DecompressionError("the compressed data has more blocks than any encoder writes for its length")
  }
}
