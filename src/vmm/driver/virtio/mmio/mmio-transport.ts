/** The registers of virtio over MMIO, as a driver uses them: what both versions share, version 2, and version 1. [VIRTIO] 4.2. */
import { DriverError } from "../../errors.ts"
import type { Registers } from "../../pci/registers.ts"
import type { Width } from "../../platform.ts"
import type { RamAllocator } from "../../ram-allocator.ts"
import { includesFeature } from "../features.ts"
import type { RingAddresses } from "../rings/ring-layout.ts"
import { LEGACY_QUEUE_ALIGN, NO_VECTOR, NOBODY } from "../spec.ts"
import {
  allocateLegacyRing, allocateParts, checkLegacyPage, type DriverTransport, readUntilStable, type RingAllocation, STABLE_CONFIG_TRIES,
} from "../transport.ts"
import { MMIO, NOBODY_32 } from "./spec.ts"

abstract class MmioTransport {
  /** For accesses that the methods do not offer. */
  readonly registers: Registers
  protected features = 0n

  constructor(registers: Registers) {
    this.registers = registers
  }

  get status(): number {
    return this.registers.read(MMIO.STATUS, 4) & 0xff
  }

  set status(value: number) {
    this.registers.write(MMIO.STATUS, 4, value)
  }

  /** The register is write-only: what was written. */
  acceptedFeatures(): bigint {
    return this.features
  }

  queueSize(queue: number): number {
    return this.fromQueue(queue, MMIO.QUEUE_SIZE_MAX)
  }

  /** [VIRTIO] 4.2.3.3: the queue's index, with the ring's position above it where NOTIFICATION_DATA is negotiated. */
  notify(queue: number, availableIndex: number): void {
    const position = includesFeature(this.features, "NOTIFICATION_DATA") ? (availableIndex & 0xffff) * 0x1_0000 : 0
    this.registers.write(MMIO.QUEUE_NOTIFY, 4, queue + position)
  }

  /** Acknowledges what it returns: an event that comes later sets its bit anew. */
  readIsr(): number {
    const pending = this.registers.read(MMIO.INTERRUPT_STATUS, 4)
    if (pending === NOBODY_32) return NOBODY
    if (pending !== 0) this.registers.write(MMIO.INTERRUPT_ACK, 4, pending)
    return pending
  }

  mapConfigVector(): number {
    return NO_VECTOR
  }

  mapQueueVector(): number {
    return NO_VECTOR
  }

  protected featureWord(word: number): bigint {
    this.registers.write(MMIO.DEVICE_FEATURES_SEL, 4, word)
    return BigInt(this.registers.read(MMIO.DEVICE_FEATURES, 4)) << BigInt(32 * word)
  }

  protected acceptWord(word: number): void {
    this.registers.write(MMIO.DRIVER_FEATURES_SEL, 4, word)
    this.registers.write(MMIO.DRIVER_FEATURES, 4, Number((this.features >> BigInt(32 * word)) & 0xffff_ffffn))
  }

  protected fromQueue(queue: number, register: number): number {
    this.registers.write(MMIO.QUEUE_SEL, 4, queue)
    return this.registers.read(register, 4)
  }

  protected toQueue(queue: number, register: number, value: number): void {
    this.registers.write(MMIO.QUEUE_SEL, 4, queue)
    this.registers.write(register, 4, value)
  }
}

/** Version 2: [VIRTIO] 4.2.2. */
export class MmioDriverTransport extends MmioTransport implements DriverTransport {
  readonly kind = "modern"

  offeredFeatures(): bigint {
    return this.featureWord(0) | this.featureWord(1)
  }

  acceptFeatures(features: bigint): void {
    this.features = features
    for (const word of [0, 1]) this.acceptWord(word)
  }

  allocateRing(allocator: RamAllocator, queueSize: number): RingAllocation {
    return allocateParts(allocator, queueSize)
  }

  /** @throws DriverError ("protocol") when the queue is in use already, or does not become ready */
  enableQueue(queue: number, layout: RingAddresses): void {
    if (this.fromQueue(queue, MMIO.QUEUE_READY) !== 0) throw new DriverError("protocol", `queue ${queue} is in use already`)
    this.registers.write(MMIO.QUEUE_SIZE, 4, layout.queueSize)
    const places = [
      [MMIO.QUEUE_DESC, layout.descriptorTable], [MMIO.QUEUE_DRIVER, layout.availableRing], [MMIO.QUEUE_DEVICE, layout.usedRing],
    ] as const
    for (const [register, address] of places) {
      this.registers.write(register, 4, address % 2 ** 32)
      this.registers.write(register + 4, 4, Math.floor(address / 2 ** 32))
    }
    this.registers.write(MMIO.QUEUE_READY, 4, 1)
    if (this.registers.read(MMIO.QUEUE_READY, 4) !== 1) throw new DriverError("protocol", `queue ${queue} did not become ready`)
  }

  resetQueue(queue: number): void {
    this.toQueue(queue, MMIO.QUEUE_RESET, 1)
  }

  isQueueReset(queue: number): boolean {
    return this.fromQueue(queue, MMIO.QUEUE_RESET) === 0 && this.fromQueue(queue, MMIO.QUEUE_READY) === 0
  }

  readConfig(offset: number, width: Width): number {
    return this.registers.read(MMIO.CONFIG + offset, width)
  }

  writeConfig(offset: number, width: Width, value: number): void {
    this.registers.write(MMIO.CONFIG + offset, width, value)
  }

  stableConfig<T>(read: () => T): T {
    for (let tries = 0; tries < STABLE_CONFIG_TRIES; tries++) {
      const before = this.registers.read(MMIO.CONFIG_GENERATION, 4)
      const value = read()
      if (this.registers.read(MMIO.CONFIG_GENERATION, 4) === before) return value
    }
    throw new DriverError("protocol", `ConfigGeneration changed during each of ${STABLE_CONFIG_TRIES} attempts to read the configuration`)
  }
}

/** Version 1, the legacy interface: [VIRTIO] 4.2.4. Its pages are those of `LEGACY_QUEUE_ALIGN`. */
export class LegacyMmioDriverTransport extends MmioTransport implements DriverTransport {
  readonly kind = "legacy"

  offeredFeatures(): bigint {
    return this.featureWord(0)
  }

  /** Says the size of a page, too: that comes before any queue. */
  acceptFeatures(features: bigint): void {
    this.features = features & 0xffff_ffffn
    this.acceptWord(0)
    this.registers.write(MMIO.GUEST_PAGE_SIZE, 4, LEGACY_QUEUE_ALIGN)
  }

  allocateRing(allocator: RamAllocator, queueSize: number): RingAllocation {
    return allocateLegacyRing(allocator, queueSize)
  }

  /** @throws DriverError ("protocol") when the queue is in use already, or does not take the page */
  enableQueue(queue: number, layout: RingAddresses): void {
    const page = layout.descriptorTable / LEGACY_QUEUE_ALIGN
    checkLegacyPage(page)
    if (this.fromQueue(queue, MMIO.QUEUE_PFN) !== 0) throw new DriverError("protocol", `queue ${queue} is in use already`)
    this.registers.write(MMIO.QUEUE_SIZE, 4, layout.queueSize)
    this.registers.write(MMIO.QUEUE_ALIGN, 4, LEGACY_QUEUE_ALIGN)
    this.registers.write(MMIO.QUEUE_PFN, 4, page)
    if (this.registers.read(MMIO.QUEUE_PFN, 4) !== page) throw new DriverError("protocol", `queue ${queue} did not accept page ${page}`)
  }

  readConfig(offset: number, width: Width): number {
    return this.registers.read(MMIO.CONFIG + offset, width)
  }

  writeConfig(offset: number, width: Width, value: number): void {
    this.registers.write(MMIO.CONFIG + offset, width, value)
  }

  stableConfig<T>(read: () => T): T {
    return readUntilStable(read)
  }
}
