/** A guest's accesses to the registers of a virtio device over MMIO, of both versions ([VIRTIO] 4.2). Nothing is checked. */
import type { Machine } from "../../src/vmm/machine.ts"
import type { Space, Width } from "./pci.ts"
import type { RingPlace } from "./ring.ts"
import { LEGACY_UP, STATUS, UP, VERSION_1 } from "./words.ts"

/** Byte offsets: [VIRTIO] 4.2.2 and 4.2.4. */
export const MMIO = {
  magic: 0x000, version: 0x004, deviceId: 0x008, vendorId: 0x00c, deviceFeatures: 0x010, deviceFeaturesSel: 0x014, driverFeatures: 0x020,
  driverFeaturesSel: 0x024, guestPageSize: 0x028, queueSel: 0x030, queueSizeMax: 0x034, queueSize: 0x038, queueAlign: 0x03c,
  queuePfn: 0x040, queueReady: 0x044, queueNotify: 0x050, interruptStatus: 0x060, interruptAck: 0x064, status: 0x070, queueDescLow: 0x080,
  queueDescHigh: 0x084, queueDriverLow: 0x090, queueDriverHigh: 0x094, queueDeviceLow: 0x0a0, queueDeviceHigh: 0x0a4, shmSel: 0x0ac,
  shmLenLow: 0x0b0, shmLenHigh: 0x0b4, shmBaseLow: 0x0b8, shmBaseHigh: 0x0bc, queueReset: 0x0c0, configGeneration: 0x0fc, config: 0x100,
} as const

/** Bits of InterruptStatus. */
export const USED = 1
export const CONFIG = 2

/** The registers that both versions have. */
class MmioRegisters {
  readonly vm: Machine
  readonly address: number
  readonly line: number

  constructor(vm: Machine, disk: { readonly address: number; readonly line: number }) {
    this.vm = vm
    this.address = disk.address
    this.line = disk.line
  }

  read(offset: number, width: Width = 4): number {
    return this.vm.mmioRead(this.address + offset, width)
  }

  write(offset: number, value: number, width: Width = 4): void {
    this.vm.mmioWrite(this.address + offset, width, value)
  }

  /** A register of a queue. */
  queue(queue: number, offset: number): number {
    this.write(MMIO.queueSel, queue)
    return this.read(offset)
  }

  setQueue(queue: number, offset: number, value: number): void {
    this.write(MMIO.queueSel, queue)
    this.write(offset, value)
  }

  get status(): number {
    return this.read(MMIO.status)
  }

  set status(value: number) {
    this.write(MMIO.status, value)
  }

  offeredWord(select: number): number {
    this.write(MMIO.deviceFeaturesSel, select)
    return this.read(MMIO.deviceFeatures)
  }

  acceptWord(select: number, word: number): void {
    this.write(MMIO.driverFeaturesSel, select)
    this.write(MMIO.driverFeatures, word)
  }

  get interruptStatus(): number {
    return this.read(MMIO.interruptStatus)
  }

  acknowledge(bits: number): void {
    this.write(MMIO.interruptAck, bits)
  }

  get interrupted(): boolean {
    return this.vm.interrupts.level(this.line)
  }

  kick(queue = 0): void {
    this.write(MMIO.queueNotify, queue)
  }

  /** The device configuration space. */
  get device(): Space {
    return {
      read: (offset, width) => this.read(MMIO.config + offset, width),
      write: (offset, width, value) => this.write(MMIO.config + offset, value, width),
    }
  }

  get capacity(): number {
    return this.device.read(0, 4) + this.device.read(4, 4) * 2 ** 32
  }
}

/** Version 2. */
export class MmioGuest extends MmioRegisters {
  get offered(): bigint {
    return BigInt(this.offeredWord(0)) | (BigInt(this.offeredWord(1)) << 32n)
  }

  /** Reset, ACKNOWLEDGE, DRIVER, the features, FEATURES_OK. Returns whether FEATURES_OK stuck. */
  negotiate(features: bigint): boolean {
    for (const status of [0, STATUS.ACKNOWLEDGE, STATUS.ACKNOWLEDGE | STATUS.DRIVER]) this.status = status
    this.acceptWord(0, Number(features & 0xffff_ffffn))
    this.acceptWord(1, Number(features >> 32n))
    this.status = 0x0b
    return this.status === 0x0b
  }

  /** Sizes and places a queue; it is not ready yet. */
  place(queue: number, { size, desc, avail, used }: RingPlace): void {
    this.setQueue(queue, MMIO.queueSize, size)
    for (const [offset, address] of [[0x80, desc], [0x90, avail], [0xa0, used]] as const) {
      this.write(offset, address % 2 ** 32)
      this.write(offset + 4, Math.floor(address / 2 ** 32))
    }
  }

  enable(queue: number, place: RingPlace): void {
    this.place(queue, place)
    this.write(MMIO.queueReady, 1)
  }

  /** Goes all the way to DRIVER_OK, with `rings` as queues 0 and up. @throws when the device refuses the features. */
  start(rings: readonly RingPlace[], features: bigint = VERSION_1): void {
    if (!this.negotiate(features | VERSION_1)) throw new Error("FEATURES_OK refused")
    for (const [queue, each] of rings.entries()) this.enable(queue, each)
    this.status = UP
  }
}

/** Version 1. */
export class LegacyMmioGuest extends MmioRegisters {
  /** Reset, ACKNOWLEDGE, DRIVER, features 0 to 31, the page size. */
  negotiate(features = 0, pageSize = 4096): void {
    for (const status of [0, STATUS.ACKNOWLEDGE, STATUS.ACKNOWLEDGE | STATUS.DRIVER]) this.status = status
    this.acceptWord(0, features)
    this.write(MMIO.guestPageSize, pageSize)
  }

  /** Places a queue at a page and starts it. */
  enable(queue: number, { size, page, align = 4096 }: { readonly size: number; readonly page: number; readonly align?: number }): void {
    this.setQueue(queue, MMIO.queueSize, size)
    this.write(MMIO.queueAlign, align)
    this.write(MMIO.queuePfn, page)
  }

  /** Goes all the way to DRIVER_OK with one ring, in the layout of `legacyPlace`. */
  start(ring: RingPlace, features = 0): void {
    this.negotiate(features)
    this.enable(0, { size: ring.size, page: ring.desc / 4096 })
    this.status = LEGACY_UP
  }
}
