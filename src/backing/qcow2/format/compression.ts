/** What an image needs to read compressed clusters. The host supplies it, because no JavaScript runtime has it in the language. */

/** Decompresses clusters of the types in `COMPRESSION_TYPE`. [QCOW2] "Cluster mapping" */
export interface Decompressor {
  /** What this host lacks to read clusters of `compressionType`, as a clause for a message; undefined when it can read them. */
  missing(compressionType: number): string | undefined
  /**
   * The first `clusterSize` bytes that `stored` decompresses to; ignores what follows the stream.
   * @throws DecompressionError that says what is wrong with `stored`
   */
  decompress(stored: Uint8Array, clusterSize: number, compressionType: number): Uint8Array
}

/** The stored bytes are not what their compression type allows, or end too early. */
export class DecompressionError extends Error {
  override readonly name = "DecompressionError"
}
