/** The interface through which an image decompresses and compresses clusters. */

/** Decompresses clusters of the types in `COMPRESSION_TYPE`, and compresses them if the platform can. [QCOW2] "Cluster mapping" */
export interface Decompressor {
  /**
   * Returns the first `clusterSize` decompressed bytes of `stored`; ignores bytes after the stream.
   * @throws DecompressionError that describes the fault in `stored`
   */
  decompress(stored: Uint8Array, clusterSize: number, compressionType: number): Uint8Array
  /**
   * Returns a raw deflate stream with a window of 4 KiB (QC-CMP-05), or a zstd frame. It may be longer than the cluster, which is then
   * stored uncompressed. Left out if the platform cannot compress.
   * @throws BackingError `unsupported` for a type that this platform only reads
   */
  compress?(cluster: Uint8Array, compressionType: number): Uint8Array
  /**
   * `compress` on another thread, if the platform has threads. Several calls may overlap. The caller does not change `cluster` until the
   * promise settles.
   */
  compressLater?(cluster: Uint8Array, compressionType: number): Promise<Uint8Array>
}
