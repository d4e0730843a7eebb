/** The legacy interface: the registers of a driver from before virtio 1.0 ([VIRTIO] 4.1.4.10), in an I/O BAR. */
import type { GuestEndian } from "../legacy/big-endian-memory.ts"
import { LegacyConfig } from "../legacy/legacy-config.ts"
import { LEGACY_ALIGN, startLegacyQueue } from "../legacy/legacy-ring.ts"
import type { TransportedDevice } from "../transport.ts"
import { RegisterBlock } from "./register-block.ts"
import type { Vectors } from "./vectors.ts"

/** Unit of the queue address register. */
const PAGE_SIZE = 4096
/** Offset of the device configuration without MSI-X. With MSI-X enabled, the vectors come first. */
const CONFIG_OFFSET = 20
const CONFIG_OFFSET_MSIX = 24

/** Bytes that the registers and a device configuration of `configSize` bytes take: the size of BAR 0, a power of two. */
export function legacyBarSize(configSize: number): number {
  return 2 ** Math.ceil(Math.log2(CONFIG_OFFSET_MSIX + configSize))
}

/** What the registers need of the transport. */
export interface LegacyRegistersHost {
  /** Whether MSI-X is enabled in Message Control, which moves the device configuration. The capability alone does not. */
  readonly msixEnabled: boolean
  readonly vectors: Vectors
  /** Returns the interrupt status and clears it. */
  readIsr(): number
  /** A status that a legacy driver writes. */
  writeStatus(status: number): void
}

export class LegacyRegisters {
  readonly #device: TransportedDevice
  readonly #transport: LegacyRegistersHost
  readonly #registers: RegisterBlock
  readonly #vectors: RegisterBlock
  readonly #config: LegacyConfig
  #queueSelect = 0

  constructor(device: TransportedDevice, transport: LegacyRegistersHost, endian: GuestEndian) {
    this.#device = device
    this.#config = new LegacyConfig(device, endian)
    this.#transport = transport
    const selected = () => device.queue(this.#queueSelect)
    this.#registers = new RegisterBlock([
      { offset: 0x00, width: 4, read: () => device.negotiation.legacyDeviceFeatures },
      { offset: 0x04, width: 4, read: () => device.negotiation.driverFeatures(0), write: (value) => device.setDriverFeatures(0, value) },
      { offset: 0x08, width: 4, read: () => this.#pageNumber(), write: (value) => this.#setPageNumber(value) },
      { offset: 0x0c, width: 2, read: () => (selected() === undefined ? 0 : device.maxQueueSize) },
      { offset: 0x0e, width: 2, read: () => this.#queueSelect, write: (value) => (this.#queueSelect = value) },
      { offset: 0x10, width: 2, read: () => 0, write: (value) => device.notify(value) },
      { offset: 0x12, width: 1, read: () => device.status, write: (value) => transport.writeStatus(value) },
      { offset: 0x13, width: 1, read: () => transport.readIsr() },
    ])
    this.#vectors = new RegisterBlock([
      { offset: 0x14, width: 2, read: () => transport.vectors.config, write: (value) => (transport.vectors.config = value) },
      {
        offset: 0x16,
        width: 2,
        read: () => transport.vectors.queue(this.#queueSelect),
        write: (value) => transport.vectors.setQueue(this.#queueSelect, value),
      },
    ])
  }

  read(offset: number, width: number): number {
    if (offset < CONFIG_OFFSET) return this.#registers.read(offset, width)
    if (!this.#transport.msixEnabled) return this.#config.read(offset - CONFIG_OFFSET, width)
    return offset < CONFIG_OFFSET_MSIX ? this.#vectors.read(offset, width) : this.#config.read(offset - CONFIG_OFFSET_MSIX, width)
  }

  write(offset: number, width: number, value: number): void {
    if (offset < CONFIG_OFFSET) this.#registers.write(offset, width, value)
    else if (!this.#transport.msixEnabled) this.#config.write(offset - CONFIG_OFFSET, width, value)
    else if (offset < CONFIG_OFFSET_MSIX) this.#vectors.write(offset, width, value)
    else this.#config.write(offset - CONFIG_OFFSET_MSIX, width, value)
  }

  reset(): void {
    this.#queueSelect = 0
  }

  get queueSelect(): number {
    return this.#queueSelect
  }

  set queueSelect(value: number) {
    this.#queueSelect = value
  }

  #pageNumber(): number {
    const queue = this.#device.queue(this.#queueSelect)
    return queue?.enabled === true ? Math.floor(queue.descriptorTable / PAGE_SIZE) % 2 ** 32 : 0
  }

  /** Places the whole ring at a page ([VIRTIO] 4.1.5.1.3.1), and starts the queue; page 0 stops it (LEG-09). Its size is fixed (LEG-10). */
  #setPageNumber(page: number): void {
    this.#device.resetQueue(this.#queueSelect)
    if (page !== 0) startLegacyQueue(this.#device, this.#queueSelect, { base: page * PAGE_SIZE, align: LEGACY_ALIGN })
  }
}
