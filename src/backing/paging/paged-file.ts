/**
 * PagedFile makes an asynchronous file usable as a synchronous one. Reads copy from pages in memory, or throw `NotLoaded` if a page is
 * missing. Changes show at once, and reach the source through an ordered log.
 *
 * `sync` only marks a place in the log. Image formats order their writes by syncs, so the source always holds a state that a crash could
 * have left of a synchronous file, and is sound by the same argument. Only `stable` tells what is on stable storage: `AwaitedDisk` awaits
 * it before it answers a flush.
 */
import { type AsyncImageFile, NotLoaded } from "../async-image-file.ts"
import { BackingError, type DiskVersion, totalLength } from "../backing.ts"
import { joined } from "../bytes/buffers.ts"
import type { ImageFile, ImageLock, TakePiece } from "../image-file.ts"
import { type Change, endOf, refuseBeyond } from "./log/change.ts"
import { Demand } from "./demand.ts"
import { Flow } from "./flow.ts"
import { PageCache } from "./page-cache.ts"
import { changePages } from "./page-changes.ts"
import { PageLoader } from "./page-loader.ts"
import { CACHE_SIZE, LOG_SIZE, PAGE_SIZE, type PagedFileOptions } from "./paged-file-options.ts"
import { examineSource } from "./examine-source.ts"
import { sourceError } from "./source-error.ts"
import { WriteLog } from "./log/write-log.ts"

export class PagedFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  readonly lock: ImageLock
  readonly largestSize: number
  /** Present if the source has such a method. */
  readonly punchHole?: (offset: number, length: number) => boolean
  readonly zeroRange?: (offset: number, length: number) => boolean
  readonly #source: AsyncImageFile
  readonly #pageSize: number
  readonly #cache: PageCache
  readonly #loader: PageLoader
  readonly #demand: Demand
  readonly #flow: Flow
  readonly #log: WriteLog | undefined
  #size: number
  /** The source has no data from this byte on, now or after any waiting change, so there is nothing to load. */
  #end: number
  #isClosed = false
  #released: Promise<void> | undefined

  /** Asks the source for its size. @throws BackingError the source's error; TypeError when the source lacks a method */
  static async open(source: AsyncImageFile, options: PagedFileOptions = {}): Promise<PagedFile> {
    const readOnly = options.readOnly === true || source.readOnly
    return new PagedFile(source, await examineSource(source, { isWritten: !readOnly }), { ...options, readOnly })
  }

  private constructor(source: AsyncImageFile, size: number, options: PagedFileOptions) {
    const { readOnly = true, cacheSize = CACHE_SIZE, pageSize = PAGE_SIZE, logSize = LOG_SIZE } = options
    this.path = source.path
    this.readOnly = readOnly
    this.lock = source.lock ?? "none"
    this.largestSize = source.largestSize ?? Number.POSITIVE_INFINITY
    this.#source = source
    this.#size = size
    this.#end = size
    this.#pageSize = pageSize
    this.#cache = new PageCache({ pageSize, capacity: Math.max(1, Math.floor(cacheSize / pageSize)) })
    this.#log = this.readOnly ? undefined : new WriteLog({ source, size, mostBytes: logSize })
    this.#loader = new PageLoader({ source, cache: this.#cache, log: this.#log, size })
    this.#demand = new Demand({ cache: this.#cache, loader: this.#loader, preferredRead: source.preferredRead })
    this.#flow = new Flow({ source, demand: this.#demand, pageSize, size })
    if (this.readOnly) return
    if (source.punchHole !== undefined) this.punchHole = (offset, length) => this.#zero(offset, length, { frees: true })
    if (source.zeroRange !== undefined) this.zeroRange = (offset, length) => this.#zero(offset, length, { frees: false })
  }

  /** False once the source has declined to punch a hole. */
  get canPunchHole(): boolean {
    return this.#log?.zeroing.can(true) ?? false
  }

  get punchesAtOnce(): number {
    return this.#log?.zeroing.atOnce(true) ?? 0
  }

  get zeroesAtOnce(): number {
    return this.#log?.zeroing.atOnce(false) ?? 0
  }

  /** Bytes of memory of all pages. */
  get cachedBytes(): number {
    return this.#cache.bytes
  }

  version(): DiskVersion | undefined {
    return this.#source.version?.()
  }

  size(): number {
    this.#checkOpen()
    return this.#size
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.readInto(buffer, 0, buffer.length, offset)
  }

  /** @throws NotLoaded if a page is missing; then `buffer` may have been filled in part */
  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.#checkOpen()
    const count = Math.min(length, this.#size - offset)
    if (count <= 0) return 0
    if (count > this.#pageSize) this.#require(offset, offset + count)
    this.#copy(buffer, start, count, offset, offset + count)
    return count
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    this.#checkOpen()
    const count = Math.max(0, Math.min(totalLength(buffers), this.#size - offset))
    let done = 0
    if (buffers.length > 1 || count > this.#pageSize) this.#require(offset, offset + count)
    for (const buffer of buffers) {
      const part = Math.min(buffer.length, count - done)
      if (part > 0) this.#copy(buffer, 0, part, offset + done, offset + count)
      done += part
    }
    return done
  }

  /** See `Flow`. Only for a read-only file: otherwise the log may hold bytes that the source does not have yet. */
  readPast(offset: number, length: number, take: TakePiece): Promise<number> | undefined {
    this.#checkOpen()
    return this.#log === undefined ? this.#flow.read(offset, Math.min(length, this.#size - offset), take) : undefined
  }

  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    const log = this.#writable()
    if (length > 0) this.#change(log, { kind: "write", offset, data: buffer.slice(start, start + length) })
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    const log = this.#writable()
    const data = joined(buffers)
    if (data.length > 0) this.#change(log, { kind: "write", offset, data })
  }

  truncate(size: number): void {
    this.#change(this.#writable(), { kind: "truncate", size })
  }

  /** Marks a place in the log. @throws BackingError the first failure of a change, from then on */
  sync(): void {
    this.#checkOpen()
    this.#log?.sync()
  }

  /**
   * Orders two files, because this file refers to content of `data`. From now on, a sync of this file waits until everything that `data`
   * has synced is on stable storage, and a change of `data` waits until everything that this file has synced is.
   */
  refersTo(data: PagedFile): void {
    const log = this.#log
    let awaited: object | undefined
    log?.orderBy({ beforeSync: () => data.stable() })
    data.#log?.orderBy({
      beforeChange: () => {
        const last = log?.lastSync
        if (last === undefined || last === awaited) return undefined
        awaited = last
        return log?.stable()
      },
    })
  }

  /** Resolves when everything synced is on stable storage. Undefined if it is. Rejects with the first failure of a change. */
  stable(): Promise<void> | undefined {
    return this.#log?.stable()
  }

  /** Whether the log has room for more changes. */
  get hasRoom(): boolean {
    return this.#log?.hasRoom ?? true
  }

  /** Resolves when the caller should check `hasRoom` again. */
  async room(): Promise<void> {
    await this.#log?.room()
  }

  /** Written data is still handed to the source, which is then closed: see `released`. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#loader.close()
    this.#cache.clear()
    this.#released = this.#release()
    this.#released.catch(() => undefined)
  }

  /** Resolves when the closed file has been released. @throws BackingError the first failure of a change, or of closing */
  async released(): Promise<void> {
    await this.#released
  }

  async #release(): Promise<void> {
    try {
      await this.#log?.drained()
    } finally {
      try {
        await this.#source.close()
      } catch (error) {
        throw sourceError(error, "close it", this.path)
      }
    }
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new BackingError("closed", "the image is closed", { path: this.path })
  }

  #writable(): WriteLog {
    this.#checkOpen()
    if (this.#log !== undefined) return this.#log
    throw new BackingError("read-only", "the image is open read-only", { path: this.path })
  }

  // --- Reading ---

  /** Checks that all pages from `offset` up to `end` are in memory, before any is copied and counted as used. @throws NotLoaded */
  #require(offset: number, end: number): void {
    const last = Math.floor((Math.min(end, this.#end) - 1) / this.#pageSize)
    for (let index = Math.floor(offset / this.#pageSize); index <= last; index++) {
      if (!this.#cache.has(index)) throw this.#missing(index, Math.floor((end - 1) / this.#pageSize))
    }
  }

  /** Copies `length` bytes from `offset`. Missing pages are asked for up to `end`, the end of the whole call. */
  #copy(buffer: Uint8Array, start: number, length: number, offset: number, end: number): void {
    const pageSize = this.#pageSize
    for (let done = 0; done < length;) {
      const at = offset + done
      const index = Math.floor(at / pageSize)
      const within = at - index * pageSize
      const part = Math.min(pageSize - within, length - done)
      const page = this.#cache.get(index)
      if (page !== undefined) {
        page.used = true
        if (page.isMarker || page.isCompanion || page.passing !== undefined) {
          this.#demand.reached(page, this.#end, within + part === pageSize)
        }
        buffer.set(new Uint8Array(page.bytes.buffer, within, part), start + done)
      } else if (index * pageSize < this.#end) throw this.#missing(index, Math.floor((end - 1) / pageSize))
      else buffer.fill(0, start + done, start + done + part)
      done += part
    }
  }

  #missing(first: number, last: number): NotLoaded {
    let isPinned = false
    return new NotLoaded(
      async () => {
        this.#checkOpen()
        if (!isPinned) this.#cache.pin(first, last)
        isPinned = true
        await this.#demand.load(first, last, this.#end)
      },
      () => {
        if (isPinned) this.#cache.unpin(first, last)
        isPinned = false
      },
    )
  }

  // --- Changing ---

  #zero(offset: number, length: number, { frees }: { readonly frees: boolean }): boolean {
    const log = this.#writable()
    if (!log.zeroing.can(frees)) return false
    if (length > 0) this.#change(log, { kind: "zero", offset, length, frees })
    return true
  }

  /** The only place that changes content. The log comes first, because it may refuse the change. */
  #change(log: WriteLog, change: Change): void {
    refuseBeyond(this.largestSize, change, this.path)
    log.append(change)
    this.#loader.changed(change)
    changePages(this.#cache, change, { size: this.#size, end: this.#end })
    if (change.kind === "truncate") this.#size = change.size
    else if (change.kind === "write") {
      this.#size = Math.max(this.#size, endOf(change))
      this.#end = Math.max(this.#end, endOf(change))
    }
  }
}
