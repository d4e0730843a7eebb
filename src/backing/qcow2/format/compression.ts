/** What an image needs to read compressed clusters. */

/** Decompresses clusters of the types in `COMPRESSION_TYPE`. [QCOW2] "Cluster mapping" */
export interface Decompressor {
  /**
   * The first `clusterSize` bytes that `stored` decompresses to; ignores what follows the stream.
   * @throws DecompressionError that says what is wrong with `stored`
   */
  decompress(stored: Uint8Array, clusterSize: number, compressionType: number): Uint8Array
}
