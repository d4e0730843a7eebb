/**
 * Companions decides how many extra pages to read along with pages that are needed out of order. If readers need the neighbouring pages
 * later, one request serves several reads; if they read at random, companions are waste. So reads with companions have to be earned by
 * earlier companions that were used: each of those saved a request.
 */
import type { PageCache } from "./page-cache.ts"

/** Reads that may bring companions before any has been used. */
const MOST_CREDIT = 16
/** Reads with companions that one used companion earns: it saved a request, and a request to a distant server costs as much as several. */
const EARNED = 4
/** Share of the cache for one read. */
const MOST_SHARE = 1 / 4

export class Companions {
  /** Pages that one read should have at least. */
  readonly #preferred: number
  readonly #cache: PageCache
  /** Reads that may still bring companions. */
  #credit = MOST_CREDIT

  /** `preferred`: bytes that one read should have at least. */
  constructor(preferred: number, cache: PageCache) {
    this.#preferred = Math.ceil(Math.min(preferred / cache.pageSize, cache.capacity * MOST_SHARE))
    this.#cache = cache
  }

  /** The pages `first` .. `last` are missing. Returns the last page to read with them. */
  stop(first: number, last: number): number {
    const preferred = first + this.#preferred - 1
    if (preferred <= last) return last
    if (this.#credit === 0 && this.#isNear(first)) this.earn()
    if (this.#credit === 0) return last
    this.#credit--
    return preferred
  }

  /** A companion has been used. */
  earn(): void {
    this.#credit = Math.min(MOST_CREDIT, this.#credit + EARNED)
  }

  /** Whether a page in memory would have brought `first` as a companion, which would have saved this request. */
  #isNear(first: number): boolean {
    for (let index = first - 1; index > first - this.#preferred; index--) {
      if (this.#cache.has(index)) return true
    }
    return false
  }
}
