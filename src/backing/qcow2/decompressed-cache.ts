/** DecompressedCache: the clusters that were decompressed last, because a guest reads a cluster in many pieces. */

/** Bytes to keep; at least one cluster is kept. */
const DECOMPRESSED_BYTES = 1024 * 1024

interface Decompressed {
  readonly stored: number
  readonly bytes: Uint8Array
}

export class DecompressedCache {
  /** Keys are host bytes of the stored data; the most recent comes last. */
  readonly #clusters = new Map<number, Decompressed>()
  readonly #most: number = 0

  constructor(clusterSize: number) {
    this.#most = Math.max(1, DECOMPRESSED_BYTES / clusterSize)
  }

  /**
   * The cluster whose `stored` bytes at `host` were decompressed. Its offset identifies the content: freed bytes become compressed data
   * again only through another compressed cluster, and `forget` reports that one.
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

  /** Drops the cluster at `host`, because another compressed cluster begins there now. */
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
