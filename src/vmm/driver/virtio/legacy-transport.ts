/**
 * LegacyDriverTransport: the interface that drivers used before virtio 1.0, in I/O BAR0. [VIRTIO] 4.1.4.10.
 * Fields of rings, requests and configuration are in the guest's byte order.
 */
import { DriverError } from "../errors.ts"
import type { MsixTable } from "../pci/msix.ts"
import type { PciDevice } from "../pci/device.ts"
import type { Width } from "../platform.ts"
import type { RamAllocator } from "../ram-allocator.ts"
import type { Registers } from "../pci/registers.ts"
import { legacyRingLayout, type RingAddresses } from "./rings/ring-layout.ts"
import { allocateLegacyRing, checkLegacyPage, type DriverTransport, readUntilStable, type RingAllocation } from "./transport.ts"
import { LEGACY, LEGACY_QUEUE_ALIGN, NO_VECTOR } from "./spec.ts"

/** The registers of a legacy or transitional device. */
export class LegacyDriverTransport implements DriverTransport {
  readonly kind = "legacy"
  readonly isQueueSizeFixed = true
  /** BAR0, for accesses that the methods do not offer. */
  readonly registers: Registers
  readonly #msix: MsixTable | undefined

  /** @throws DriverError ("unsupported") when BAR0 is not in I/O space */
  constructor(device: PciDevice) {
    const bar = device.bars().find((each) => each.index === 0)
    if (bar?.space !== "io") {
      throw new DriverError("unsupported", `${device.name}: BAR0 is not in I/O space; there is no legacy virtio interface`)
    }
    this.registers = device.registers(0)
    this.#msix = device.msix()
  }

  get status(): number {
    return this.registers.read(LEGACY.DEVICE_STATUS, 1)
  }

  set status(value: number) {
    this.registers.write(LEGACY.DEVICE_STATUS, 1, value)
  }

  offeredFeatures(): bigint {
    return BigInt(this.registers.read(LEGACY.DEVICE_FEATURES, 4))
  }

  acceptFeatures(features: bigint): void {
    this.registers.write(LEGACY.DRIVER_FEATURES, 4, Number(features & 0xffff_ffffn))
  }

  acceptedFeatures(): bigint {
    return BigInt(this.registers.read(LEGACY.DRIVER_FEATURES, 4))
  }

  queueSize(queue: number): number {
    this.#select(queue)
    return this.registers.read(LEGACY.QUEUE_SIZE, 2)
  }

  allocateRing(allocator: RamAllocator, queueSize: number): RingAllocation {
    return allocateLegacyRing(allocator, queueSize)
  }

  /** Writes the page number; everything else about the ring follows from the queue size. */
  enableQueue(queue: number, layout: RingAddresses): void {
    const page = layout.descriptorTable / LEGACY_QUEUE_ALIGN
    const expected = legacyRingLayout(layout.queueSize, layout.descriptorTable)
    if (layout.availableRing !== expected.availableRing || layout.usedRing !== expected.usedRing || page > 0xffff_ffff) {
      throw new RangeError("a legacy ring is contiguous, as legacyRingLayout has it, and lies below 2^44")
    }
    checkLegacyPage(page)
    this.#select(queue)
    this.registers.write(LEGACY.QUEUE_ADDRESS, 4, page)
  }

  notify(queue: number): void {
    this.registers.write(LEGACY.QUEUE_NOTIFY, 2, queue)
  }

  readIsr(): number {
    return this.registers.read(LEGACY.ISR_STATUS, 1)
  }

  mapConfigVector(vector: number): number {
    if (!this.#isMsixEnabled) return NO_VECTOR
    this.registers.write(LEGACY.CONFIG_MSIX_VECTOR, 2, vector)
    return this.registers.read(LEGACY.CONFIG_MSIX_VECTOR, 2)
  }

  mapQueueVector(queue: number, vector: number): number {
    if (!this.#isMsixEnabled) return NO_VECTOR
    this.#select(queue)
    this.registers.write(LEGACY.QUEUE_MSIX_VECTOR, 2, vector)
    return this.registers.read(LEGACY.QUEUE_MSIX_VECTOR, 2)
  }

  readConfig(offset: number, width: Width): number {
    return this.registers.read(this.#configBase + offset, width)
  }

  writeConfig(offset: number, width: Width, value: number): void {
    this.registers.write(this.#configBase + offset, width, value)
  }

  /** There is no generation register. */
  stableConfig<T>(read: () => T): T {
    return readUntilStable(read)
  }

  #select(queue: number): void {
    this.registers.write(LEGACY.QUEUE_SELECT, 2, queue)
  }

  /** The two vector registers exist while MSI-X is enabled, and shift the configuration. Asked each time: anybody may switch. */
  get #isMsixEnabled(): boolean {
    return this.#msix?.enabled ?? false
  }

  get #configBase(): number {
    return this.#isMsixEnabled ? LEGACY.DEVICE_CONFIG_MSIX : LEGACY.DEVICE_CONFIG
  }
}
