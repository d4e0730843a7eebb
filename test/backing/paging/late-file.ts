/**
 * An AsyncImageFile over a file in memory that answers late, in any order, and works in pieces: a read or write that is under way has done
 * a part of its work. Calls can be made to fail. It refuses what a log must not do: changes that overlap side by side, or beside a sync;
 * and a read from its stream at any other place than the stream's.
 */
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { BackingError, totalLength } from "../../../src/backing/backing.ts"
import { BufferCursor } from "../../../src/backing/bytes/buffers.ts"
import type { ImageFile, TakePiece } from "../../../src/backing/image-file.ts"
import type { Rng } from "../../support/rng.ts"

export type LateCall = "size" | "read" | "write" | "truncate" | "sync" | "punch" | "flow"

export interface LateFileOptions {
  readonly readOnly?: boolean
  /** False: holes are declined, as by a host that cannot make them. */
  readonly canPunch?: boolean
  readonly preferredRead?: number
  /** Whether one read can fill several buffers. Default: chance. */
  readonly canScatter?: boolean
  /** Bytes that must have been read in order before a stream runs. Left out: none ever does. */
  readonly flowsAfter?: number
  /** Asked at each call, with its number from 1 on: what it returns, other than undefined, the call rejects with. */
  readonly failing?: (call: LateCall, number: number) => unknown
}

interface Step {
  readonly work: () => void
}

/** A change under way. */
interface Range {
  readonly start: number
  readonly end: number
}

export class LateFile implements AsyncImageFile {
  readonly path: string
  readonly readOnly: boolean
  readonly preferredRead?: number
  readonly readScattered?: (buffers: readonly Uint8Array[], offset: number) => Promise<number>
  readonly readFlow?: (offset: number, length: number, take: TakePiece) => Promise<number>
  /** Calls so far. */
  calls = 0
  readonly counts: Record<LateCall, number> = { size: 0, read: 0, write: 0, truncate: 0, sync: 0, punch: 0, flow: 0 }
  /** Reads so far. */
  readonly reads: { readonly offset: number; readonly length: number }[] = []
  isClosed = false
  /** While true nothing is answered. */
  isStalled = false
  failing: ((call: LateCall, number: number) => unknown) | undefined
  readonly #inner: ImageFile
  readonly #rng: Rng
  readonly #canPunch: boolean
  readonly #flowsAfter: number
  /** Where the last read ended, and the bytes that were read in order up to there. */
  #end = 0
  #inOrder = 0
  readonly #steps: Step[] = []
  readonly #changing = new Set<Range>()
  #isScheduled = false

  constructor(inner: ImageFile, rng: Rng, options: LateFileOptions = {}) {
    this.#inner = inner
    this.#rng = rng
    this.path = inner.path
    this.readOnly = options.readOnly ?? inner.readOnly
    this.#canPunch = options.canPunch ?? true
    this.failing = options.failing
    this.#flowsAfter = options.flowsAfter ?? Number.POSITIVE_INFINITY
    if (options.flowsAfter !== undefined) this.readFlow = (offset, length, take) => this.#readFlow(offset, length, take)
    if (options.preferredRead !== undefined) this.preferredRead = options.preferredRead
    if (options.canScatter ?? rng.chance(0.5)) this.readScattered = (buffers, offset) => this.#read(buffers, offset)
  }

  async size(): Promise<number> {
    await this.#begin("size")
    return this.#inner.size()
  }

  read(buffer: Uint8Array, offset: number): Promise<number> {
    return this.#read([buffer], offset)
  }

  async write(buffer: Uint8Array, offset: number): Promise<void> {
    await this.#change({ start: offset, end: offset + buffer.length }, async () => {
      // A disk writes a sector in one piece.
      const middle = Math.max(0, Math.floor((offset + this.#rng.between(0, buffer.length)) / 512) * 512 - offset)
      await this.#begin("write")
      if (middle > 0) this.#inner.write(buffer.subarray(0, middle), offset)
      await this.#step()
      if (middle < buffer.length) this.#inner.write(buffer.subarray(middle), offset + middle)
    })
  }

  async truncate(size: number): Promise<void> {
    await this.#change({ start: 0, end: Number.POSITIVE_INFINITY }, async () => {
      await this.#begin("truncate")
      this.#inner.truncate(size)
    })
  }

  async sync(): Promise<void> {
    await this.#change({ start: 0, end: Number.POSITIVE_INFINITY }, async () => {
      await this.#begin("sync")
      this.#inner.sync()
    })
  }

  async punchHole(offset: number, length: number): Promise<boolean> {
    let isDone = false
    await this.#change({ start: offset, end: offset + length }, async () => {
      await this.#begin("punch")
      isDone = this.#canPunch && this.#inner.punchHole?.(offset, length) === true
    })
    return isDone
  }

  async close(): Promise<void> {
    this.isClosed = true
    this.#inner.close()
  }

  /** Answers again after `isStalled`. */
  resume(): void {
    this.isStalled = false
    this.#schedule()
  }

  async #read(buffers: readonly Uint8Array[], offset: number): Promise<number> {
    const length = totalLength(buffers)
    this.reads.push({ offset, length })
    this.#follow(offset, length)
    await this.#begin("read")
    const middle = this.#rng.between(0, length)
    const cursor = new BufferCursor(buffers)
    const first = this.#inner.readv(cursor.take(middle), offset)
    await this.#step()
    // The file may have grown meanwhile.
    return first < middle || middle === length ? first : first + this.#inner.readv(cursor.take(length - middle), offset + middle)
  }

  get flowsFrom(): number | undefined {
    return this.#inOrder >= this.#flowsAfter && !this.isClosed ? this.#end : undefined
  }

  /** A read elsewhere ends the stream now and then. */
  #follow(offset: number, length: number): void {
    if (this.#flowsAfter === Number.POSITIVE_INFINITY || (offset !== this.#end && !this.#rng.chance(0.2))) return
    this.#inOrder = length + (offset === this.#end ? this.#inOrder : 0)
    this.#end = offset + length
  }

  async #readFlow(offset: number, length: number, take: TakePiece): Promise<number> {
    if (offset !== this.flowsFrom) throw new Error(`the stream is read at ${offset}, and is at ${this.flowsFrom}`)
    const count = Math.min(length, this.#inner.size() - offset)
    this.#end = offset + count
    const most = this.#rng.pick([count, 5000, 70_000])
    for (let done = 0; done < count;) {
      if (done > 0 && this.isClosed) throw new BackingError("closed", "the file has been closed")
      // Bytes that are on their way arrive even if the file is closed meanwhile.
      const piece = new Uint8Array(this.#rng.between(1, Math.min(most, count - done)))
      this.#inner.read(piece, offset + done)
      try {
        await this.#begin("flow")
      } catch (error) {
        this.#inOrder = 0
        throw error
      }
      done += piece.length
      take(piece)
      // It is valid until `take` has returned.
      piece.fill(0xdd)
    }
    return count
  }

  async #begin(call: LateCall): Promise<void> {
    if (this.isClosed) throw new Error(`${call} of a file that has been closed`)
    this.calls++
    this.counts[call]++
    const failure = this.failing?.(call, this.calls)
    await this.#step()
    if (failure !== undefined) throw failure
  }

  async #change(range: Range, work: () => Promise<void>): Promise<void> {
    if (this.readOnly) throw new Error("a file that is read-only was changed")
    for (const other of this.#changing) {
      if (other.start < range.end && other.end > range.start) throw new BackingError("invalid-argument", "changes overlap side by side")
    }
    this.#changing.add(range)
    try {
      await work()
    } finally {
      this.#changing.delete(range)
    }
  }

  /** Resolves some time later, before or after others that were called before. */
  #step(): Promise<void> {
    return new Promise((resolve) => {
      this.#steps.push({ work: resolve })
      this.#schedule()
    })
  }

  #schedule(): void {
    if (this.#isScheduled || this.isStalled || this.#steps.length === 0) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      if (this.isStalled) return
      for (let count = this.#rng.between(1, 3); count > 0 && this.#steps.length > 0; count--) {
        const [step] = this.#steps.splice(this.#rng.below(this.#steps.length), 1)
        step?.work()
      }
      this.#schedule()
    })
  }
}
