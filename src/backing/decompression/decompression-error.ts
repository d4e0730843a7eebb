/** DecompressionError: what every decompressor throws about its input. */

/** The compressed bytes are not what their format allows, or end too early. */
export class DecompressionError extends Error {
  override readonly name = "DecompressionError"
}
