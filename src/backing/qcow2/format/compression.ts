/** What an image needs to read compressed clusters, and to write them. */

/** Decompresses clusters, and compresses them where it can: clusters of the types in `COMPRESSION_TYPE`. [QCOW2] "Cluster mapping" */
export interface Decompressor {
  /**
   * The first `clusterSize` bytes that `stored` decompresses to; ignores what follows the stream.
   * @throws DecompressionError that says what is wrong with `stored`
   */
  decompress(stored: Uint8Array, clusterSize: number, compressionType: number): Uint8Array
  /**
   * What `decompress` turns into `cluster` again: a raw deflate stream with a window of 4 KiB (QC-CMP-05), or a zstd frame. It may be
   * longer than the cluster; then that is stored as it is. Left out by who only reads.
   * @throws BackingError `unsupported` for a type that this platform only reads
   */
  compress?(cluster: Uint8Array, compressionType: number): Uint8Array
  /** `compress` in another thread, where there are some: several at a time. The cluster stays as it is until then. */
  compressLater?(cluster: Uint8Array, compressionType: number): Promise<Uint8Array>
}
