/**
 * Stretches: the places in RAM of the data of usual requests with several buffers. It is separate from the loops that read descriptors,
 * where it would cost requests of one buffer 10 ns (measured).
 */
import { RamRegion } from "../../guest-memory.ts"
import { MOST_BYTES_OF_ONE, MOST_SEGMENTS, MOST_USUAL_SEGMENTS } from "./columns.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const [MOST_BYTES, MOST, MOST_OF_BATCH] = [MOST_BYTES_OF_ONE, MOST_SEGMENTS, MOST_USUAL_SEGMENTS] as const

const NOWHERE = new RamRegion(0, new Uint8Array(0))

export class Stretches {
  /** Byte offset in the region, and length in bytes, of each stretch in turn. */
  readonly words: Uint32Array = new Uint32Array(2 * (MOST_USUAL_SEGMENTS + MOST_SEGMENTS))
  /** Bytes of data of the current request. */
  length = 0
  /** Index of the first stretch of the current request. */
  first = 0
  /** No more requests may be taken. */
  isFull = false
  #count = 0
  /** Data descriptors of all requests. */
  #segments = 0
  #mostSegments = 0
  // The same for ended requests only: a request that is begun and not ended is forgotten.
  #endedCount = 0
  #endedSegments = 0
  // The last stretch of the current request, which may grow.
  #offset = 0
  #bytes = 0
  #region = NOWHERE

  /** Starts over, for buffers in `region`, which ends below 2^32. */
  clear(region: RamRegion): void {
    this.#region = region
    this.#endedCount = 0
    this.#endedSegments = 0
    this.isFull = false
  }

  /** Begins a request whose first buffer is in RAM. */
  begin(offset: number, length: number): void {
    this.first = this.#endedCount
    this.#count = this.#endedCount
    this.#mostSegments = this.#endedSegments + MOST
    this.#segments = this.#endedSegments + 1
    this.#offset = offset
    this.#bytes = length
    this.length = length
  }

  /**
   * Adds the buffer of the descriptor at byte `at` of the region. A buffer adjacent to the last stretch extends it. Each word is read once.
   * Returns false if the request is not usual.
   */
  add(at: number): boolean {
    const { data, start, end } = this.#region
    const offset = (data.getUint32(at, true) - start) >>> 0
    const length = data.getUint32((at + 8) >>> 0, true)
    const limit = (end - start) >>> 0
    // An address before the region gives an offset beyond its end.
    if (data.getUint32((at + 4) >>> 0, true) !== 0 || offset > limit || length > (limit - offset) >>> 0 || length === 0) return false
    return this.append(offset, length)
  }

  /** Adds one or more bytes of RAM. Returns false if that is too much for a request. */
  append(offset: number, length: number): boolean {
    if (length > (MOST_BYTES - this.length) >>> 0 || ++this.#segments > this.#mostSegments) return false
    this.length += length
    if (offset === this.#offset + this.#bytes) {
      this.#bytes += length
      return true
    }
    this.#push()
    this.#offset = offset
    this.#bytes = length
    return true
  }

  /** Ends the request. Returns the number of its stretches. A single stretch is not stored in `words`: `offset` holds its position. */
  end(): number {
    if (this.#count > this.first) this.#push()
    this.#endedCount = this.#count
    this.#endedSegments = this.#segments
    this.isFull = this.#segments >= MOST_OF_BATCH
    return this.#count === this.first ? 1 : this.#count - this.first
  }

  /** Byte offset in the region of the last stretch. */
  get offset(): number {
    return this.#offset
  }

  #push(): void {
    this.words[2 * this.#count] = this.#offset
    this.words[2 * this.#count + 1] = this.#bytes
    this.#count++
  }
}
