/**
 * FakeDisk: a backing with a volatile cache and a log. Reads see the cache; only `flush` moves it to `stable`. Calls can be made to
 * fail, and to wait: then they return promises that the test settles, in any order.
 */
import { BackingError, type VirtioBacking } from "../../src/backing/backing.ts"

export type CallName = "read" | "write" | "flush" | "discard" | "writeZeroes"

/** One call on the disk, as the log keeps it. */
export interface Call {
  readonly name: CallName
  readonly offset: number
  readonly length: number
  /** Number of buffers; 0 for calls without. */
  readonly buffers: number
  /** Of writeZeroes. */
  readonly mayUnmap: boolean
}

/** A call that waits. Exactly one of the two is to be called. */
export interface Waiting {
  readonly call: Call
  /** Does the work, and lets the promise resolve. */
  finish(): void
  /** Does nothing, and lets the promise reject. */
  fail(error: unknown): void
}

export interface FakeDiskOptions {
  /** Bytes. Default 1 MiB. */
  readonly size?: number
  readonly readOnly?: boolean
  /** Methods to leave out. */
  readonly without?: readonly ("flush" | "discard" | "writeZeroes" | "preadv" | "pwritev")[]
  readonly discardGranularity?: number
}

export class FakeDisk {
  readonly cache: Uint8Array
  readonly stable: Uint8Array
  readonly log: Call[] = []
  /** Asked before each call: what it returns, other than undefined, is thrown. */
  failing: (call: Call) => unknown = () => undefined
  /** Calls of which it says so wait in `waiting`. */
  waits: (call: Call) => boolean = () => false
  waiting: Waiting[] = []
  size: number
  readonly backing: VirtioBacking

  constructor(options: FakeDiskOptions = {}) {
    this.size = options.size ?? 1 << 20
    this.cache = new Uint8Array(this.size)
    this.stable = new Uint8Array(this.size)
    this.backing = this.#backing(options)
  }

  /** Names of the calls so far, and forgets them. */
  takeNames(): CallName[] {
    return this.log.splice(0).map(({ name }) => name)
  }

  /** The first call that waits. */
  next(name?: CallName): Waiting {
    const at = this.waiting.findIndex(({ call }) => name === undefined || call.name === name)
    const [waiting] = at < 0 ? [] : this.waiting.splice(at, 1)
    if (waiting === undefined) throw new Error(`no ${name ?? "call"} waits`)
    return waiting
  }

  #backing({ readOnly = false, without = [], discardGranularity }: FakeDiskOptions): VirtioBacking {
    const disk = this
    const methods = {
      preadv: (buffers: readonly Uint8Array[], offset: number) => this.#read(buffers, offset),
      pwritev: (buffers: readonly Uint8Array[], offset: number) => this.#write(buffers, offset),
      flush: () => this.#call({ name: "flush", offset: 0, length: 0, buffers: 0, mayUnmap: false }, () => this.stable.set(this.cache)),
      discard: (offset: number, length: number) => this.#call({ name: "discard", offset, length, buffers: 0, mayUnmap: true }, () => void this.cache.fill(0xdd, offset, offset + length)),
      writeZeroes: (offset: number, length: number, mayUnmap: boolean) =>
        this.#call({ name: "writeZeroes", offset, length, buffers: 0, mayUnmap }, () => void this.cache.fill(0, offset, offset + length)),
    }
    for (const name of without) delete (methods as Partial<typeof methods>)[name]
    return {
      get size() {
        return disk.size
      },
      readOnly,
      ...(discardGranularity === undefined ? {} : { discardGranularity }),
      pread: (buffer, offset) => this.#read([buffer], offset),
      pwrite: (buffer, offset) => this.#write([buffer], offset),
      ...methods,
      close() {},
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
    if (!this.waits(call)) return work()
    return new Promise((resolve, reject) => {
      this.waiting.push({
        call,
        finish: () => {
          work()
          resolve()
        },
        fail: reject,
      })
    })
  }
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
