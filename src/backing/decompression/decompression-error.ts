/** DecompressionError: the error of all decompressors for bad input. */

/** The compressed bytes are invalid, or end too early. */
export class DecompressionError extends Error {
  override readonly name = "DecompressionError"
}
