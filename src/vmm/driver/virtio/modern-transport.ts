/**
 * ModernDriverTransport: virtio 1.x over PCI, through BARs or through the configuration access window. [VIRTIO] 4.1.4.
 */
import { WindowRegisters } from "./config-window.ts"
import { DriverError } from "../errors.ts"
import { includesFeature } from "./features.ts"
import type { PciDevice } from "../pci/device.ts"
import type { Width } from "../platform.ts"
import type { RamAllocator } from "../ram-allocator.ts"
import type { Registers } from "../pci/registers.ts"
import type { RingAddresses } from "./rings/ring-layout.ts"
import { allocateParts, type RingAllocation, STABLE_CONFIG_TRIES, type DriverTransport } from "./transport.ts"
import { type VirtioCapability, virtioCapabilities } from "./capabilities.ts"
import { CAP_FIELD, COMMON, VIRTIO_PCI_CAP } from "./spec.ts"

export interface ModernDriverTransportOptions {
  /** How to reach the registers. Default "bar". */
  readonly access?: "bar" | "window"
}

/** The registers of a virtio 1.x device. */
export class ModernDriverTransport implements DriverTransport {
  readonly kind = "modern"
  /** struct virtio_pci_common_cfg, for accesses that the methods do not offer. */
  readonly common: Registers
  readonly #notify: Registers
  readonly #isr: Registers
  readonly #config: Registers
  readonly #notifyMultiplier: number
  readonly #notifyLength: number
  /** For each queue seen: byte offset in the notification structure, and the value that a kick carries. */
  readonly #notifyAt: { readonly offset: number; readonly value: number }[] = []
  #features = 0n

  /** @throws DriverError ("unsupported") when a structure that must be there is not */
  constructor(device: PciDevice, options: ModernDriverTransportOptions = {}) {
    const capabilities = virtioCapabilities(device)
    const find = (type: number, name: string): VirtioCapability => {
      const found = capabilities.find((capability) => capability.type === type)
      if (found === undefined) {
        throw new DriverError("unsupported", `${device.name}: no virtio ${name} capability; it is not a modern virtio device`)
      }
      return found
    }
    const open = (capability: VirtioCapability): Registers => {
      if (options.access !== "window") return device.registers(capability.bar, capability.offset)
      const window = find(VIRTIO_PCI_CAP.PCI_CFG, "configuration access")
      return new WindowRegisters(device, { at: window.at, bar: capability.bar, offset: capability.offset })
    }
    const notify = find(VIRTIO_PCI_CAP.NOTIFY, "notification")
    this.common = open(find(VIRTIO_PCI_CAP.COMMON, "common configuration"))
    this.#notify = open(notify)
    this.#isr = open(find(VIRTIO_PCI_CAP.ISR, "ISR status"))
    this.#config = open(find(VIRTIO_PCI_CAP.DEVICE, "device configuration"))
    this.#notifyMultiplier = device.read32(notify.at + CAP_FIELD.NOTIFY_MULTIPLIER)
    this.#notifyLength = notify.length
  }

  get status(): number {
    return this.common.read(COMMON.DEVICE_STATUS, 1)
  }

  set status(value: number) {
    this.common.write(COMMON.DEVICE_STATUS, 1, value)
  }

  /** Number of queues that the device has. */
  get queueCount(): number {
    return this.common.read(COMMON.NUM_QUEUES, 2)
  }

  offeredFeatures(): bigint {
    return this.#readWords(COMMON.DEVICE_FEATURE_SELECT, COMMON.DEVICE_FEATURE)
  }

  acceptFeatures(features: bigint): void {
    this.#features = features
    for (let word = 0; word < 2; word++) {
      this.common.write(COMMON.DRIVER_FEATURE_SELECT, 4, word)
      this.common.write(COMMON.DRIVER_FEATURE, 4, Number((features >> BigInt(32 * word)) & 0xffff_ffffn))
    }
  }

  acceptedFeatures(): bigint {
    return this.#readWords(COMMON.DRIVER_FEATURE_SELECT, COMMON.DRIVER_FEATURE)
  }

  queueSize(queue: number): number {
    this.#select(queue)
    return this.common.read(COMMON.QUEUE_SIZE, 2)
  }

  /** Allocates the three parts separately, each with its own alignment. */
  allocateRing(allocator: RamAllocator, queueSize: number): RingAllocation {
    return allocateParts(allocator, queueSize)
  }

  enableQueue(queue: number, layout: RingAddresses): void {
    this.#select(queue)
    this.common.write(COMMON.QUEUE_SIZE, 2, layout.queueSize)
    this.#writeAddress(COMMON.QUEUE_DESC, layout.descriptorTable)
    this.#writeAddress(COMMON.QUEUE_DRIVER, layout.availableRing)
    this.#writeAddress(COMMON.QUEUE_DEVICE, layout.usedRing)
    this.#notifyAt[queue] = this.#locateNotify(queue)
    this.common.write(COMMON.QUEUE_ENABLE, 2, 1)
  }

  resetQueue(queue: number): void {
    this.#select(queue)
    this.common.write(COMMON.QUEUE_RESET, 2, 1)
  }

  isQueueReset(queue: number): boolean {
    this.#select(queue)
    return this.common.read(COMMON.QUEUE_RESET, 2) === 0 && this.common.read(COMMON.QUEUE_ENABLE, 2) === 0
  }

  notify(queue: number, availableIndex: number): void {
    const { offset, value } = (this.#notifyAt[queue] ??= this.#locateNotify(queue))
    // [VIRTIO] 4.1.5.2: 16 bits, or 32 with next_off in bits 16-30 and next_wrap in bit 31, which together are the index.
    if (includesFeature(this.#features, "NOTIFICATION_DATA")) this.#notify.write(offset, 4, value + (availableIndex & 0xffff) * 0x1_0000)
    else this.#notify.write(offset, 2, value)
  }

  readIsr(): number {
    return this.#isr.read(0, 1)
  }

  mapConfigVector(vector: number): number {
    this.common.write(COMMON.CONFIG_MSIX_VECTOR, 2, vector)
    return this.common.read(COMMON.CONFIG_MSIX_VECTOR, 2)
  }

  mapQueueVector(queue: number, vector: number): number {
    this.#select(queue)
    this.common.write(COMMON.QUEUE_MSIX_VECTOR, 2, vector)
    return this.common.read(COMMON.QUEUE_MSIX_VECTOR, 2)
  }

  readConfig(offset: number, width: Width): number {
    return this.#config.read(offset, width)
  }

  writeConfig(offset: number, width: Width, value: number): void {
    this.#config.write(offset, width, value)
  }

  stableConfig<T>(read: () => T): T {
    for (let tries = 0; tries < STABLE_CONFIG_TRIES; tries++) {
      const before = this.common.read(COMMON.CONFIG_GENERATION, 1)
      const value = read()
      if (this.common.read(COMMON.CONFIG_GENERATION, 1) === before) return value
    }
    throw new DriverError("protocol", `config_generation changed during each of ${STABLE_CONFIG_TRIES} attempts to read the configuration`)
  }

  #select(queue: number): void {
    this.common.write(COMMON.QUEUE_SELECT, 2, queue)
  }

  #readWords(select: number, word: number): bigint {
    this.common.write(select, 4, 0)
    const low = this.common.read(word, 4)
    this.common.write(select, 4, 1)
    return BigInt(low) | (BigInt(this.common.read(word, 4)) << 32n)
  }

  /** A 64-bit field is two of 32 bits, the low one first. */
  #writeAddress(field: number, address: number): void {
    this.common.write(field, 4, address % 2 ** 32)
    this.common.write(field + 4, 4, Math.floor(address / 2 ** 32))
  }

  /** Where and with what to kick a queue: [VIRTIO] 4.1.4.4. */
  #locateNotify(queue: number): { offset: number; value: number } {
    this.#select(queue)
    const offset = this.common.read(COMMON.QUEUE_NOTIFY_OFF, 2) * this.#notifyMultiplier
    const width = includesFeature(this.#features, "NOTIFICATION_DATA") ? 4 : 2
    if (offset + width > this.#notifyLength) {
      throw new DriverError(
        "protocol",
        `queue ${queue} is to be notified at ${offset}, beyond the ${this.#notifyLength} bytes of the notification structure`,
      )
    }
    const value = includesFeature(this.#features, "NOTIF_CONFIG_DATA") ? this.common.read(COMMON.QUEUE_NOTIF_CONFIG_DATA, 2) : queue
    return { offset, value }
  }
}
