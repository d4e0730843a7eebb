/**
 * Companions: how many pages are read along with those that somebody asks for out of order. Where readers come back for the pages beside,
 * one request serves several reads; where they read at random, all that comes along is waste. So reads with companions have to be earned
 * by companions that somebody asked for later: each of those saved a request.
 */
import type { PageCache } from "./page-cache.ts"

/** Reads that may bring companions along before anybody has asked for one. */
const MOST_CREDIT = 16
/** Reads with companions that are earned by one that somebody asked for: a request to a server far away costs as much as several. */
const EARNED = 4
/** Of the cache, for one read. */
const MOST_SHARE = 1 / 4

export class Companions {
  /** In pages. */
  readonly #preferred: number
  readonly #cache: PageCache
  /** Reads that may bring companions along. */
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

  /** Somebody has asked for a page that came along with others. */
  earn(): void {
    this.#credit = Math.min(MOST_CREDIT, this.#credit + EARNED)
  }

  /** Whether a page is in memory that would have brought `first` along: then companions would have saved this request. */
  #isNear(first: number): boolean {
    for (let index = first - 1; index > first - this.#preferred; index--) {
      if (this.#cache.has(index)) return true
    }
    return false
  }
}
