/** Demand: what is read of a source when somebody needs pages of it: those, the ones that come along, and what is read ahead. */
import { Companions } from "./companions.ts"
import type { Page, PageCache } from "./page-cache.ts"
import type { PageLoader } from "./page-loader.ts"
import { type FlowReader, ReadAhead } from "./read-ahead.ts"

/** Bytes of one read, where the source does not say what it prefers. */
const PREFERRED_READ = 1 << 16
/** Bytes that are read ahead at most, and their share of the cache. */
const MOST_AHEAD = 4 << 20
const SHARE_AHEAD = 1 / 4
/** Whoever has read so much of the cache's size in order is likely to read on, and would push everybody else's pages out. */
const SHARE_LONG = 1 / 8

export interface DemandOptions {
  readonly cache: PageCache
  readonly loader: PageLoader
  /** Bytes that the source likes to be asked for at least. */
  readonly preferredRead: number | undefined
}

export class Demand {
  readonly #cache: PageCache
  readonly #loader: PageLoader
  readonly #companions: Companions
  readonly #readAhead: ReadAhead

  constructor({ cache, loader, preferredRead = PREFERRED_READ }: DemandOptions) {
    this.#loader = loader
    this.#companions = new Companions(preferredRead, cache)
    const most = Math.floor(Math.min(MOST_AHEAD / cache.pageSize, cache.capacity * SHARE_AHEAD))
    this.#cache = cache
    this.#readAhead = new ReadAhead(most, cache.capacity * SHARE_LONG)
    loader.onPage = (page) => {
      page.isMarker = this.#readAhead.isMarker(page.index)
    }
  }

  /** Loads the pages `first` .. `last`, not all of which are here. The source has nothing from byte `end` on. @throws BackingError */
  load(first: number, last: number, end: number): Promise<void> {
    const isOnItsWay = this.#loader.isLoading(first)
    const stop = isOnItsWay ? last : this.#companions.stop(first, last)
    const ahead = isOnItsWay ? this.#readAhead.reached(first, stop) : this.#readAhead.missed(first, stop)
    const loading = this.#loader.load(first, last, { stop, end })
    if (ahead !== undefined) this.#loader.loadAhead(ahead, end)
    return loading
  }

  /** A reader can use the source's stream: see `ReadAhead.flows`. */
  flows(reader: FlowReader): void {
    this.#readAhead.flows(reader)
  }

  /** Somebody has come to `page`, which is a marker, came along or is for somebody who reads in order; `isPast`: and has read all of it. */
  reached(page: Page, end: number, isPast: boolean): void {
    if (page.isCompanion) this.#companions.earn()
    const ahead = page.isMarker ? this.#readAhead.reached(page.index) : undefined
    if (ahead !== undefined) this.#loader.loadAhead(ahead, end)
    page.isCompanion = false
    page.isMarker = false
    if (page.passing === "behind") page.passing = undefined
    else if (page.passing === "ahead" && isPast) this.#cache.passed(page)
  }
}
