/** Demand decides what to read from a source when pages are needed: those pages, companions, and pages read ahead. */
import { Companions } from "./companions.ts"
import type { Page, PageCache } from "./page-cache.ts"
import type { PageLoader } from "./page-loader.ts"
import { type FlowReader, ReadAhead } from "./read-ahead.ts"

/** Bytes of one read, if the source has no `preferredRead`. */
const PREFERRED_READ = 1 << 16
/** Most bytes to read ahead, and their largest share of the cache. */
const MOST_AHEAD = 4 << 20
const SHARE_AHEAD = 1 / 4
/** A reader that has read this share of the cache's size in order is likely to go on, and would evict the pages of all others. */
const SHARE_LONG = 1 / 8

export interface DemandOptions {
  readonly cache: PageCache
  readonly loader: PageLoader
  /** Bytes that one read of the source should have at least. */
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

  /** Loads the pages `first` .. `last`, some of which are missing. The source has no data from byte `end` on. @throws BackingError */
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

  /** A reader has reached `page`, which is a marker, a companion, or read ahead for a long reader. `isPast`: it has read the whole page. */
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
