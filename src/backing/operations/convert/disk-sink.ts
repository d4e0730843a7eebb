/** DiskSink: writes the data of a conversion to any disk, and leaves out zeroes. */
import type { VirtioBacking } from "../../backing.ts"
import { isZero } from "../../bytes/buffers.ts"
import { zeroRange } from "./zero-range.ts"

/** Takes the pieces of a disk. */
export interface Sink {
  /** Bytes: pieces begin at multiples of it. */
  readonly unit: number
  /** A buffer to read the next piece into. The sink reuses it after `write` has resolved. */
  buffer(length: number): Uint8Array
  write(buffer: Uint8Array, offset: number): Promise<void>
  zero(offset: number, length: number): Promise<void>
  /** Call it after the last piece: waits for all writes. */
  finish(): Promise<void>
}

export interface DiskSinkOptions {
  readonly sparseSize: number
  readonly targetIsZero: boolean
}

/** Maximum bytes of a unit, which limits the memory of a piece to about 4 MiB. */
const LARGEST_UNIT = 1 << 22

export class DiskSink implements Sink {
  readonly unit: number
  readonly #target: VirtioBacking
  readonly #sparseSize: number
  readonly #isTargetZero: boolean
  readonly #free: Uint8Array[] = []

  constructor(target: VirtioBacking, options: DiskSinkOptions) {
    const { discardGranularity = 512 } = target
    this.#target = target
    this.#sparseSize = options.sparseSize
    this.#isTargetZero = options.targetIsZero
    this.unit = Math.min(Math.max(discardGranularity, options.sparseSize, 512), LARGEST_UNIT)
  }

  buffer(length: number): Uint8Array {
    const found = this.#free.pop()
    return found !== undefined && found.length >= length ? found.subarray(0, length) : new Uint8Array(length)
  }

  async write(buffer: Uint8Array, offset: number): Promise<void> {
    if (this.#sparseSize === 0) await this.#target.pwrite(buffer, offset)
    else await this.#writeSparse(buffer, offset)
    this.#free.push(new Uint8Array(buffer.buffer))
  }

  async zero(offset: number, length: number): Promise<void> {
    if (!this.#isTargetZero) await zeroRange(this.#target, offset, length)
  }

  async finish(): Promise<void> {}

  /** Writes the runs of blocks that are not zero. */
  async #writeSparse(buffer: Uint8Array, offset: number): Promise<void> {
    const step = this.#isTargetZero ? this.#sparseSize : this.unit
    const { length } = buffer
    for (let at = 0; at < length;) {
      const hole = firstZeroBlock(buffer, at, step)
      if (hole > at) await this.#target.pwrite(at === 0 && hole === length ? buffer : buffer.subarray(at, hole), offset + at)
      at = hole
      while (at < length && blockIsZero(buffer, at, step)) at = Math.min(at + step, length)
      if (at > hole) await this.zero(offset + hole, at - hole)
    }
  }
}

/** Start of the first block of zeroes from `from` on, in steps of a block; the end of `buffer` if there is none. */
function firstZeroBlock(buffer: Uint8Array, from: number, block: number): number {
  const { length } = buffer
  // The first byte of a block with data is mostly nonzero: then no call is needed.
  for (let at = from; at < length; at += block) if (buffer[at] === 0 && blockIsZero(buffer, at, block)) return at
  return length
}

function blockIsZero(buffer: Uint8Array, start: number, length: number): boolean {
  const end = Math.min(start + length, buffer.length)
  // No view is needed if the last byte is nonzero.
  return buffer[end - 1] === 0 && isZero(buffer.subarray(start, end))
}
