/**
 * WriteLog: the changes of a file that its source has not completed yet, in order. Changes between two syncs go to the source in parallel
 * if they do not overlap. A sync waits for all changes before it, and everything after it waits for the sync. So stable storage always
 * holds a state that a synchronous file could have left there after a crash.
 */
import type { AsyncImageFile } from "../../async-image-file.ts"
import { BackingError } from "../../backing.ts"
import { type Barrier, type Change, dataOf, endOf, type LogOrder, memoryOf, overlaps, startOf, type Wait } from "./change.ts"
import { sourceError } from "../source-error.ts"
import { ZeroingSource } from "./zeroing-source.ts"

export interface WriteLogOptions {
  readonly source: AsyncImageFile
  /** Bytes in `source`. */
  readonly size: number
  /** Bytes of memory for waiting changes. Beyond it writers wait (`room`). */
  readonly mostBytes: number
}

/** The changes of one call of the source: a single change, or adjacent writes. */
interface Sent {
  readonly changes: readonly Change[]
  readonly start: number
  readonly end: number
}

/** Most calls in progress at a time. */
const PARALLEL = 16
/** Adjacent waiting writes are joined into one of at most this many bytes. */
const MOST_JOINED = 1 << 20
export class WriteLog {
  readonly #source: AsyncImageFile
  readonly #mostBytes: number
  /** Not sent yet, oldest at `#head`. */
  #unsent: (Change | Barrier | Wait)[] = []
  #head = 0
  /** All incomplete changes, sent or not, oldest first, with the bytes counted for each. */
  readonly #pending = new Map<Change, number>()
  readonly #inFlight = new Set<Sent>()
  /** A sync or a truncation is in progress, and nothing else. */
  #isAlone = false
  #isScheduled = false
  #bytes = 0
  #storedSize: number
  #failure: BackingError | undefined
  /** A change has been logged since the last sync. */
  #isChanged = false
  /** The last sync that was logged, until it completes. */
  #last: Barrier | undefined
  #roomWaiters: (() => void)[] = []
  #idleWaiters: (() => void)[] = []
  #order: LogOrder = {}
  /** Makes zeroes, and knows which methods of the source work. */
  readonly zeroing: ZeroingSource

  constructor(options: WriteLogOptions) {
    this.#source = options.source
    this.#storedSize = options.size
    this.#mostBytes = options.mostBytes
    this.zeroing = new ZeroingSource(options.source)
  }

  /** The file's size after the changes that the source has completed. */
  get storedSize(): number {
    return this.#storedSize
  }

  /** All incomplete changes, oldest first. Failed ones stay, because the source may hold parts of them. */
  get pending(): Iterable<Change> {
    return this.#pending.keys()
  }

  /** @throws BackingError the first failure, from then on; then the change is not logged */
  append(change: Change): void {
    this.#refuseFailed()
    this.#waitFor(this.#order.beforeChange?.())
    this.#unsent.push(change)
    const weight = memoryOf(change) + this.#zeroWeight(change)
    this.#pending.set(change, weight)
    this.#bytes += weight
    this.#isChanged = true
    this.#schedule()
  }

  /** Until the source has proven that it can make zeroes, they may have to be written. */
  #zeroWeight(change: Change): number {
    return change.kind !== "zero" || this.zeroing.isProven(change.frees) ? 0 : change.length
  }

  /** From now on, the steps that `order` names wait for the other file, and fail if it fails. */
  orderBy(order: LogOrder): void {
    this.#order = { ...this.#order, ...order }
  }

  #waitFor(elsewhere: Promise<void> | undefined): void {
    if (elsewhere === undefined) return
    // Those who await the barrier report the failure.
    elsewhere.catch(() => undefined)
    this.#unsent.push({ kind: "wait", elsewhere })
  }

  /** Logs a sync, unless nothing has changed since the last one. @throws BackingError as `append` */
  sync(): void {
    this.#refuseFailed()
    const elsewhere = this.#order.beforeSync?.()
    if (!this.#isChanged && elsewhere === undefined) return
    this.#waitFor(elsewhere)
    this.#isChanged = false
    let settle = (): void => undefined
    const done = new Promise<void>((resolve) => (settle = resolve))
    this.#last = { kind: "sync", done, settle }
    this.#unsent.push(this.#last)
    this.#schedule()
  }

  /** Identifies the last sync that was logged; undefined once it has completed. */
  get lastSync(): object | undefined {
    return this.#last
  }

  /** Resolves when the last sync that was logged completes. Undefined if it has completed. Rejects with the first failure. */
  stable(): Promise<void> | undefined {
    if (this.#failure !== undefined) return Promise.reject(this.#refusal(this.#failure))
    const last = this.#last
    return last === undefined ? undefined : this.#stableAt(last)
  }

  /** Whether another change fits, and nobody waits for room. Nobody waits once the log has failed. */
  get hasRoom(): boolean {
    return !this.#isFull && this.#roomWaiters.length === 0
  }

  /** Resolves when the caller should check `hasRoom` again, in the order of the calls. */
  async room(): Promise<void> {
    if (!this.hasRoom) await new Promise<void>((resolve) => this.#roomWaiters.push(resolve))
  }

  /** Counts `bytes` of changes that are kept elsewhere as waiting changes, which share the room, until `letGo` is called with as many. */
  hold(bytes: number): void {
    this.#bytes += bytes
  }

  letGo(bytes: number): void {
    this.#bytes -= bytes
    this.#tellRoom()
  }

  get #isFull(): boolean {
    return this.#bytes >= this.#mostBytes && this.#failure === undefined
  }

  /** Resolves when no call is in progress and none will follow: everything has completed, or a change has failed. */
  async drained(): Promise<void> {
    while (this.#isBusy) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve))
    if (this.#failure !== undefined) throw this.#refusal(this.#failure)
  }

  get #isBusy(): boolean {
    return this.#isAlone || this.#inFlight.size > 0 || (this.#failure === undefined && this.#head < this.#unsent.length)
  }

  async #stableAt(barrier: Barrier): Promise<void> {
    await barrier.done
    if (this.#failure !== undefined) throw this.#refusal(this.#failure)
  }

  #refuseFailed(): void {
    if (this.#failure !== undefined) throw this.#refusal(this.#failure)
  }

  #refusal(failure: BackingError): BackingError {
    const message = `a write failed, so nothing has been written since: ${failure.message}`
    return new BackingError(failure.code, message, { path: this.#source.path, cause: failure })
  }

  /** Many changes come together: sending waits until the current call stack has ended, so that adjacent writes can be joined. */
  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    queueMicrotask(() => {
      this.#isScheduled = false
      this.#pump()
    })
  }

  #pump(): void {
    while (this.#failure === undefined && !this.#isAlone) {
      const next = this.#unsent[this.#head]
      if (next === undefined) break
      if (next.kind === "sync" || next.kind === "truncate" || next.kind === "wait") {
        if (this.#inFlight.size > 0) break
        this.#head++
        this.#isAlone = true
        void this.#sendAlone(next)
        break
      }
      if (this.#inFlight.size >= PARALLEL || this.#mustWait(next)) break
      const changes = this.#takeJoined(next)
      const sent = { changes, start: startOf(next), end: endOf(changes.at(-1) ?? next) }
      this.#inFlight.add(sent)
      void this.#send(sent)
    }
    this.#forgetSent()
    if (!this.#isBusy) for (const wake of this.#idleWaiters.splice(0)) wake()
    this.#tellRoom()
  }

  #tellRoom(): void {
    if (!this.#isFull) for (const wake of this.#roomWaiters.splice(0)) wake()
  }

  #forgetSent(): void {
    if (this.#head < 1024 && this.#head < this.#unsent.length) return
    this.#unsent = this.#unsent.slice(this.#head)
    this.#head = 0
  }

  /** Whether calls in flight have to complete first. Zeroes are made inside the file, which may still be growing to their end. */
  #mustWait(change: Change): boolean {
    if (change.kind === "zero" && this.#inFlight.size > 0 && endOf(change) > this.#storedSize) return true
    return this.#meetsInFlight(change)
  }

  #meetsInFlight(change: Change): boolean {
    for (const { start, end } of this.#inFlight) if (overlaps(change, start, end)) return true
    return false
  }

  /** Takes `first`, the next change. If it is a write, takes the adjacent writes after it, too. */
  #takeJoined(first: Change): Change[] {
    const changes = [first]
    let last = first
    let bytes = first.kind === "write" ? first.data.length : MOST_JOINED
    for (this.#head++; ; this.#head++) {
      const next = this.#unsent[this.#head]
      if (next?.kind !== "write" || next.offset !== endOf(last) || this.#meetsInFlight(next)) return changes
      bytes += next.data.length
      if (bytes > MOST_JOINED) return changes
      changes.push(next)
      last = next
    }
  }

  async #send(sent: Sent): Promise<void> {
    try {
      await this.#store(sent)
      for (const change of sent.changes) this.#answered(change)
    } catch (error) {
      this.#fail(error, "write", sent.start)
    }
    this.#inFlight.delete(sent)
    this.#pump()
  }

  async #sendAlone(entry: Barrier | Wait | (Change & { kind: "truncate" })): Promise<void> {
    const source = this.#source
    try {
      if (entry.kind === "wait") await entry.elsewhere
      else if (entry.kind === "sync") await source.sync?.()
      else await source.truncate?.(entry.size)
      if (entry.kind === "truncate") this.#answered(entry)
      else if (this.#last === entry) this.#last = undefined
    } catch (error) {
      this.#fail(error, entry.kind === "truncate" ? "set the size" : "sync")
    }
    this.#isAlone = false
    if (entry.kind === "sync") entry.settle()
    this.#pump()
  }

  async #store({ changes: [first], changes }: Sent): Promise<void> {
    if (first?.kind === "write") await this.#source.write?.(dataOf(changes), first.offset)
    else if (first?.kind === "zero") await this.zeroing.zero(first, () => this.#failure)
  }

  #answered(change: Change): void {
    this.#bytes -= this.#pending.get(change) ?? 0
    this.#pending.delete(change)
    this.#storedSize = change.kind === "truncate" ? change.size : Math.max(this.#storedSize, endOf(change))
  }

  /** The first failure is final: it is unknown which changes have reached the source, as after a failed fdatasync. */
  #fail(error: unknown, doing: string, offset?: number): void {
    this.#failure ??= sourceError(error, doing, this.#source.path, offset)
    for (let at = this.#head; at < this.#unsent.length; at++) {
      const entry = this.#unsent[at]
      if (entry?.kind === "sync") entry.settle()
    }
    this.#head = this.#unsent.length
  }
}
