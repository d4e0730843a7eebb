/**
 * DriverTransport: what the driver needs of a way to reach a virtio device's registers. Modern and legacy PCI implement it, and both
 * versions of MMIO.
 */
import { DriverError } from "../errors.ts"
import type { Width } from "../platform.ts"
import type { RamAllocator } from "../ram-allocator.ts"
import {
  availableRingSize, descriptorTableSize, legacyRingLayout, legacyRingSize, RING_ALIGNMENT, type RingAddresses, usedRingSize,
} from "./rings/ring-layout.ts"
import { LEGACY_QUEUE_ALIGN } from "./spec.ts"

/** Memory of one ring: its layout, and the pieces to give back to the allocator later. */
export interface RingAllocation {
  readonly layout: RingAddresses
  readonly pieces: readonly number[]
}

/** Access to registers, without any policy: a test may call these methods in any order. */
export interface DriverTransport {
  readonly kind: "modern" | "legacy"
  /** A ring has as many descriptors as the device says. */
  readonly isQueueSizeFixed?: boolean
  /** Device status, [VIRTIO] 2.1. */
  status: number
  /** The bits that the device offers. */
  offeredFeatures(): bigint
  /** Writes the bits that the driver accepts. A legacy device has room for bits 0 to 31 only. */
  acceptFeatures(features: bigint): void
  /** What the device shows as accepted. */
  acceptedFeatures(): bigint
  /** The size of a queue as the device shows it: the largest possible after a reset. 0: there is no such queue. */
  queueSize(queue: number): number
  /** Takes memory for a ring of `queueSize` descriptors, enough for either kind, and the driver's part at a multiple of 4. */
  allocateRing(allocator: RamAllocator, queueSize: number): RingAllocation
  /** Tells the device where a ring is, and switches the queue on. */
  enableQueue(queue: number, layout: RingAddresses): void
  /** VIRTIO_F_RING_RESET: asks for the reset of one queue. Absent where the transport has no such thing. */
  resetQueue?(queue: number): void
  /** Whether the reset of a queue is finished. */
  isQueueReset?(queue: number): boolean
  /**
   * An available buffer notification. `availableIndex` goes along where NOTIFICATION_DATA is negotiated: of a packed ring the next slot in
   * bits 0 to 14, its wrap counter in bit 15.
   */
  notify(queue: number, availableIndex: number): void
  /** ISR status. Reading clears it and drops the interrupt line. */
  readIsr(): number
  /** Maps configuration changes to an MSI-X vector, or to none (`NO_VECTOR`). Returns what the device has made of it. */
  mapConfigVector(vector: number): number
  /** Maps a queue to an MSI-X vector, or to none. Returns what the device has made of it. */
  mapQueueVector(queue: number, vector: number): number
  /** One access to the device configuration. */
  readConfig(offset: number, width: Width): number
  writeConfig(offset: number, width: Width, value: number): void
  /** Runs `read` until nothing changed meanwhile, so that what it has read belongs together ([VIRTIO] 2.5.1). */
  stableConfig<T>(read: () => T): T
}

/** Give-up point of `stableConfig`: no device changes its configuration between any two reads. */
export const STABLE_CONFIG_TRIES = 100

/** Takes memory for the three parts of a ring, each with its own alignment. @throws DriverError ("no-memory") */
export function allocateParts(allocator: RamAllocator, queueSize: number): RingAllocation {
  const pieces: number[] = []
  const allocate = (length: number, alignment: number): number => {
    const piece = allocator.allocate(length, alignment)
    pieces.push(piece)
    return piece
  }
  try {
    const descriptorTable = allocate(descriptorTableSize(queueSize), RING_ALIGNMENT.DESCRIPTOR_TABLE)
    // As the used ring: the driver's event suppression of a packed ring, which lies there, wants that.
    const availableRing = allocate(availableRingSize(queueSize), RING_ALIGNMENT.USED_RING)
    const usedRing = allocate(usedRingSize(queueSize), RING_ALIGNMENT.USED_RING)
    return { layout: { queueSize, descriptorTable, availableRing, usedRing }, pieces }
  } catch (error) {
    for (const piece of pieces) allocator.free(piece)
    throw error
  }
}

/**
 * Takes memory for a ring in one piece, as legacy drivers need it. Never page 0, where the memory has it: that number means that there is
 * no ring ([VIRTIO] 4.1.4.10, 4.2.4). @throws DriverError ("no-memory")
 */
export function allocateLegacyRing(allocator: RamAllocator, queueSize: number): RingAllocation {
  const allocate = (length: number): number => allocator.allocate(length, LEGACY_QUEUE_ALIGN)
  let base = allocate(legacyRingSize(queueSize))
  if (base === 0) {
    allocator.free(base)
    const page = allocate(LEGACY_QUEUE_ALIGN)
    try {
      base = allocate(legacyRingSize(queueSize))
    } finally {
      allocator.free(page)
    }
  }
  return { layout: legacyRingLayout(queueSize, base), pieces: [base] }
}

/** @throws RangeError for a legacy ring on page 0: that number stops a queue */
export function checkLegacyPage(page: number): void {
  if (page === 0) throw new RangeError("a legacy ring cannot lie on page 0: that number means that there is none")
}

/** `stableConfig` without a generation register: reads until two results in a row are the same ([VIRTIO] 2.5.4). */
export function readUntilStable<T>(read: () => T): T {
  let last = read()
  for (let tries = 0; tries < STABLE_CONFIG_TRIES; tries++) {
    const next = read()
    if (JSON.stringify(next) === JSON.stringify(last)) return next
    last = next
  }
  throw new DriverError("protocol", `the configuration never read the same twice in ${STABLE_CONFIG_TRIES} attempts`)
}
