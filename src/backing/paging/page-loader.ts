/**
 * PageLoader gets pages from the source. One read brings adjacent missing pages, no page is read twice at a time, and few reads run in
 * parallel. Changes that were made since a read began, or were incomplete then, are applied to its answer before anybody sees it.
 */
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError } from "../backing.ts"
import { cut, fillZeroFrom, scatter } from "../bytes/buffers.ts"
import { applyChange, type Change, memoryOf, overlaps } from "./log/change.ts"
import type { Page, PageCache } from "./page-cache.ts"
import type { Ahead } from "./read-ahead.ts"
import { sourceError } from "./source-error.ts"
import type { WriteLog } from "./log/write-log.ts"

/** One read of the source, for the pages `first` .. `end - 1`. */
interface Load {
  readonly first: number
  readonly end: number
  /** Pages from here on are companions, which nobody has asked for. */
  companions: number
  /** For a long sequential reader. */
  isPassing: boolean
  /** Bytes to ask for. */
  readonly length: number
  /** The changes to apply to the answer, oldest first. */
  readonly changes: Change[]
  /** Bytes of memory of these changes, which the log may have dropped. */
  held: number
  /** The size of the file in the source when the load began. */
  readonly storedSize: number
  /** Somebody waits for it. */
  isUrgent: boolean
  /** Resolves to the failure, and never rejects, because nobody may be waiting. */
  readonly promise: Promise<BackingError | undefined>
  readonly settle: (failure: BackingError | undefined) => void
}

export interface PageLoaderOptions {
  readonly source: AsyncImageFile
  readonly cache: PageCache
  /** Undefined for a read-only file. */
  readonly log: WriteLog | undefined
  /** Bytes of the file in the source. */
  readonly size: number
}

/** Most reads of the source in progress at a time. */
const PARALLEL = 8
/** Most bytes of one read, unless the source prefers longer ones. A request over HTTP costs about as much as 1 MiB of its answer. */
const MOST_READ = 4 << 20
/** Nothing more is read ahead while this many reads wait. Reads that somebody waits for always go first. */
const MOST_WAITING = 16
/** Joint buffers to keep for the next reads. */
const MOST_SPARE = 4

const ignore = (): void => undefined

export class PageLoader {
  readonly #source: AsyncImageFile
  readonly #cache: PageCache
  readonly #log: WriteLog | undefined
  readonly #size: number
  readonly #mostPages: number
  /** By page index. */
  readonly #loads = new Map<number, Load>()
  /** Loads whose read has not begun. */
  readonly #queue: Load[] = []
  /** Joint buffers, for sources without `readScattered`. Allocating one costs as much as the copy. */
  readonly #spare: Uint8Array[] = []
  #reading = 0
  #isClosed = false
  /** Called with each page that arrives. */
  onPage: (page: Page) => void = () => undefined

  constructor(options: PageLoaderOptions) {
    this.#source = options.source
    this.#cache = options.cache
    this.#log = options.log
    this.#size = options.size
    this.#mostPages = Math.max(1, Math.ceil(Math.max(MOST_READ, this.#source.preferredRead ?? 0) / this.#cache.pageSize))
  }

  /**
   * Gets the missing pages of `first` .. `last`, and with the same reads those up to `stop`. The source has no data from byte `end` on.
   * @throws BackingError
   */
  async load(first: number, last: number, { stop, end }: { readonly stop: number; readonly end: number }): Promise<void> {
    const loads = this.#begin(first, stop, end, last + 1)
    while ((loads.at(-1)?.first ?? 0) > last) loads.pop()
    let failure = await this.#outcome(loads)
    // If only a page beyond the needed ones failed, read the needed ones alone.
    const isBeside = failure !== undefined && !this.#isClosed && loads.some((load) => load.first < first || load.end > last + 1)
    if (isBeside) failure = await this.#outcome(this.#begin(first, last, end))
    if (failure !== undefined) throw failure
  }

  /** Resolves when all loads have arrived, or to the first failure without waiting for the others. */
  #outcome(loads: readonly Load[]): Promise<BackingError | undefined> {
    for (const load of loads) load.isUrgent = true
    this.#pump()
    let left = loads.length
    return new Promise((resolve) => {
      if (left === 0) resolve(undefined)
      for (const { promise } of loads) {
        void promise.then((failure) => {
          left--
          if (failure !== undefined || left === 0) resolve(failure)
        })
      }
    })
  }

  /**
   * `load` for pages that nobody waits for yet. Does nothing if many reads wait. Does not report failures: a reader that needs the page
   * reads it again.
   */
  loadAhead(ahead: Ahead, end: number): void {
    if (this.#queue.length >= MOST_WAITING) return
    const fresh = this.#begin(ahead.first, ahead.end - 1, end)
    if (ahead.isPassing) for (const load of fresh) load.isPassing = true
    this.#pump()
  }

  isLoading(index: number): boolean {
    return this.#loads.has(index)
  }

  /** A change has been logged. */
  changed(change: Change): void {
    let previous: Load | undefined
    for (const load of this.#loads.values()) {
      if (load === previous) continue
      previous = load
      if (overlaps(change, load.first * this.#cache.pageSize, load.end * this.#cache.pageSize)) this.#keep(load, change)
    }
  }

  /** A source may write fast and read slowly, so the log's limit also counts the changes that are kept here. */
  #keep(load: Load, change: Change): void {
    const bytes = memoryOf(change)
    load.changes.push(change)
    load.held += bytes
    this.#log?.hold(bytes)
  }

  /** Drops everything that arrives from now on. */
  close(): void {
    this.#isClosed = true
    this.#spare.length = 0
    for (const load of this.#queue.splice(0)) this.#end(load, this.#closed())
  }

  /**
   * The loads that bring the pages, in order, with new loads for pages that are missing and not being read. Pages from `companions` on are
   * companions.
   */
  #begin(first: number, last: number, end: number, companions = Number.POSITIVE_INFINITY): Load[] {
    const loads: Load[] = []
    const { pageSize } = this.#cache
    for (let index = first; index <= last && index * pageSize < end; index++) {
      const known = this.#loads.get(index)
      if (known !== undefined && known !== loads.at(-1)) loads.push(known)
      if (known !== undefined || this.#cache.has(index)) continue
      let stop = index + 1
      while (
        stop <= last && stop - index < this.#mostPages && stop * pageSize < end && !this.#loads.has(stop) && !this.#cache.has(stop)
      ) stop++
      const load = this.#queueLoad(index, stop, Math.min(stop * pageSize, end) - index * pageSize)
      load.companions = companions
      loads.push(load)
      index = stop - 1
    }
    return loads
  }

  #queueLoad(first: number, end: number, length: number): Load {
    const { pageSize } = this.#cache
    let settle: Load["settle"] = ignore
    const promise = new Promise<BackingError | undefined>((resolve) => (settle = resolve))
    const storedSize = this.#log?.storedSize ?? this.#size
    const load: Load = {
      first,
      end,
      companions: end,
      isPassing: false,
      length,
      changes: [],
      held: 0,
      storedSize,
      isUrgent: false,
      promise,
      settle,
    }
    for (const change of this.#log?.pending ?? []) {
      if (overlaps(change, first * pageSize, end * pageSize)) this.#keep(load, change)
    }
    for (let index = first; index < end; index++) this.#loads.set(index, load)
    this.#queue.push(load)
    return load
  }

  #pump(): void {
    while (this.#reading < PARALLEL && this.#queue.length > 0) {
      const urgent = this.#queue.findIndex(({ isUrgent }) => isUrgent)
      const [load] = this.#queue.splice(Math.max(urgent, 0), 1)
      if (load === undefined) return
      this.#reading++
      void this.#read(load)
    }
  }

  async #read(load: Load): Promise<void> {
    const offset = load.first * this.#cache.pageSize
    let failure: BackingError | undefined
    const pages: Uint8Array[] = []
    try {
      const count = await this.#fetch(load, offset, pages)
      failure = this.#isClosed ? this.#closed() : this.#shortfall(load, count)
      if (failure === undefined) fillZeroFrom(pages, count)
    } catch (error) {
      // The source may still write into these buffers, so they are not reused.
      failure = sourceError(error, `read ${load.length} bytes`, this.#source.path, offset)
    }
    this.#reading--
    if (failure === undefined) this.#arrived(load, pages)
    this.#end(load, failure)
    this.#pump()
  }

  /** Puts the load's pages into `pages`. Resolves to the number of bytes that the source claims to have read. */
  #fetch({ first, end, length }: Load, offset: number, pages: Uint8Array[]): Promise<number> {
    const source = this.#source
    if (end - first === 1) {
      const page = this.#cache.takeBuffer()
      pages.push(page)
      return source.read(length < page.length ? page.subarray(0, length) : page, offset)
    }
    if (source.readScattered === undefined) return this.#fetchJoint(end - first, length, offset, pages)
    this.#takePages(end - first, pages)
    return source.readScattered(cut(pages, length), offset)
  }

  async #fetchJoint(count: number, length: number, offset: number, pages: Uint8Array[]): Promise<number> {
    const joint = this.#spare.pop() ?? new Uint8Array(this.#mostPages * this.#cache.pageSize)
    const done = await this.#source.read(joint.subarray(0, length), offset)
    this.#takePages(count, pages)
    scatter(joint, 0, pages)
    if (this.#spare.length < MOST_SPARE && !this.#isClosed) this.#spare.push(joint)
    return done
  }

  #takePages(count: number, pages: Uint8Array[]): void {
    for (let left = count; left > 0; left--) pages.push(this.#cache.takeBuffer())
  }

  #end(load: Load, failure?: BackingError): void {
    for (let index = load.first; index < load.end; index++) this.#loads.delete(index)
    this.#log?.letGo(load.held)
    load.settle(failure)
  }

  /** The error of a read that ends too early. If we have not cut the file, somebody else has, and zeroes would be wrong. */
  #shortfall({ first, length, changes, storedSize }: Load, count: number): BackingError | undefined {
    const { path } = this.#source
    const offset = first * this.#cache.pageSize
    if (!Number.isSafeInteger(count) || count < 0 || count > length) {
      return new BackingError("io", `its source says that it has read ${String(count)} bytes of ${length}`, { path, offset })
    }
    const size = changes.reduce((least, change) => (change.kind === "truncate" ? Math.min(least, change.size) : least), storedSize)
    if (count >= Math.min(length, size - offset)) return undefined
    const message = `the file ends at byte ${offset + count}, but had ${size} bytes: somebody has cut it while it was open`
    return new BackingError("io", message, { path, offset: offset + count })
  }

  #arrived(load: Load, pages: readonly Uint8Array[]): void {
    const { pageSize } = this.#cache
    for (const [at, bytes] of pages.entries()) {
      const index = load.first + at
      // A write has filled the page meanwhile, so that one is newer.
      if (this.#cache.has(index)) {
        this.#cache.giveBuffer(bytes)
        continue
      }
      for (const change of load.changes) applyChange(change, bytes, index * pageSize)
      const page = this.#cache.add(index, bytes)
      page.isCompanion = index >= load.companions
      if (load.isPassing) page.passing = "ahead"
      this.onPage(page)
    }
  }

  #closed(): BackingError {
    return new BackingError("closed", "the file is closed", { path: this.#source.path })
  }
}
