/**
 * The register fuzzer for MMIO: a guest that reads and writes any register in any width, in any order, with what may be sense and mostly is
 * none, over rings that lie in RAM. Nothing throws, no register reads what it cannot hold, the device stores only where rings and chains
 * let it, the disk does not change, and after a reset an ordinary driver works.
 */
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { BlockDriver } from "../../../src/vmm/driver/block/driver.ts"
import { RamAllocator } from "../../../src/vmm/driver/ram-allocator.ts"
import { MmioDevice } from "../../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import type { AttachedMmioDisk } from "../../../src/vmm/mmio-disks.ts"
import { MMIO } from "../../harness/mmio.ts"
import type { Width } from "../../harness/pci.ts"
import { Ring } from "../../harness/ring.ts"
import { T } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"

const RAM = 0x4_0000
const QUEUES = 3
const SECTORS = 64
/** A ring's page, and a page for what it reads. There are so many of them, then RAM that nobody may touch. */
const RINGS = 8
const RING_PAGE = 0x2000
const RINGS_AT = 0x4000
const BUFFERS_AT = 0x1_4000
/** Where the driver works that comes in the end. */
const DRIVER_AT = 0x2_4000

/** Registers that hold a place in RAM. */
const PLACES: readonly number[] = [MMIO.queuePfn, MMIO.queueDescLow, MMIO.queueDriverLow, MMIO.queueDeviceLow]

/** A stretch of RAM that the device may store into, whatever its registers say. */
interface Range {
  readonly start: number
  readonly end: number
}

export class MmioRegisterFuzzer {
  /** Steps by kind. */
  readonly counts = new Map<string, number>()
  readonly #rng: Rng
  readonly #vm = new Machine({ ramSize: RAM })
  readonly #disk: AttachedMmioDisk
  readonly #backing: MemoryBacking
  readonly #content: Uint8Array
  readonly #rings: readonly Ring[]
  readonly #writable: readonly Range[]
  readonly #before = new Uint8Array(RAM)

  constructor(rng: Rng, version: 1 | 2) {
    this.#rng = rng
    this.#content = rng.bytes(SECTORS * 512)
    this.#backing = new MemoryBacking({ size: this.#content.length })
    this.#backing.pwrite(this.#content, 0)
    this.#disk = this.#vm.attachMmioDisk(this.#backing, { version, queues: QUEUES, queueSize: 64 })
    this.#vm.ram.fill(0x5c)
    this.#rings = Array.from({ length: RINGS }, (_, at) => this.#ringAt(at))
    this.#writable = [
      // Used rings lie where the registers say: in the rings' pages, or at the bottom of RAM for what nobody has written.
      { start: 0, end: 0x2000 },
      { start: RINGS_AT, end: RINGS_AT + RINGS * RING_PAGE },
      { start: BUFFERS_AT, end: BUFFERS_AT + 0x2000 * RINGS },
    ]
  }

  #ringAt(at: number): Ring {
    const desc = RINGS_AT + RING_PAGE * at
    const place = { desc, avail: desc + 16 * 64, used: desc + 0x1000 }
    return new Ring(this.#vm, { size: 64, place, buffers: BUFFERS_AT + 0x2000 * at })
  }

  /** So many accesses, and then a driver. @throws Error that says what was done and what came of it */
  async run(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) this.#step(step)
    await this.#driver()
  }

  #step(step: number): void {
    const rng = this.#rng
    const kinds: readonly (readonly [weight: number, name: string, act: () => void])[] = [
      [30, "any register", () => this.#anywhere()],
      [50, "a register with a plausible value", () => this.#plausible()],
      [4, "a queue set up as it should be", () => this.#setUp()],
      [4, "rings laid anew", () => this.#layRings()],
      [2, "a reset", () => this.#reset()],
      [1, "save and restore", () => this.#saveAndRestore()],
    ]
    let at = rng.below(kinds.reduce((sum, [weight]) => sum + weight, 0))
    const [, name, act] = kinds.find(([weight]) => (at -= weight) < 0) ?? [0, "", () => undefined]
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
    const before = this.#before
    before.set(this.#vm.ram)
    const isLaying = name === "rings laid anew"
    try {
      act()
      if (!isLaying) this.#checkRam(before)
      this.#checkRegisters()
    } catch (error) {
      throw new Error(`step ${step}, ${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
    }
  }

  /** Any access at all. A read is an unsigned number of its width. */
  #anywhere(): void {
    const rng = this.#rng
    const offset = rng.chance(0.9) ? rng.below(0x180) : rng.below(0x1000)
    const width = rng.pick([1, 2, 4, 4, 4] as const)
    // An address inside of RAM would let the device store there, and nobody could tell that from a mistake.
    const outside = rng.pick([0, 0x8000_0000 + rng.below(2 ** 31), 0xffff_ffff])
    const value = PLACES.includes(offset) ? outside : rng.pick([outside, 1, rng.below(256)])
    if (rng.chance(0.5)) this.#write(offset, value, width)
    else this.#read(offset, width)
  }

  /** A register that exists, with a value that might be meant. */
  #plausible(): void {
    const rng = this.#rng
    const ring = rng.pick(this.#rings)
    const values: readonly (readonly [register: number, values: readonly number[]])[] = [
      [MMIO.status, [0x01, 0x03, 0x0b, 0x0f, 0x07, 0x04, 0x08, 0x80, 0x40]],
      [MMIO.queueSel, [0, 1, 2, 3, 0xffff_ffff]],
      [MMIO.queueSize, [1, 2, 4, 16, 64, 128, 3, 0]],
      [MMIO.queueReady, [0, 1, 1, 1, 2]],
      [MMIO.queueReset, [0, 1]],
      [MMIO.queueNotify, [0, 0, 1, 2, 3, 0x8001_0000, 0xffff_ffff]],
      [MMIO.interruptAck, [1, 2, 3, 0xffff_ffff]],
      [MMIO.deviceFeaturesSel, [0, 1, 2]],
      [MMIO.driverFeaturesSel, [0, 1, 2]],
      [MMIO.driverFeatures, [0, 1, 0x3000_0000, 0x101, rng.below(2 ** 32)]],
      [MMIO.guestPageSize, [4096, 4096, 65536, 1, 0]],
      [MMIO.queueAlign, [4096, 4096, 4096, 0]],
      [MMIO.queuePfn, [ring.desc / 4096, ring.desc / 4096, 0, 0xffff_ffff]],
      [MMIO.queueDescLow, [ring.desc]],
      [MMIO.queueDriverLow, [ring.avail, ring.avail + 1]],
      [MMIO.queueDeviceLow, [ring.used, ring.used + 1]],
      [rng.pick([MMIO.queueDescHigh, MMIO.queueDriverHigh, MMIO.queueDeviceHigh]), [0, 0, 0, 1, 0xffff_ffff]],
      [MMIO.config + rng.below(0x60), [0, 1, 0xff]],
    ]
    const [register, choices] = rng.pick(values)
    this.#write(register, rng.pick(choices))
  }

  /** All that a driver does to start one queue, from wherever the device is; sometimes with a kick. */
  #setUp(): void {
    const rng = this.#rng
    const { desc, avail, used } = rng.pick(this.#rings)
    const queue = rng.below(QUEUES)
    if (rng.chance(0.5)) {
      for (const [register, value] of [
        [MMIO.status, 0], [MMIO.status, 3], [MMIO.driverFeaturesSel, 0], [MMIO.driverFeatures, rng.pick([0, 0x3000_0000])],
        [MMIO.driverFeaturesSel, 1], [MMIO.driverFeatures, 0x101], [MMIO.guestPageSize, 4096], [MMIO.status, 0x0b],
      ] as const) this.#write(register, value)
    }
    for (const [register, value] of [
      [MMIO.queueSel, queue], [MMIO.queueSize, 64], [MMIO.queueAlign, 4096], [MMIO.queueDescLow, desc], [MMIO.queueDescHigh, 0],
      [MMIO.queueDriverLow, avail], [MMIO.queueDriverHigh, 0], [MMIO.queueDeviceLow, used], [MMIO.queueDeviceHigh, 0],
      [MMIO.queuePfn, desc / 4096], [MMIO.queueReady, 1], [MMIO.status, 0x0f],
    ] as const) this.#write(register, value)
    if (rng.chance(0.7)) this.#write(MMIO.queueNotify, queue)
  }

  /** Rings as a driver leaves them, each with some reads to do, or with an index that cannot be. */
  #layRings(): void {
    for (const ring of this.#rings) {
      this.#vm.ram.fill(0, ring.desc, ring.desc + RING_PAGE)
      for (let slot = this.#rng.below(4); slot >= 0; slot--) ring.publish(ring.prepare(T.IN, this.#rng.below(SECTORS), 512).head)
      if (this.#rng.chance(0.1)) ring.availIdx = this.#rng.below(65536)
    }
  }

  /** Everything is as after power-on, at once. */
  #reset(): void {
    this.#write(MMIO.status, 0)
    const found = [MMIO.status, MMIO.interruptStatus].map((register) => this.#read(register))
    for (let queue = 0; queue < QUEUES; queue++) {
      this.#write(MMIO.queueSel, queue)
      found.push(this.#read(MMIO.queueReady), this.#read(MMIO.queuePfn), this.#read(MMIO.queueReset))
    }
    if (found.some((value) => value !== 0)) throw new Error(`after a reset the registers read ${found.join()}`)
    if (this.#vm.interrupts.raised.length > 0) throw new Error("after a reset the interrupt line is up")
  }

  #saveAndRestore(): void {
    const { device, transport } = this.#disk
    void device.pause()
    const text = JSON.stringify(transport.saveState())
    transport.restoreState(JSON.parse(text))
    const again = JSON.stringify(transport.saveState())
    device.resume()
    if (again !== text) throw new Error(`the state came back as ${again}, it was ${text}`)
  }

  #checkRegisters(): void {
    if (this.#read(MMIO.magic) !== 0x7472_6976) throw new Error("MagicValue has changed")
    const pending = this.#read(MMIO.interruptStatus)
    if (pending > 3) throw new Error(`InterruptStatus reads ${pending}`)
    if (this.#vm.interrupts.level(this.#disk.line) !== (pending !== 0)) {
      throw new Error(`the line does not follow InterruptStatus ${pending}`)
    }
    const status = this.#read(MMIO.status)
    if ((status & ~0xcf) !== 0) throw new Error(`Status reads ${status}`)
  }

  /** What is outside of used rings and of the buffers of reads is as it was. */
  #checkRam(before: Uint8Array): void {
    const after = this.#vm.ram
    for (const { start, end } of this.#writable) before.set(after.subarray(start, end), start)
    if (Buffer.compare(before, after) === 0) return
    throw new Error(`byte ${after.findIndex((byte, index) => byte !== before[index])} of RAM was stored into, which is not the device's`)
  }

  #read(offset: number, width: Width = 4): number {
    const value = this.#vm.mmioRead(this.#disk.address + offset, width)
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** (8 * width)) {
      throw new Error(`${width} bytes at 0x${offset.toString(16)} read ${value}`)
    }
    return value
  }

  #write(offset: number, value: number, width: Width = 4): void {
    this.#vm.mmioWrite(this.#disk.address + offset, width, value % 2 ** (8 * width))
  }

  /** An ordinary driver finds an ordinary disk, with what was on it. */
  async #driver(): Promise<void> {
    const memory = new RamAllocator({ start: DRIVER_AT, length: RAM - DRIVER_AT })
    const driver = await BlockDriver.open(new MmioDevice(this.#vm, this.#disk), { queues: QUEUES, memory })
    for (let queue = 0; queue < driver.queueCount; queue++) {
      const found = await driver.read(0, SECTORS, { queue })
      if (Buffer.compare(found, this.#content) !== 0) throw new Error("driver: the disk has changed")
    }
    await driver.close()
  }
}
