/** DecompressionError: the error of every decompressor about its input. */

/** The compressed bytes are invalid, or end too early. */
export class DecompressionError extends Error {
  override readonly name = "DecompressionError"
}
