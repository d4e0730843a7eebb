/** Concatenation: several disks, one after the other, as one read-only disk. */
import { type Allocation, BackingError, checkRange, type VirtioBacking } from "../../backing.ts"

export class Concatenation implements VirtioBacking {
  readonly readOnly = true
  readonly size: number
  readonly asynchronous = true
  readonly #disks: readonly VirtioBacking[]
  /** Byte where each disk begins. */
  readonly #starts: readonly number[]

  /** Owns the disks. @throws BackingError `invalid-argument` if they have more than 2^53 bytes in all */
  constructor(disks: readonly VirtioBacking[]) {
    this.#disks = disks
    let size = 0
    this.#starts = disks.map((disk) => {
      const start = size
      size += disk.size
      return start
    })
    if (!Number.isSafeInteger(size)) throw new BackingError("invalid-argument", `the images have ${size} bytes, too many for one disk`)
    this.size = size
  }

  async pread(buffer: Uint8Array, offset: number): Promise<void> {
    checkRange(this.size, offset, buffer.length)
    for (let done = 0; done < buffer.length;) {
      const { disk, start } = this.#at(offset + done)
      const piece = buffer.subarray(done, done + disk.size - (offset + done - start))
      await disk.pread(piece, offset + done - start)
      done += piece.length
    }
  }

  pwrite(): void {
    throw new BackingError("read-only", "several images as one disk are read-only")
  }

  async allocation(offset: number, length: number): Promise<Allocation> {
    const { disk, start } = this.#at(offset)
    const held = Math.min(length, start + disk.size - offset)
    return await disk.allocation?.(offset - start, held) ?? { length: held, isAllocated: true, isZero: false }
  }

  async close(): Promise<void> {
    for (const disk of this.#disks) await disk.close()
  }

  #at(offset: number): { readonly disk: VirtioBacking; readonly start: number } {
    let index = this.#starts.length - 1
    while (index > 0 && ((this.#starts[index] ?? 0) > offset || this.#disks[index]?.size === 0)) index--
    const disk = this.#disks[index]
    if (disk === undefined) throw new RangeError("there is no disk")
    return { disk, start: this.#starts[index] ?? 0 }
  }
}
