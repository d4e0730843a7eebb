/**
 * PageCache: the pages of a file that are in memory. Every page in it holds what the file holds now, changes that the source has not
 * answered included; a page may be dropped at any time, for what it loses the source and the write log have.
 */

/** One page. What lies past the end of the file is zero. */
export interface Page {
  readonly index: number
  /** Nothing once the page has been dropped. */
  bytes: Uint8Array
  /** Read or written since the clock's hand last came by. */
  used: boolean
  /** The first page that was read ahead: whoever comes here has the next ones read. */
  isMarker: boolean
  /** It came along with pages that somebody asked for, and nobody has asked for it yet. */
  isCompanion: boolean
  /** Set where it was read ahead for somebody who reads much in order: who is to come past it, or has, and nobody has used it since. */
  passing: "ahead" | "behind" | undefined
  /** Place in the clock's list. */
  slot: number
}

/** Bytes of dropped pages that are kept for the next ones, as many as one long read brings, and their share of the cache. */
const MOST_SPARE = 4 << 20
const SHARE_SPARE = 1 / 4
/** Bytes of passed pages that are not dropped before others, and their share of the cache: an operation may come back for them. */
const MOST_RECENT = 2 << 20
const SHARE_RECENT = 1 / 16

const NOTHING = new Uint8Array(0)

export class PageCache {
  readonly pageSize: number
  readonly #capacity: number
  readonly #mostSpare: number
  readonly #mostRecent: number
  readonly #pages = new Map<number, Page>()
  readonly #clock: Page[] = []
  #hand = 0
  /** How many operations need a page, by its index, whether it is here or not. */
  readonly #pins = new Map<number, number>()
  readonly #spare: Uint8Array[] = []
  /** Pages that were passed just now, and those that were passed before, in order. A page may have been dropped since, or used again. */
  readonly #recent: Page[] = []
  readonly #passed: Page[] = []

  /** `capacity` in pages. Pages that operations need are kept beyond it. */
  constructor(options: { readonly pageSize: number; readonly capacity: number }) {
    this.pageSize = options.pageSize
    this.#capacity = options.capacity
    this.#mostSpare = Math.ceil(Math.min(options.capacity * SHARE_SPARE, MOST_SPARE / options.pageSize))
    this.#mostRecent = Math.ceil(Math.min(options.capacity * SHARE_RECENT, MOST_RECENT / options.pageSize))
  }

  /** Bytes of memory that pages take up. */
  get bytes(): number {
    return (this.#pages.size + this.#spare.length) * this.pageSize
  }

  get capacity(): number {
    return this.#capacity
  }

  get(index: number): Page | undefined {
    return this.#pages.get(index)
  }

  has(index: number): boolean {
    return this.#pages.has(index)
  }

  /** A buffer for a page, with anything in it. */
  takeBuffer(): Uint8Array {
    return this.#spare.pop() ?? new Uint8Array(this.pageSize)
  }

  /** Takes a buffer from `takeBuffer` back. */
  giveBuffer(bytes: Uint8Array): void {
    if (this.#spare.length < this.#mostSpare) this.#spare.push(bytes)
  }

  /** Adds a page that is not here; others make room. `bytes` belongs to the page from then on. */
  add(index: number, bytes: Uint8Array): Page {
    while (this.#pages.size >= this.#capacity && this.#evict()) continue
    const page: Page = { index, bytes, used: true, isMarker: false, isCompanion: false, passing: undefined, slot: this.#clock.length }
    this.#pages.set(index, page)
    this.#clock.push(page)
    return page
  }

  remove(page: Page): void {
    this.#pages.delete(page.index)
    const last = this.#clock.pop()
    if (last !== undefined && last !== page) {
      this.#clock[page.slot] = last
      last.slot = page.slot
    }
    this.giveBuffer(page.bytes)
    page.bytes = NOTHING
  }

  clear(): void {
    this.#pages.clear()
    this.#clock.length = 0
    this.#spare.length = 0
    this.#recent.length = 0
    this.#passed.length = 0
  }

  /**
   * Somebody who reads much in order has come past `page`: it is dropped before the pages of others, and the latest first. So whoever reads
   * a whole disk leaves the others' pages alone, and goes round in few MiB, which the processor's caches hold: a fifth less of its time.
   */
  passed(page: Page): void {
    page.passing = "behind"
    this.#recent.push(page)
    const last = this.#recent.length > this.#mostRecent ? this.#recent.shift() : undefined
    if (last !== undefined && this.#passed.length < this.#capacity) this.#passed.push(last)
  }

  /** The pages in `first` .. `last` that are here, in no order. */
  *within(first: number, last: number): Generator<Page> {
    // A range may span millions of pages that are not here.
    if (last - first < this.#pages.size) {
      for (let index = first; index <= last; index++) {
        const page = this.#pages.get(index)
        if (page !== undefined) yield page
      }
      return
    }
    for (const page of [...this.#clock]) if (page.index >= first && page.index <= last) yield page
  }

  /** Keeps the pages `first` .. `last` once they are here, until `unpin` is called as often. */
  pin(first: number, last: number): void {
    for (let index = first; index <= last; index++) this.#pins.set(index, (this.#pins.get(index) ?? 0) + 1)
  }

  unpin(first: number, last: number): void {
    for (let index = first; index <= last; index++) {
      const count = this.#pins.get(index) ?? 0
      if (count > 1) this.#pins.set(index, count - 1)
      else this.#pins.delete(index)
    }
    while (this.#pages.size > this.#capacity && this.#evict()) continue
  }

  /** Drops one page that nobody needs and nobody has used for a while. Returns false when every page is needed. */
  #evict(): boolean {
    for (let page = this.#passed.pop(); page !== undefined; page = this.#passed.pop()) {
      if (page.passing !== "behind" || this.#pins.has(page.index) || this.#pages.get(page.index) !== page) continue
      this.remove(page)
      return true
    }
    // Twice round: the first time takes the marks of use away.
    for (let steps = this.#clock.length * 2; steps > 0; steps--) {
      if (this.#hand >= this.#clock.length) this.#hand = 0
      const page = this.#clock[this.#hand]
      if (page === undefined) return false
      if (!page.used && !this.#pins.has(page.index)) {
        this.remove(page)
        // The newest page took its place: the hand comes to it last.
        this.#hand++
        return true
      }
      page.used = false
      this.#hand++
    }
    return false
  }
}
