/** DecompressedCache: the clusters that were decompressed last, for a guest reads one in many pieces. */

/** Bytes that are kept, but at least one cluster. */
const DECOMPRESSED_BYTES = 1024 * 1024

interface Decompressed {
  readonly stored: number
  readonly bytes: Uint8Array
}

export class DecompressedCache {
  /** By the host byte of the stored data; the latest last. */
  readonly #clusters = new Map<number, Decompressed>()
  readonly #most: number = 0

  constructor(clusterSize: number) {
    this.#most = Math.max(1, DECOMPRESSED_BYTES / clusterSize)
  }

  /**
   * The cluster whose `stored` bytes at `host` were decompressed. Such bytes are only written again, after they were freed, as another
   * compressed cluster, which is told by `forget`; so their place identifies the content.
   */
  get(host: number, stored: number): Uint8Array | undefined {
    const found = this.#clusters.get(host)
    if (found?.stored !== stored) return undefined
    if (this.#clusters.size > 1) {
      this.#clusters.delete(host)
      this.#clusters.set(host, found)
    }
    return found.bytes
  }

  /** Another compressed cluster begins at `host` now. */
  forget(host: number): void {
    this.#clusters.delete(host)
  }

  put(host: number, stored: number, bytes: Uint8Array): void {
    this.#clusters.delete(host)
    const [oldest] = this.#clusters.keys()
    if (oldest !== undefined && this.#clusters.size >= this.#most) this.#clusters.delete(oldest)
    this.#clusters.set(host, { stored, bytes })
  }
}
