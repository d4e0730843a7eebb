/**
 * BufferQueue: executes the commands of v86's drive on a disk, one after the other. v86 acknowledges a write of programmed I/O to its guest
 * before it passes it on. With a slow asynchronous backing such writes accumulate, and must not be lost if they fail: they are kept, and
 * retried before any other command.
 */
import { BackingError, type VirtioBacking } from "../../backing/backing.ts"

export interface BufferRequest {
  readonly kind: "read" | "write"
  /** Byte position on the disk. */
  readonly start: number
  /** The bytes to write, or the buffer to read into. */
  readonly bytes: Uint8Array
  /** Whether the guest has cancelled it. */
  readonly isCancelled: () => boolean
  /** Tells v86 that it is done. Undefined if the guest does not wait for it any more. */
  answer: (() => void) | undefined
  /** Tells the guest that it failed. Returns false if the guest cannot be told, or was told that it succeeded. */
  readonly fail: () => boolean
}

export interface BufferQueueOptions {
  readonly writeThrough: boolean
  readonly onError: (error: unknown) => void
}

export class BufferQueue {
  readonly #backing: VirtioBacking
  readonly #options: BufferQueueOptions
  #requests: BufferRequest[] = []
  #isBusy = false
  /** Whether the writes at the head have failed, though the guest takes them for done. */
  #isHeld = false
  #newest: BufferRequest | undefined
  #lastError: unknown
  readonly #idle: (() => void)[] = []

  constructor(backing: VirtioBacking, options: BufferQueueOptions) {
    this.#backing = backing
    this.#options = options
  }

  /** Bytes of pending writes. */
  get waitingBytes(): number {
    return this.#requests.reduce((sum, { kind, bytes }) => (kind === "write" ? sum + bytes.length : sum), 0)
  }

  /** The request that is being pushed. Until `push` returns, the guest has not run, so it can still get an error. */
  get newest(): BufferRequest | undefined {
    return this.#newest
  }

  /** Adds a command. A drive has one command at a time, so the guest does not wait for earlier ones any more. */
  push(request: BufferRequest): void {
    this.abandon()
    this.#requests.push(request)
    this.#newest = request
    try {
      this.retry()
    } finally {
      this.#newest = undefined
    }
  }

  /** Answers none of the present commands. Their writes are still done. */
  abandon(): void {
    for (const request of this.#requests) request.answer = undefined
  }

  retry(): void {
    this.#isHeld = false
    this.#proceed()
  }

  /** Resolves when every write is done. @throws the error of a failed write (as a rejection) */
  async drained(): Promise<void> {
    this.retry()
    while (this.#isBusy) await new Promise<void>((resolve) => this.#idle.push(resolve))
    if (this.#isHeld) throw this.#lastError
  }

  #proceed(): void {
    if (this.#isBusy) return
    this.#isBusy = true
    let isWaiting = false
    try {
      for (let batch = this.#next(); batch.length > 0; batch = this.#next()) {
        const later = this.#attempt(batch)
        if (later === undefined) continue
        isWaiting = true
        void later.finally(() => {
          this.#isBusy = false
          this.#proceed()
        })
        return
      }
    } finally {
      if (!isWaiting) {
        this.#isBusy = false
        for (const resolve of this.#idle.splice(0)) resolve()
      }
    }
  }

  /** The next batch: a read, or all the writes before the next read, which share a flush. */
  #next(): readonly BufferRequest[] {
    if (this.#isHeld) return []
    this.#requests = this.#requests.filter(({ kind, answer, isCancelled }) => kind === "write" || (answer !== undefined && !isCancelled()))
    const reads = this.#requests.findIndex(({ kind }) => kind === "read")
    return reads === 0 ? this.#requests.slice(0, 1) : this.#requests.slice(0, reads < 0 ? undefined : reads)
  }

  /** Returns undefined if the batch is settled, or a promise that resolves when it is. */
  #attempt(batch: readonly BufferRequest[]): Promise<void> | undefined {
    let later: void | Promise<void>
    try {
      later = this.#perform(batch)
    } catch (error) {
      this.#failed(batch, error)
      return undefined
    }
    if (later !== undefined) return later.then(() => this.#finish(batch), (error: unknown) => this.#failed(batch, error))
    this.#finish(batch)
    return undefined
  }

  #perform(batch: readonly BufferRequest[]): void | Promise<void> {
    for (const [index, request] of batch.entries()) {
      const later = this.#call(request)
      if (later !== undefined) return this.#performLater(later, batch.slice(index + 1), request.kind)
    }
    return this.#flush(batch[0]?.kind)
  }

  async #performLater(first: Promise<void>, rest: readonly BufferRequest[], kind: "read" | "write"): Promise<void> {
    await first
    for (const request of rest) await this.#call(request)
    await this.#flush(kind)
  }

  #call({ kind, start, bytes }: BufferRequest): void | Promise<void> {
    return kind === "read" ? this.#backing.pread(bytes, start) : this.#backing.pwrite(bytes, start)
  }

  #flush(kind: "read" | "write" | undefined): void | Promise<void> {
    return kind === "write" && this.#options.writeThrough ? this.#backing.flush?.() : undefined
  }

  #finish(batch: readonly BufferRequest[]): void {
    this.#remove(batch)
    for (const { answer, isCancelled } of batch) if (!isCancelled()) answer?.()
  }

  /** @throws bugs, after the guest has its answer: anything but a `BackingError`, and errors of `onError` */
  #failed(batch: readonly BufferRequest[], error: unknown): void {
    this.#lastError = error
    try {
      this.#options.onError(error)
    } finally {
      this.#settle(batch)
    }
    if (!(error instanceof BackingError)) throw error
  }

  /** Tells the guest of the failed `batch`, or keeps writes of which it cannot be told. */
  #settle(batch: readonly BufferRequest[]): void {
    const wasTold = (request: BufferRequest): boolean => request.answer !== undefined && !request.isCancelled() && request.fail()
    const held = batch.filter((request) => !wasTold(request) && request.kind === "write")
    this.#remove(batch.filter((request) => !held.includes(request)))
    if (held.length > 0) {
      this.#isHeld = true
      // Later reads fail too, because they may be of the bytes of these writes.
      const reads = this.#requests.filter(({ kind }) => kind === "read")
      this.#remove(reads)
      for (const read of reads) wasTold(read)
    }
  }

  #remove(requests: readonly BufferRequest[]): void {
    this.#requests = this.#requests.filter((request) => !requests.includes(request))
  }
}
