/** The common configuration structure of virtio over PCI ([VIRTIO] 4.1.4.3), as a table of registers. */
import { VIRTIO_F } from "../spec.ts"
import type { TransportedDevice } from "../transport.ts"
import { type Register, RegisterBlock } from "./register-block.ts"
import { NO_VECTOR, type Vectors } from "./vectors.ts"

/** Bytes of the structure, the fields of features that we do not offer included. */
export const COMMON_CONFIG_SIZE = 0x40

/** What the registers need of the transport. */
export interface CommonConfigHost {
  readonly vectors: Vectors
  /** The notification offset of a queue, in units of the notification capability's multiplier. */
  notifyOffset(queue: number): number
}

/** Dwords of the three 64-bit queue addresses. */
const AREA_WORDS = 6

export class CommonConfig {
  readonly #device: TransportedDevice
  readonly #transport: CommonConfigHost
  readonly #registers: RegisterBlock
  #deviceFeatureSelect = 0
  #driverFeatureSelect = 0
  #queueSelect = 0

  constructor(device: TransportedDevice, transport: CommonConfigHost) {
    this.#device = device
    this.#transport = transport
    const queue = () => device.queue(this.#queueSelect)
    this.#registers = new RegisterBlock([
      { offset: 0x00, width: 4, read: () => this.#deviceFeatureSelect, write: (value) => (this.#deviceFeatureSelect = value) },
      { offset: 0x04, width: 4, read: () => device.negotiation.deviceFeatures(this.#deviceFeatureSelect) },
      { offset: 0x08, width: 4, read: () => this.#driverFeatureSelect, write: (value) => (this.#driverFeatureSelect = value) },
      {
        offset: 0x0c,
        width: 4,
        read: () => device.negotiation.driverFeatures(this.#driverFeatureSelect),
        write: (value) => device.setDriverFeatures(this.#driverFeatureSelect, value),
      },
      { offset: 0x10, width: 2, read: () => transport.vectors.config, write: (value) => (transport.vectors.config = value) },
      { offset: 0x12, width: 2, read: () => device.queueCount },
      { offset: 0x14, width: 1, read: () => device.status, write: (value) => device.writeStatus(value) },
      { offset: 0x15, width: 1, read: () => device.config.readGeneration() },
      { offset: 0x16, width: 2, read: () => this.#queueSelect, write: (value) => (this.#queueSelect = value) },
      { offset: 0x18, width: 2, read: () => queue()?.size ?? 0, write: (value) => queue()?.setSize(value) },
      {
        offset: 0x1a,
        width: 2,
        read: () => transport.vectors.queue(this.#queueSelect),
        write: (value) => transport.vectors.setQueue(this.#queueSelect, value),
      },
      // Only a reset disables a queue: everything but 1 is ignored.
      {
        offset: 0x1c,
        width: 2,
        read: () => (queue()?.enabled === true ? 1 : 0),
        write: (value) => value === 1 && queue()?.enable(),
      },
      { offset: 0x1e, width: 2, read: () => (queue() === undefined ? 0 : transport.notifyOffset(this.#queueSelect)) },
      ...this.#addressRegisters(0x20),
      { offset: 0x38, width: 2, read: () => this.#notifConfigData() },
      // A reset is complete at once.
      { offset: 0x3a, width: 2, read: () => 0, write: (value) => this.#resetQueue(value) },
    ])
  }

  read(offset: number, width: number): number {
    return this.#registers.read(offset, width)
  }

  write(offset: number, width: number, value: number): void {
    this.#registers.write(offset, width, value)
  }

  /** The three selectors, in the order of their registers. */
  get selects(): readonly number[] {
    return [this.#deviceFeatureSelect, this.#driverFeatureSelect, this.#queueSelect]
  }

  set selects(values: readonly number[]) {
    const [device = 0, driver = 0, queue = 0] = values
    this.#deviceFeatureSelect = device
    this.#driverFeatureSelect = driver
    this.#queueSelect = queue
  }

  reset(): void {
    this.#deviceFeatureSelect = 0
    this.#driverFeatureSelect = 0
    this.#queueSelect = 0
  }

  /** The reset includes the queue's vector ([VIRTIO] 2.6.1.1.1): the queue interrupts no more. */
  #resetQueue(value: number): void {
    if (value !== 1 || !this.#device.negotiation.isNegotiated(VIRTIO_F.RING_RESET)) return
    this.#transport.vectors.setQueue(this.#queueSelect, NO_VECTOR)
    this.#device.resetQueue(this.#queueSelect)
  }

  /** The data for a kick: the queue's index, as without the feature. */
  #notifConfigData(): number {
    const isThere = this.#device.negotiation.isNegotiated(VIRTIO_F.NOTIF_CONFIG_DATA)
    return isThere && this.#device.queue(this.#queueSelect) !== undefined ? this.#queueSelect : 0
  }

  /** Each half of an address can be written alone, and keeps what was written ([VIRTIO] 4.1.3.1). */
  #addressRegisters(offset: number): Register[] {
    return Array.from({ length: AREA_WORDS }, (_, word) => ({
      offset: offset + 4 * word,
      width: 4,
      read: () => this.#device.queue(this.#queueSelect)?.areaWord(word) ?? 0,
      write: (value) => this.#device.queue(this.#queueSelect)?.setAreaWord(word, value),
    }))
  }
}
