/** A guest's accesses to the registers of a virtio PCI function, modern and legacy. Nothing is checked. */
import type { Machine } from "../../src/vmm/machine.ts"
import { PciGuest, type Space, type Structure, type Width } from "./pci.ts"
import type { RingPlace } from "./ring.ts"
import { CAP, COMMON, LEGACY, LEGACY_UP, STATUS, UP, VERSION_1 } from "./words.ts"

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

  accept(features: bigint): void {
    this.acceptWord(0, Number(features & 0xffff_ffffn))
    this.acceptWord(1, Number(features >> 32n))
  }

  /** Reset (of a device that has nothing in flight), ACKNOWLEDGE, DRIVER, the features, FEATURES_OK. Returns whether FEATURES_OK stuck. */
  negotiate(features: bigint): boolean {
    for (const status of [0, STATUS.ACKNOWLEDGE, STATUS.ACKNOWLEDGE | STATUS.DRIVER]) this.status = status
    this.accept(features)
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

  enable(queue: number, { size, desc, avail, used }: RingPlace): void {
    this.setQueueRegister(queue, COMMON.queueSize, 2, size)
    for (const [offset, address] of [[COMMON.queueDesc, desc], [COMMON.queueDriver, avail], [COMMON.queueDevice, used]] as const) {
      this.common.write(offset, 4, address % 2 ** 32)
      this.common.write(offset + 4, 4, Math.floor(address / 2 ** 32))
    }
    this.common.write(COMMON.queueEnable, 2, 1)
  }

  /** Goes all the way to DRIVER_OK, with `rings` as queues 0 and up. @throws when the device refuses the features. */
  start(rings: readonly RingPlace[], features: bigint = VERSION_1): void {
    if (!this.negotiate(features | VERSION_1)) throw new Error("FEATURES_OK refused")
    for (const [queue, each] of rings.entries()) this.enable(queue, each)
    this.status = UP
  }

  kick(queue = 0): void {
    this.bell(queue)()
  }

  /** A function that kicks a queue. It looks up the register only once, for use in loops. */
  bell(queue: number): () => void {
    const { vm, notify } = this
    const { io, address } = this.barAddress(notify.bar)
    const at = address + notify.offset + this.queueRegister(queue, COMMON.queueNotifyOff, 2) * this.multiplier
    return io ? () => vm.portWrite(at, 2, queue) : () => vm.mmioWrite(at, 2, queue)
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

  accept(features: bigint): void {
    this.io.write(LEGACY.driverFeatures, 4, Number(features & 0xffff_ffffn))
  }

  /** Reset, ACKNOWLEDGE, DRIVER, the features. */
  negotiate(features: bigint): void {
    for (const status of [0, STATUS.ACKNOWLEDGE, STATUS.ACKNOWLEDGE | STATUS.DRIVER]) this.status = status
    this.accept(features)
  }

  /** The device configuration space, after the MSI-X registers if MSI-X is enabled. */
  get device(): Space {
    return this.space(0, Number.isNaN(this.msixAt) || this.config(this.msixAt + 2, 2) < 0x8000 ? LEGACY.device : LEGACY.deviceMsix)
  }

  get capacity(): number {
    return this.device.read(0, 4) + this.device.read(4, 4) * 2 ** 32
  }

  queueSize(queue: number): number {
    this.io.write(LEGACY.queueSelect, 2, queue)
    return this.io.read(LEGACY.queueSize, 2)
  }

  /** Puts a queue's contiguous ring at a page. */
  place(queue: number, page: number): void {
    this.io.write(LEGACY.queueSelect, 2, queue)
    this.io.write(LEGACY.queueAddress, 4, page)
  }

  /** Reset, ACKNOWLEDGE, DRIVER, features, queue 0, DRIVER_OK. */
  start(ring: RingPlace, features = 0): void {
    this.negotiate(BigInt(features))
    this.place(0, ring.desc / 4096)
    this.status = LEGACY_UP
  }

  kick(queue = 0): void {
    this.bell(queue)()
  }

  bell(queue: number): () => void {
    const { vm } = this
    const at = this.barAddress(0).address + LEGACY.queueNotify
    return () => vm.portWrite(at, 2, queue)
  }

  readIsr(): number {
    return this.io.read(LEGACY.isr, 1)
  }
}
