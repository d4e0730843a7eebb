/**
 * What a guest does to one virtio PCI function, by bare accesses to ports, memory and RAM: configuration space, capabilities, the modern and
 * the legacy registers. Numbers are those of the specifications, typed anew: nothing here knows the device's source.
 */
import { Machine } from "../../src/vmm/machine.ts"

export type Width = 1 | 2 | 4

/** [VIRTIO] 2.1. */
export const STATUS = { ACKNOWLEDGE: 0x01, DRIVER: 0x02, DRIVER_OK: 0x04, FEATURES_OK: 0x08, SUSPEND: 0x10, NEEDS_RESET: 0x40, FAILED: 0x80 } as const
/** [VIRTIO] 3.1.1: the steps of a modern driver, and of a legacy one. */
export const UP = 0x0f
export const LEGACY_UP = 0x07

/** [VIRTIO] 4.1.4.3: offsets in the common configuration structure. */
export const COMMON = {
  deviceFeatureSelect: 0x00, deviceFeature: 0x04, driverFeatureSelect: 0x08, driverFeature: 0x0c, configVector: 0x10, numQueues: 0x12, status: 0x14, generation: 0x15,
  queueSelect: 0x16, queueSize: 0x18, queueVector: 0x1a, queueEnable: 0x1c, queueNotifyOff: 0x1e, queueDesc: 0x20, queueDriver: 0x28, queueDevice: 0x30,
  queueNotifConfigData: 0x38, queueReset: 0x3a, adminQueueIndex: 0x3c, adminQueueNum: 0x3e,
} as const

/** [VIRTIO] 4.1.4.10: offsets in BAR 0. */
export const LEGACY = {
  deviceFeatures: 0x00, driverFeatures: 0x04, queueAddress: 0x08, queueSize: 0x0c, queueSelect: 0x0e, queueNotify: 0x10, status: 0x12, isr: 0x13,
  configVector: 0x14, queueVector: 0x16, device: 0x14, deviceMsix: 0x18,
} as const

/** [VIRTIO] 4.1.4: cfg_type. */
export const CAP = { COMMON: 1, NOTIFY: 2, ISR: 3, DEVICE: 4, PCI: 5 } as const
export const NO_VECTOR = 0xffff

/** [VIRTIO] 5.2.3 and 6: feature bits. */
export const BIT = {
  SIZE_MAX: 1, SEG_MAX: 2, GEOMETRY: 4, RO: 5, BLK_SIZE: 6, FLUSH: 9, TOPOLOGY: 10, CONFIG_WCE: 11, MQ: 12, DISCARD: 13, WRITE_ZEROES: 14, LIFETIME: 15, SECURE_ERASE: 16,
  ZONED: 17, NOTIFY_ON_EMPTY: 24, ANY_LAYOUT: 27, UNUSED_30: 30, INDIRECT_DESC: 28, EVENT_IDX: 29, VERSION_1: 32, ACCESS_PLATFORM: 33, RING_PACKED: 34, IN_ORDER: 35,
  ORDER_PLATFORM: 36, SR_IOV: 37, NOTIFICATION_DATA: 38, NOTIF_CONFIG_DATA: 39, RING_RESET: 40, ADMIN_VQ: 41, SUSPEND: 43,
} as const

/** The feature word with these bits. */
export function mask(...bits: readonly number[]): bigint {
  return bits.reduce((word, bit) => word | (1n << BigInt(bit)), 0n)
}

export const VERSION_1 = mask(BIT.VERSION_1)

/** Registers, by offset. */
export interface Space {
  read(offset: number, width: Width): number
  write(offset: number, width: Width, value: number): void
}

/** One virtio capability, [VIRTIO] 4.1.4, as it stands in configuration space. */
export interface Structure extends Space {
  /** Offset of the capability in configuration space. */
  readonly at: number
  readonly capLength: number
  readonly type: number
  readonly bar: number
  readonly offset: number
  readonly length: number
}

/** A PCI function, by configuration mechanism #1. */
export class PciGuest {
  readonly vm: Machine
  readonly slot: number

  constructor(vm: Machine, slot: number) {
    this.vm = vm
    this.slot = slot
  }

  config(offset: number, width: Width): number {
    this.vm.portWrite(0xcf8, 4, 0x8000_0000 + this.slot * 0x800 + (offset & 0xfc))
    return this.vm.portRead(0xcfc + (offset & 3), width)
  }

  setConfig(offset: number, width: Width, value: number): void {
    this.vm.portWrite(0xcf8, 4, 0x8000_0000 + this.slot * 0x800 + (offset & 0xfc))
    this.vm.portWrite(0xcfc + (offset & 3), width, value)
  }

  /** Command: I/O 1, memory 2, bus master 4, INTx disable 0x400. */
  get command(): number {
    return this.config(0x04, 2)
  }

  set command(value: number) {
    this.setConfig(0x04, 2, value)
  }

  /** Status bit 3. */
  get interruptStatus(): boolean {
    return (this.config(0x06, 2) & 8) !== 0
  }

  get line(): number {
    return this.config(0x3c, 1)
  }

  get interrupted(): boolean {
    return this.vm.interrupts.level(this.line)
  }

  /** The address in a BAR, of either space. */
  barAddress(index: number): { readonly io: boolean; readonly address: number } {
    const low = this.config(0x10 + 4 * index, 4)
    if ((low & 1) !== 0) return { io: true, address: (low & ~3) >>> 0 }
    const high = (low & 6) === 4 ? this.config(0x14 + 4 * index, 4) : 0
    return { io: false, address: ((low & ~15) >>> 0) + high * 2 ** 32 }
  }

  /** Registers behind a BAR, wherever it is at each access. */
  space(bar: number, offset = 0): Space {
    const { vm } = this
    return {
      read: (at, width) => {
        const { io, address } = this.barAddress(bar)
        return io ? vm.portRead(address + offset + at, width) : vm.mmioRead(address + offset + at, width)
      },
      write: (at, width, value) => {
        const { io, address } = this.barAddress(bar)
        if (io) vm.portWrite(address + offset + at, width, value)
        else vm.mmioWrite(address + offset + at, width, value)
      },
    }
  }

  /** [PCI] 6.7: the list, as far as it goes. */
  capabilities(): { readonly id: number; readonly at: number }[] {
    const found: { id: number; at: number }[] = []
    for (let at = this.config(0x34, 1); at !== 0 && found.length < 64; at = this.config(at + 1, 1)) found.push({ id: this.config(at, 1), at })
    return found
  }

  structures(): Structure[] {
    return this.capabilities().filter(({ id }) => id === 0x09).map(({ at }) => {
      const bar = this.config(at + 4, 1)
      const offset = this.config(at + 8, 4)
      return { at, capLength: this.config(at + 2, 1), type: this.config(at + 3, 1), bar, offset, length: this.config(at + 12, 4), ...this.space(bar, offset) }
    })
  }

  structure(type: number): Structure {
    const found = this.structures().find((each) => each.type === type)
    if (found === undefined) throw new Error(`slot ${this.slot} has no structure of type ${type}`)
    return found
  }

  /** The MSI-X capability's offset. */
  get msixAt(): number {
    return this.capabilities().find(({ id }) => id === 0x11)?.at ?? NaN
  }

  /** MSI-X table entry `vector`, with bit 15 of Message Control set. */
  programVector(vector: number, message: { readonly address: number; readonly data: number; readonly masked?: boolean }): void {
    const place = this.config(this.msixAt + 4, 4)
    const table = this.space(place & 7, (place & ~7) >>> 0)
    for (const [index, value] of [message.address % 2 ** 32, Math.floor(message.address / 2 ** 32), message.data, message.masked === true ? 1 : 0].entries()) table.write(16 * vector + 4 * index, 4, value)
    this.setConfig(this.msixAt + 2, 2, 0x8000)
  }
}

/** Where a ring's parts are, and how many descriptors it has. */
export interface Rings {
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
}

/** The modern interface. */
export class ModernGuest extends PciGuest {
  readonly common: Structure
  readonly notify: Structure
  readonly isr: Structure
  readonly device: Structure
  readonly multiplier: number

  constructor(vm: Machine, slot: number) {
    super(vm, slot)
    this.command = 7
    this.common = this.structure(CAP.COMMON)
    this.notify = this.structure(CAP.NOTIFY)
    this.isr = this.structure(CAP.ISR)
    this.device = this.structure(CAP.DEVICE)
    this.multiplier = this.config(this.notify.at + 16, 4)
  }

  get status(): number {
    return this.common.read(COMMON.status, 1)
  }

  set status(value: number) {
    this.common.write(COMMON.status, 1, value)
  }

  offeredWord(select: number): number {
    this.common.write(COMMON.deviceFeatureSelect, 4, select)
    return this.common.read(COMMON.deviceFeature, 4)
  }

  get offered(): bigint {
    return BigInt(this.offeredWord(0)) | (BigInt(this.offeredWord(1)) << 32n)
  }

  acceptWord(select: number, word: number): void {
    this.common.write(COMMON.driverFeatureSelect, 4, select)
    this.common.write(COMMON.driverFeature, 4, word)
  }

  get accepted(): bigint {
    const word = (select: number): bigint => {
      this.common.write(COMMON.driverFeatureSelect, 4, select)
      return BigInt(this.common.read(COMMON.driverFeature, 4))
    }
    return word(0) | (word(1) << 32n)
  }

  /** Reset (of a device that has nothing in flight), ACKNOWLEDGE, DRIVER, the features, FEATURES_OK. Returns whether that stuck. */
  negotiate(features: bigint): boolean {
    this.status = 0
    this.status = STATUS.ACKNOWLEDGE
    this.status = STATUS.ACKNOWLEDGE | STATUS.DRIVER
    this.acceptWord(0, Number(features & 0xffff_ffffn))
    this.acceptWord(1, Number(features >> 32n))
    this.status = 0x0b
    return this.status === 0x0b
  }

  queueRegister(queue: number, offset: number, width: Width): number {
    this.common.write(COMMON.queueSelect, 2, queue)
    return this.common.read(offset, width)
  }

  setQueueRegister(queue: number, offset: number, width: Width, value: number): void {
    this.common.write(COMMON.queueSelect, 2, queue)
    this.common.write(offset, width, value)
  }

  enable(queue: number, rings: Rings): void {
    this.setQueueRegister(queue, COMMON.queueSize, 2, rings.size)
    for (const [offset, address] of [[COMMON.queueDesc, rings.desc], [COMMON.queueDriver, rings.avail], [COMMON.queueDevice, rings.used]] as const) {
      this.common.write(offset, 4, address)
      this.common.write(offset + 4, 4, 0)
    }
    this.common.write(COMMON.queueEnable, 2, 1)
  }

  /** The whole way to DRIVER_OK with `rings` as queues 0 and up. Throws where the device refuses. */
  start(rings: readonly Rings[], features: bigint = VERSION_1): void {
    if (!this.negotiate(features | VERSION_1)) throw new Error("FEATURES_OK refused")
    for (const [queue, each] of rings.entries()) this.enable(queue, each)
    this.status = UP
  }

  kick(queue = 0): void {
    this.notify.write(this.queueRegister(queue, COMMON.queueNotifyOff, 2) * this.multiplier, 2, queue)
  }

  readIsr(): number {
    return this.isr.read(0, 1)
  }

  get capacity(): number {
    return this.device.read(0, 4) + this.device.read(4, 4) * 2 ** 32
  }
}

/** The legacy interface. */
export class LegacyGuest extends PciGuest {
  readonly io: Space

  constructor(vm: Machine, slot: number) {
    super(vm, slot)
    this.command = 7
    this.io = this.space(0)
  }

  get status(): number {
    return this.io.read(LEGACY.status, 1)
  }

  set status(value: number) {
    this.io.write(LEGACY.status, 1, value)
  }

  get offered(): number {
    return this.io.read(LEGACY.deviceFeatures, 4)
  }

  /** Puts a queue's contiguous ring at a page. */
  place(queue: number, page: number): void {
    this.io.write(LEGACY.queueSelect, 2, queue)
    this.io.write(LEGACY.queueAddress, 4, page)
  }

  /** Reset, ACKNOWLEDGE, DRIVER, features, queue 0, DRIVER_OK. */
  start(rings: Rings, features = 0): void {
    for (const status of [0, 0x01, 0x03]) this.status = status
    this.io.write(LEGACY.driverFeatures, 4, features)
    this.place(0, rings.desc / 4096)
    this.status = LEGACY_UP
  }

  kick(queue = 0): void {
    this.io.write(LEGACY.queueNotify, 2, queue)
  }

  readIsr(): number {
    return this.io.read(LEGACY.isr, 1)
  }
}
