/**
 * FakeDisk: a backing with a volatile cache and a log. Reads see the cache; only `flush` moves it to `stable`. Calls can be made to
 * fail, and to wait: then they return promises that the test settles, in any order.
 */
import { BackingError, type VirtioBacking } from "../../src/backing/backing.ts"

export type CallName = "read" | "write" | "flush" | "discard" | "writeZeroes"

/** One call on the disk, as an entry of the log. */
export interface Call {
  readonly name: CallName
  readonly offset: number
  readonly length: number
  /** Number of buffers; 0 for calls without. */
  readonly buffers: number
  /** The parameter of writeZeroes. */
  readonly mayUnmap: boolean
}

/** A pending call. Call exactly one of the two methods. */
export interface Waiting {
  readonly call: Call
  /** Does the work, and lets the promise resolve. */
  finish(): void
  /** Does nothing, and lets the promise reject. */
  fail(error: unknown): void
}

type Optional = "flush" | "discard" | "writeZeroes" | "preadv" | "pwritev"

export interface FakeDiskOptions {
  /** Bytes. Default 1 MiB. */
  readonly size?: number
  /** The initial content, in place of `size` zeroes. It is not copied. */
  readonly content?: Uint8Array
  readonly readOnly?: boolean
  /** Methods to leave out. */
  readonly without?: readonly Optional[]
  readonly discardGranularity?: number
}

export class FakeDisk implements VirtioBacking {
  readonly cache: Uint8Array
  readonly stable: Uint8Array
  readonly log: Call[] = []
  /** Called before each call. If it does not return undefined, the result is thrown. */
  failing: (call: Call) => unknown = () => undefined
  /** Called before each call returns, when it has done its work or begins to wait. */
  answered: () => void = () => undefined
  /** True once `waits` has been set: its methods may return promises. */
  asynchronous = false
  #waits: (call: Call) => boolean = () => false
  /** The calls that have not been answered, oldest first. */
  waiting: Waiting[] = []
  size: number
  readonly readOnly: boolean
  declare readonly discardGranularity?: number
  declare readonly preadv?: (buffers: readonly Uint8Array[], offset: number) => void | Promise<void>
  declare readonly pwritev?: (buffers: readonly Uint8Array[], offset: number) => void | Promise<void>
  declare readonly flush?: () => void | Promise<void>
  declare readonly discard?: (offset: number, length: number) => void | Promise<void>
  declare readonly writeZeroes?: (offset: number, length: number, mayUnmap: boolean) => void | Promise<void>

  constructor(options: FakeDiskOptions = {}) {
    const { readOnly = false, without = [], discardGranularity } = options
    this.cache = options.content ?? new Uint8Array(options.size ?? 1 << 20)
    this.size = this.cache.length
    this.stable = new Uint8Array(this.size)
    this.readOnly = readOnly
    if (discardGranularity !== undefined) this.discardGranularity = discardGranularity
    const methods = this.#optional()
    for (const name of without) delete methods[name]
    Object.assign(this, methods)
  }

  /** Calls for which it returns true wait in `waiting`. */
  get waits(): (call: Call) => boolean {
    return this.#waits
  }

  set waits(waits: (call: Call) => boolean) {
    this.#waits = waits
    this.asynchronous = true
  }

  pread(buffer: Uint8Array, offset: number): void | Promise<void> {
    return this.#read([buffer], offset)
  }

  pwrite(buffer: Uint8Array, offset: number): void | Promise<void> {
    return this.#write([buffer], offset)
  }

  close(): void {}

  /** Returns the names of the calls so far, and clears the log. */
  takeNames(): CallName[] {
    return this.log.splice(0).map(({ name }) => name)
  }

  /** Takes the first waiting call. */
  next(name?: CallName): Waiting {
    const at = this.waiting.findIndex(({ call }) => name === undefined || call.name === name)
    const [waiting] = at < 0 ? [] : this.waiting.splice(at, 1)
    if (waiting === undefined) throw new Error(`no ${name ?? "call"} waits`)
    return waiting
  }

  /** Answers the oldest call, and lets everything that follows from it happen. */
  async finishNext(): Promise<void> {
    this.next().finish()
    await settled()
  }

  #optional(): Partial<Pick<FakeDisk, Optional>> {
    const fill = (name: "discard" | "writeZeroes", [offset, length]: readonly [number, number], mayUnmap: boolean, value: number) =>
      this.#call({ name, offset, length, buffers: 0, mayUnmap }, () => void this.cache.fill(value, offset, offset + length))
    return {
      preadv: (buffers, offset) => this.#read(buffers, offset),
      pwritev: (buffers, offset) => this.#write(buffers, offset),
      flush: () => this.#call({ name: "flush", offset: 0, length: 0, buffers: 0, mayUnmap: false }, () => this.stable.set(this.cache)),
      discard: (offset, length) => fill("discard", [offset, length], true, 0xdd),
      writeZeroes: (offset, length, mayUnmap) => fill("writeZeroes", [offset, length], mayUnmap, 0),
    }
  }

  #read(buffers: readonly Uint8Array[], offset: number): void | Promise<void> {
    return this.#call({ name: "read", offset, length: total(buffers), buffers: buffers.length, mayUnmap: false }, () => {
      let at = offset
      for (const buffer of buffers) {
        buffer.set(this.cache.subarray(at, at + buffer.length))
        at += buffer.length
      }
    })
  }

  #write(buffers: readonly Uint8Array[], offset: number): void | Promise<void> {
    return this.#call({ name: "write", offset, length: total(buffers), buffers: buffers.length, mayUnmap: false }, () => {
      let at = offset
      for (const buffer of buffers) {
        this.cache.set(buffer, at)
        at += buffer.length
      }
    })
  }

  #call(call: Call, work: () => void): void | Promise<void> {
    this.log.push(call)
    const failure = this.failing(call)
    if (failure !== undefined) throw failure
    if (call.offset + call.length > this.size) throw new BackingError("out-of-bounds", "the fake disk ends before that")
    if (!this.#waits(call)) {
      work()
      return this.answered()
    }
    const answer = new Promise<void>((resolve, reject) => {
      const forget = () => void (this.waiting = this.waiting.filter((each) => each !== waiting))
      const waiting: Waiting = {
        call,
        finish: () => {
          forget()
          // A disk rejects if its buffer is detached, because WebAssembly memory has grown.
          try {
            work()
            resolve()
          } catch (error) {
            reject(error)
          }
        },
        fail: (error) => {
          forget()
          reject(error)
        },
      }
      this.waiting.push(waiting)
    })
    this.answered()
    return answer
  }
}

/** A disk with read, write and flush, whose calls wait until the test answers them. */
export function heldDisk(content: Uint8Array): FakeDisk {
  const disk = new FakeDisk({ content, without: ["preadv", "pwritev", "discard", "writeZeroes"] })
  disk.waits = () => true
  return disk
}

/** The error of a dying disk. */
export function eio(): BackingError {
  return new BackingError("io", "injected: the disk is dying")
}

/** Lets everything that follows from settled promises happen. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

function total(buffers: readonly Uint8Array[]): number {
  return buffers.reduce((sum, { length }) => sum + length, 0)
}

/** `inner` with promises that settle later, like a network disk. Has the same methods as `inner`. */
export function promiseBacking(inner: VirtioBacking): VirtioBacking {
  const later = async <T>(work: () => T | Promise<T>): Promise<T> => {
    await new Promise((resolve) => setImmediate(resolve))
    return await work()
  }
  return {
    asynchronous: true,
    get size() {
      return inner.size
    },
    get readOnly() {
      return inner.readOnly
    },
    ...(inner.discardGranularity === undefined ? {} : { discardGranularity: inner.discardGranularity }),
    pread: (buffer, offset) => later(() => inner.pread(buffer, offset)),
    pwrite: (buffer, offset) => later(() => inner.pwrite(buffer, offset)),
    ...(
      inner.preadv === undefined
        ? {}
        : { preadv: (buffers: readonly Uint8Array[], offset: number) => later(() => inner.preadv?.(buffers, offset)) }
    ),
    ...(
      inner.pwritev === undefined
        ? {}
        : { pwritev: (buffers: readonly Uint8Array[], offset: number) => later(() => inner.pwritev?.(buffers, offset)) }
    ),
    ...(inner.flush === undefined ? {} : { flush: () => later(() => inner.flush?.()) }),
    ...(inner.discard === undefined ? {} : { discard: (offset: number, length: number) => later(() => inner.discard?.(offset, length)) }),
    ...(
      inner.writeZeroes === undefined
        ? {}
        : { writeZeroes: (offset: number, length: number, mayUnmap: boolean) => later(() => inner.writeZeroes?.(offset, length, mayUnmap)) }
    ),
    close: () => later(() => inner.close()),
  }
}
