/**
 * BigEndianMemory: the RAM of a big-endian legacy guest, whose rings, request headers and segments have its own byte order ([VIRTIO]
 * 2.4.3). All code reads numbers from RAM through the views of its regions, as little-endian ones; the views made here swap the order. Code
 * that reads a 64-bit number as two halves asks the region's `isBigEndian` for their order. So little-endian guests lose no time.
 */
import { type GuestMemory, RamRegion } from "../guest-memory.ts"

/** The byte order of a guest with a legacy driver. A modern driver is little-endian on every machine. */
export type GuestEndian = "little" | "big"

/** `memory` itself, or a byte-swapping view of it. */
export function memoryOf(memory: GuestMemory, endian: GuestEndian): GuestMemory {
  return endian === "little" ? memory : new BigEndianMemory(memory)
}

class BigEndianMemory implements GuestMemory {
  readonly written?: (address: number, length: number) => void
  readonly #memory: GuestMemory
  /** One wrapper for each region, because devices compare regions by identity. */
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
