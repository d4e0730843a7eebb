/**
 * AwaitedDisk turns a synchronous disk over asynchronous files into an asynchronous disk. It calls the disk; if the disk throws
 * `NotLoaded`, it loads the missing pages and repeats the call.
 *
 * Each call is one synchronous step, and a call that throws leaves nothing to undo, so operations may take turns in any order: concurrent
 * operations are unordered, as on any disk. Pages loaded for an operation stay in memory until it ends, so every repetition gets further,
 * however small the cache is.
 */
import { closesWithBlock } from "../../disposing.ts"
import { NotLoaded } from "../async-image-file.ts"
import { type Allocation, BackingError, checkRange, type DiskVersion, type VirtioBacking } from "../backing.ts"
import { transfer } from "../bytes/buffers.ts"
import type { ImageLock } from "../image-file.ts"
import type { MapExtent } from "../qcow2/map-extents.ts"
import type { BitmapActions } from "../qcow2/bitmaps/bitmaps.ts"
import type { SnapshotActions } from "../qcow2/snapshots/snapshots.ts"
import { Admission } from "./admission.ts"
import { lateBitmaps, type LateFile, lateSnapshots, type LoadingDisk, readPast, release } from "./loading-disk.ts"
import { type LongRange, part, pieces } from "./pieces.ts"
import { untilLoaded, type Waits } from "./until-loaded.ts"

/** Longer reads and writes are cut into pieces of this many bytes, because all pages of a piece are in memory at the same time. */
const PIECE = 1 << 20
/** Bytes that all operations waiting for pages may hold in memory, and the bytes counted for each besides its data. */
const MOST_HELD = 24 << 20
const HELD_BESIDE = 256 << 10
/** The default of `zeroesAtOnce`, as in `VirtioBacking`. */
const ZEROES_AT_ONCE = 16 << 20

/** Whether an operation changes the disk, and so waits for room in the log. */
export type Kind = "reads" | "changes"

export class AwaitedDisk implements VirtioBacking {
  static { closesWithBlock(this, "later") }
  readonly asynchronous = true
  readonly readOnly: boolean
  readonly flush?: () => void | Promise<void>
  readonly discard?: (offset: number, length: number) => void | Promise<void>
  readonly writeZeroes?: (offset: number, length: number, mayUnmap: boolean) => void | Promise<void>
  readonly allocation?: (offset: number, length: number) => Allocation | Promise<Allocation>
  /** The places of a range's bytes in the files. Only if the disk can tell. */
  readonly map?: (offset: number, length: number) => Promise<readonly MapExtent[]>
  readonly resize?: (size: number, options?: { readonly shrink?: boolean }) => void | Promise<void>
  /** For a qcow2 image. */
  readonly snapshots?: SnapshotActions
  readonly bitmaps?: BitmapActions
  readonly #disk: LoadingDisk
  readonly #files: readonly LateFile[]
  readonly #admission = new Admission(MOST_HELD)
  /** A function for each waiting operation that rejects it when the disk is closed. */
  readonly #waiting = new Set<(error: BackingError) => void>()
  readonly #underWay = new Set<Promise<unknown>>()
  readonly #waits: Readonly<Record<Kind, Waits>>
  readonly #retired: { close(): void }[] = []
  #isClosed = false
  #closing: Promise<void> | undefined

  /** Owns `disk` and `files`, all of the late files that `disk` uses. */
  constructor(disk: LoadingDisk, files: readonly LateFile[]) {
    this.#disk = disk
    this.#files = files
    this.readOnly = disk.readOnly
    const waits = (kind: Kind): Waits => ({ before: () => this.#mayAttempt(kind), load: (one) => this.#unlessClosed(one.load()) })
    this.#waits = { reads: waits("reads"), changes: waits("changes") }
    const { flush, discard, writeZeroes, allocation, map, resize, snapshots, bitmaps } = disk
    if (resize !== undefined) this.resize = (size, options) => this.#run("changes", 0, () => resize.call(disk, size, options))
    if (snapshots !== undefined) this.snapshots = lateSnapshots(snapshots, (kind, attempt) => this.#run(kind, 0, attempt))
    if (bitmaps !== undefined) this.bitmaps = lateBitmaps(bitmaps, (kind, attempt) => this.#run(kind, 0, attempt))
    if (allocation !== undefined) this.allocation = (offset, length) => this.#run("reads", 0, () => allocation.call(disk, offset, length))
    if (map !== undefined) this.map = async (offset, length) => await this.#run("reads", 0, () => [...map.call(disk, offset, length)])
    if (flush !== undefined) this.flush = () => this.#flush()
    if (discard !== undefined) {
      this.discard = (offset, length) => {
        return this.#inPieces("changes", { offset, length, most: this.unmapsAtOnce }, (at, count) => void disk.discard?.(at, count))
      }
    }
    if (writeZeroes !== undefined) {
      this.writeZeroes = (offset, length, mayUnmap) => {
        const most = mayUnmap ? this.unmapsAtOnce : this.zeroesAtOnce
        return this.#inPieces("changes", { offset, length, most }, (at, count) => void disk.writeZeroes?.(at, count, mayUnmap))
      }
    }
  }

  get size(): number {
    return this.#disk.size
  }

  version(): DiskVersion | undefined {
    return this.#disk.version?.()
  }

  get path(): string | undefined {
    return this.#disk.path
  }

  get lock(): ImageLock {
    return this.#disk.lock ?? "none"
  }

  get discardGranularity(): number {
    return this.#disk.discardGranularity ?? 512
  }

  get zeroesAtOnce(): number {
    return this.#disk.zeroesAtOnce ?? ZEROES_AT_ONCE
  }

  get unmapsAtOnce(): number {
    return this.#disk.unmapsAtOnce ?? this.zeroesAtOnce
  }

  get canUnmap(): boolean {
    return this.#disk.canUnmap ?? this.#disk.discard !== undefined
  }

  get slow(): boolean {
    return this.#disk.slow === true
  }

  /** The synchronous disk, for inspecting an image: its methods throw `NotLoaded`. */
  get disk(): LoadingDisk {
    return this.#disk
  }

  /** Makes a call that is not part of `VirtioBacking`, and repeats it until nothing that it needs is missing. Synchronous if possible. */
  perform<T>(kind: Kind, work: () => T): T | Promise<T> {
    return this.#run(kind, PIECE, work)
  }

  /** Lets `close` close `disk` too: the image no longer uses it, but calls in progress may. */
  closeLater(disk: { close(): void }): void {
    this.#retired.push(disk)
  }

  pread(buffer: Uint8Array, offset: number): void | Promise<void> {
    const range = { offset, length: buffer.length, most: PIECE }
    if (buffer.length <= PIECE) return this.#read(buffer, offset)
    return this.#eachPiece(range, (at, count) => this.#read(part(buffer, at - offset, count), at))
  }

  pwrite(buffer: Uint8Array, offset: number): void | Promise<void> {
    const disk = this.#disk
    const range = { offset, length: buffer.length, most: PIECE }
    return this.#inPieces("changes", range, (at, count) => void disk.pwrite(part(buffer, at - offset, count), at))
  }

  /** @throws BackingError */
  preadNow(buffers: readonly Uint8Array[], offset: number): boolean {
    this.#checkOpen()
    return this.#now(() => transfer(this.#disk, "pread", buffers, offset))
  }

  /**
   * A write that meets a missing page may have stored the bytes before it. That is harmless: the write is in progress, and the following
   * `pwrite` stores all of it. @throws BackingError
   */
  pwriteNow(buffers: readonly Uint8Array[], offset: number): boolean {
    this.#checkOpen()
    return this.#full === undefined && this.#now(() => transfer(this.#disk, "pwrite", buffers, offset))
  }

  /**
   * Waiting operations fail with `closed`. Then the disk is closed, and everything written is handed to the sources. All is released even
   * after an error; the first error is thrown.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    this.#isClosed = true
    for (const end of this.#waiting) end(this.#closedError())
    await Promise.allSettled(this.#underWay)
    const failures: unknown[] = []
    const note = (error: unknown): void => void failures.push(error)
    await untilLoaded(() => this.#disk.close()).catch(note)
    for (const disk of this.#retired) await untilLoaded(() => disk.close()).catch(note)
    for (const file of this.#files) await release(file).catch(note)
    if (failures.length > 0) throw failures[0]
  }

  #flush(): void | Promise<void> {
    const flushed = this.#run("changes", 0, () => void this.#disk.flush?.())
    return flushed === undefined ? this.#stable() : flushed.then(() => this.#stable())
  }

  /** Resolves when everything that the disk has synced is on stable storage. Undefined if it is. */
  #stable(): void | Promise<void> {
    const waits = this.#files.map((file) => file.stable()).filter((wait) => wait !== undefined)
    if (waits.length > 0) return this.#track(Promise.all(waits).then(() => undefined))
  }

  #read(buffer: Uint8Array, offset: number): void | Promise<void> {
    this.#checkOpen()
    const reading = readPast(this.#disk, { buffer, offset, isWanted: () => !this.#isClosed })
    if (reading !== undefined) return this.#track(this.#unlessClosed(reading))
    return this.#run("reads", buffer.length, () => void this.#disk.pread(buffer, offset))
  }

  #inPieces(kind: Kind, range: LongRange, work: (at: number, count: number) => void): void | Promise<void> {
    const { offset, length } = range
    if (length <= range.most) return this.#run(kind, length, () => work(offset, length))
    return this.#eachPiece(range, (at, count) => this.#run(kind, count, () => work(at, count)))
  }

  async #eachPiece(range: LongRange, step: (at: number, count: number) => void | Promise<void>): Promise<void> {
    // A bad range is refused before any piece of it is done.
    this.#checkOpen()
    checkRange(this.size, range.offset, range.length, this.path)
    for (const { at, count } of pieces(range, this.discardGranularity)) await step(at, count)
  }

  #now(attempt: () => void): boolean {
    try {
      attempt()
      return true
    } catch (error) {
      if (error instanceof NotLoaded) return false
      throw error
    }
  }

  /** Makes the call, at once if possible. `length`: bytes of memory that it may need. */
  #run<T>(kind: Kind, length: number, attempt: () => T): T | Promise<T> {
    this.#checkOpen()
    if (kind === "changes" && this.#full !== undefined) return this.#track(this.#wait(kind, length, attempt))
    try {
      return attempt()
    } catch (error) {
      if (!(error instanceof NotLoaded)) throw error
      return this.#track(this.#wait(kind, length, attempt, error))
    }
  }

  /** `thrown`: the error of an attempt made just now. */
  async #wait<T>(kind: Kind, length: number, attempt: () => T, thrown?: NotLoaded): Promise<T> {
    const bytes = HELD_BESIDE + Math.min(length, PIECE)
    const room = this.#mayAttempt(kind)
    if (room !== undefined) await room
    const admitted = this.#admission.enter(bytes)
    if (admitted !== undefined) await admitted
    // The missing pages may have arrived while this waited.
    const hasWaited = room !== undefined || admitted !== undefined
    try {
      return await untilLoaded(attempt, this.#waits[kind], hasWaited ? undefined : thrown)
    } finally {
      this.#admission.leave(bytes)
    }
  }

  /** A file whose log has no room for another change. */
  get #full(): LateFile | undefined {
    return this.#files.find((file) => !file.hasRoom)
  }

  /** Resolves when all logs have room for a change. Undefined if they have room now. @throws BackingError `closed` */
  #mayAttempt(kind: Kind): Promise<void> | undefined {
    this.#checkOpen()
    return kind === "changes" && this.#full !== undefined ? this.#room() : undefined
  }

  async #room(): Promise<void> {
    for (let full = this.#full; full !== undefined; full = this.#full) {
      await this.#unlessClosed(full.room())
      this.#checkOpen()
    }
  }

  /** `waited`, but rejects if the disk is closed before. */
  #unlessClosed(waited: Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.add(reject)
      // `finally` would cost two promises more for each page.
      void waited.then(resolve, reject).then(() => this.#waiting.delete(reject))
    })
  }

  /** Makes `close` wait for `promise`. */
  #track<T>(promise: Promise<T>): Promise<T> {
    this.#underWay.add(promise)
    const forget = (): void => void this.#underWay.delete(promise)
    promise.then(forget, forget)
    return promise
  }

  #checkOpen(): void {
    if (this.#isClosed) throw this.#closedError()
  }

  #closedError(): BackingError {
    return new BackingError("closed", "the image is closed", { path: this.path })
  }
}
