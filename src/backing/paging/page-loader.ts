/**
 * PageLoader: gets pages from the source. Pages that are missing side by side come with one read, a page that is on its way already is not
 * read twice, and few reads are under way at a time. A read answers late, so what has been changed since it began, or had not been
 * answered then, is done to its answer before anybody sees it.
 */
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError } from "../backing.ts"
import { cut, fillZeroFrom, scatter } from "../buffers.ts"
import { applyChange, type Change, memoryOf, overlaps } from "./log/change.ts"
import type { Page, PageCache } from "./page-cache.ts"
import type { Ahead } from "./read-ahead.ts"
import { sourceError } from "./source-error.ts"
import type { WriteLog } from "./log/write-log.ts"

/** One read of the source, for the pages `first` .. `end - 1`. */
interface Load {
  readonly first: number
  readonly end: number
  /** Those from here on were to come along: nobody has asked for them. */
  companions: number
  /** For somebody who has read much in order. */
  isPassing: boolean
  /** Bytes to ask for. */
  readonly length: number
  /** The changes to do to the answer, oldest first. */
  readonly changes: Change[]
  /** Bytes of memory that they take up: the log may have forgotten them. */
  held: number
  /** The size of the file in the source when the load began. */
  readonly storedSize: number
  /** Somebody waits for it. */
  isUrgent: boolean
  /** Resolves to what has gone wrong: nobody may wait for it. */
  readonly promise: Promise<BackingError | undefined>
  readonly settle: (failure: BackingError | undefined) => void
}

export interface PageLoaderOptions {
  readonly source: AsyncImageFile
  readonly cache: PageCache
  /** Undefined for a file that nobody changes. */
  readonly log: WriteLog | undefined
  /** Of the file in the source. */
  readonly size: number
}

/** Reads that the source is asked for at a time. */
const PARALLEL = 8
/** Bytes of one read, unless the source prefers longer ones. A request over HTTP costs about as much as 1 MiB of its answer. */
const MOST_READ = 4 << 20
/** Reads that may wait for their turn before nothing more is read ahead: what somebody waits for goes first, always. */
const MOST_WAITING = 16
/** Joint buffers that are kept for the next reads. */
const MOST_SPARE = 4

const ignore = (): void => undefined

export class PageLoader {
  readonly #source: AsyncImageFile
  readonly #cache: PageCache
  readonly #log: WriteLog | undefined
  readonly #size: number
  readonly #mostPages: number
  /** By page. */
  readonly #loads = new Map<number, Load>()
  /** Loads whose read has not begun. */
  readonly #queue: Load[] = []
  /** Joint buffers, for sources that cannot fill several: a fresh one costs as much as the copy. */
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
   * Gets those of the pages `first` .. `last` that are missing, and with the same reads those up to `stop`. `end` is the first byte that
   * need not be asked for: the source has nothing from there on. @throws BackingError
   */
  async load(first: number, last: number, { stop, end }: { readonly stop: number; readonly end: number }): Promise<void> {
    const loads = this.#begin(first, stop, end, last + 1)
    while ((loads.at(-1)?.first ?? 0) > last) loads.pop()
    let failure = await this.#outcome(loads)
    // What failed may lie beside what is needed.
    const isBeside = failure !== undefined && loads.some((load) => load.first < first || load.end > last + 1)
    if (isBeside) failure = await this.#outcome(this.#begin(first, last, end))
    if (failure !== undefined) throw failure
  }

  /** Resolves when all have arrived, or to the first failure, whatever becomes of the others then. */
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
   * `load` for pages that nobody waits for yet; does nothing when much waits. A failure is not told: whoever needs the page then meets it.
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

  /** A source may be quick to write and slow to read, so the log makes writers wait for what is kept here too. */
  #keep(load: Load, change: Change): void {
    const bytes = memoryOf(change)
    load.changes.push(change)
    load.held += bytes
    this.#log?.hold(bytes)
  }

  /** What arrives from now on is dropped. */
  close(): void {
    this.#isClosed = true
    this.#spare.length = 0
    for (const load of this.#queue.splice(0)) this.#end(load, this.#closed())
  }

  /**
   * The loads that bring the pages, in order: new ones for those that are missing and not on their way. From `companions` on they come
   * along.
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
      // The source may still be at work on the pages: they are not used again.
      failure = sourceError(error, `read ${load.length} bytes`, this.#source.path, offset)
    }
    this.#reading--
    if (failure === undefined) this.#arrived(load, pages)
    this.#end(load, failure)
    this.#pump()
  }

  /** Puts the load's pages into `pages`. Resolves to how many bytes the source says it has read. */
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

  /** A file that is shorter than it was is not padded with zeroes, unless we have cut it. */
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
      // A page that a write has filled meanwhile is newer.
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
