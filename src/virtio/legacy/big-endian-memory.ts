/**
 * BigEndianMemory: the RAM of a legacy guest that is big-endian. Rings, request headers and segments of such a guest are in its own order
 * ([VIRTIO] 2.4.3). Whoever reads numbers from RAM does so through the views of its regions, as little-endian ones: here these views read
 * and write the other order. What reads a number of 64 bits as two halves asks `isBigEndian` of the region which is which. So a
 * little-endian guest pays nothing for it.
 */
import { type GuestMemory, RamRegion } from "../guest-memory.ts"

/** The byte order of a guest with a legacy driver. A modern driver is little-endian on every machine. */
export type GuestEndian = "little" | "big"

/** `memory` itself, or as a guest of the other order has it. */
export function memoryOf(memory: GuestMemory, endian: GuestEndian): GuestMemory {
  return endian === "little" ? memory : new BigEndianMemory(memory)
}

class BigEndianMemory implements GuestMemory {
  readonly written?: (address: number, length: number) => void
  readonly #memory: GuestMemory
  /** Devices compare regions by identity. */
  readonly #regions = new WeakMap<RamRegion, RamRegion>()

  constructor(memory: GuestMemory) {
    this.#memory = memory
    if (memory.written !== undefined) this.written = (address, length) => memory.written?.(address, length)
  }

  get generation(): number {
    return this.#memory.generation
  }

  region(address: number): RamRegion | undefined {
    const region = this.#memory.region(address)
    if (region === undefined) return undefined
    const known = this.#regions.get(region)
    if (known !== undefined) return known
    const swapped = new BigEndianRegion(region.start, region.bytes)
    this.#regions.set(region, swapped)
    return swapped
  }
}

class BigEndianRegion extends RamRegion {
  override numbers(buffer: ArrayBufferLike, byteOffset: number, length: number): DataView {
    return new SwappedView(buffer, byteOffset, length)
  }

  override get isBigEndian(): boolean {
    return true
  }
}

/** A DataView whose little-endian numbers are big-endian, and the other way round. */
class SwappedView extends DataView<ArrayBufferLike> {
  override getUint16(offset: number, littleEndian = false): number {
    return super.getUint16(offset, !littleEndian)
  }

  override setUint16(offset: number, value: number, littleEndian = false): void {
    super.setUint16(offset, value, !littleEndian)
  }

  override getUint32(offset: number, littleEndian = false): number {
    return super.getUint32(offset, !littleEndian)
  }

  override setUint32(offset: number, value: number, littleEndian = false): void {
    super.setUint32(offset, value, !littleEndian)
  }

  override getBigUint64(offset: number, littleEndian = false): bigint {
    return super.getBigUint64(offset, !littleEndian)
  }

  override setBigUint64(offset: number, value: bigint, littleEndian = false): void {
    super.setBigUint64(offset, value, !littleEndian)
  }
}
