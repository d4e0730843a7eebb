/**
 * The register fuzzer for PCI: a guest that reads and writes configuration space by both ways, every BAR, the window in configuration space
 * and the MSI-X table, in any width and order, over rings that lie in RAM. Nothing throws, what is read-only stays as it is, the pin and
 * the messages follow the registers, the device stores only where rings and chains let it and while it is bus master, the disk does not
 * change, and after a reset an ordinary driver works.
 */
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { RamAllocator } from "../../../src/vmm/driver/ram-allocator.ts"
import { type AttachDiskOptions, type AttachedDisk, Machine } from "../../../src/vmm/machine.ts"
import { PciGuest, type Width } from "../../harness/pci.ts"
import { Ring } from "../../harness/ring.ts"
import { CAP, COMMON, LEGACY, T } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"

const RAM = 0x4_0000
const QUEUES = 3
const SECTORS = 64
const SLOT = 4
/** A ring's pages, and pages for what it reads; the driver that comes in the end works behind them. */
const RINGS = 8
const RING_PAGE = 0x2000
const RINGS_AT = 0x4000
const BUFFERS_AT = 0x1_4000
const DRIVER_AT = 0x2_4000
/** Where MSI-X messages go: RAM is not there. */
const MESSAGES_AT = 0xfee0_0000
/** Read-only registers of configuration space, dword by dword: ids, class, header type, subsystem, capabilities pointer. */
const IDENTITY: readonly number[] = [0x00, 0x08, 0x0c, 0x2c, 0x34]

type Act = readonly [weight: number, name: string, act: () => void]

/** A part of a BAR. */
interface Part {
  readonly bar: number
  readonly offset: number
}

export class PciRegisterFuzzer {
  /** Steps by kind. */
  readonly counts = new Map<string, number>()
  readonly #rng: Rng
  readonly #vm = new Machine({ ramSize: RAM })
  readonly #options: AttachDiskOptions
  readonly #disk: AttachedDisk
  readonly #guest: PciGuest
  readonly #content: Uint8Array
  readonly #rings: readonly Ring[]
  readonly #before = new Uint8Array(RAM)
  readonly #identity: readonly number[]
  readonly #capabilities: string
  readonly #common: Part | undefined
  readonly #notify: Part | undefined
  readonly #msixAt: number

  constructor(rng: Rng) {
    this.#rng = rng
    this.#content = rng.bytes(SECTORS * 512)
    const kind = rng.pick(["transitional", "modern", "legacy"] as const)
    this.#options = {
      interface: kind,
      modernBar: rng.pick(["memory", "io"]),
      vectors: rng.pick([0, 1, 2, 4]),
      withFeatures: ["RING_PACKED"],
    }
    const backing = MemoryBacking.from(this.#content.slice())
    this.#disk = this.#vm.attachDisk(backing, { slot: SLOT, queues: QUEUES, queueSize: 64, ...this.#options })
    this.#guest = new PciGuest(this.#vm, SLOT)
    this.#vm.ram.fill(0x5c)
    this.#rings = Array.from({ length: RINGS }, (_, at) => {
      const desc = RINGS_AT + RING_PAGE * at
      return new Ring(this.#vm, {
        size: 64,
        place: { desc, avail: desc + 16 * 64, used: desc + 0x1000 },
        buffers: BUFFERS_AT + 0x2000 * at,
      })
    })
    const structures = this.#guest.structures()
    this.#common = structures.find(({ type }) => type === CAP.COMMON)
    this.#notify = structures.find(({ type }) => type === CAP.NOTIFY)
    this.#msixAt = this.#guest.capabilities().find(({ id }) => id === 0x11)?.at ?? 0
    this.#identity = this.#readIdentity()
    this.#capabilities = JSON.stringify(this.#guest.capabilities())
  }

  /** So many accesses, and then a driver. @throws Error that says what was done and what came of it */
  async run(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) this.#step(step)
    await this.#driver()
  }

  #step(step: number): void {
    const acts: readonly Act[] = [
      [20, "any of configuration space", () => this.#anyConfig()],
      [12, "command, BARs and MSI-X control", () => this.#plausibleConfig()],
      [20, "any of a BAR", () => this.#anyBar()],
      [40, "a register with a plausible value", () => this.#plausible()],
      [8, "the MSI-X table", () => this.#msixTable()],
      [8, "the window", () => this.#window()],
      [6, "a queue set up as it should be", () => this.#setUp()],
      [4, "rings laid anew", () => this.#layRings()],
      [2, "device reset", () => this.#status(0)],
      [1, "machine reset", () => this.#vm.reset()],
      [1, "save and restore", () => this.#saveAndRestore()],
    ]
    let at = this.#rng.below(acts.reduce((sum, [weight]) => sum + weight, 0))
    const [, name, act] = acts.find(([weight]) => (at -= weight) < 0) ?? [0, "", () => undefined]
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
    const before = this.#before
    before.set(this.#vm.ram)
    const [wasMaster, messages] = [this.#isMaster, this.#tableMessages()]
    try {
      act()
      if (name !== "rings laid anew") this.#checkRam(before, wasMaster || this.#isMaster || name === "machine reset")
      this.#checkConfig()
      this.#checkMessages([...messages, ...this.#tableMessages()])
    } catch (error) {
      throw new Error(`step ${step}, ${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
    }
  }

  // --- Accesses ---

  #anyConfig(): void {
    const rng = this.#rng
    const width = rng.pick([1, 2, 4, 4] as const)
    const offset = rng.below(0x100)
    // The window's data, and BARs, have steps of their own: elsewhere they would move RAM's bytes.
    if (rng.chance(0.5) || offset >= 0x3c) return void this.#check(width, this.#readConfig(offset, width))
    if (offset < 0x40) this.#guest.setConfig(offset, width, rng.pick([0, 0xffff_ffff, rng.u32()]) % 2 ** (8 * width))
  }

  /** By either mechanism: ports, or the ECAM where an access does not cross a dword. */
  #readConfig(offset: number, width: Width): number {
    if (this.#rng.chance(0.5) || offset % 4 + width > 4) {
      return this.#disk.function.configRead(offset, width)
    }
    return this.#guest.config(offset, width)
  }

  #plausibleConfig(): void {
    const rng = this.#rng
    const choices: readonly (readonly [offset: number, width: Width, values: readonly number[]])[] = [
      [0x04, 2, [7, 7, 7, 3, 0, 0x407, 4, 0xffff]],
      [0x10 + 4 * rng.below(6), 4, [0xffff_ffff, 0, 0xc001, 0xf000_0000, rng.u32()]],
      [0x3c, 1, [rng.below(256)]],
      ...(this.#msixAt === 0 ? [] : [[this.#msixAt + 2, 2, [0, 0x8000, 0x8000, 0xc000, 0x4000, 0xffff]] as const]),
    ]
    const [offset, width, values] = rng.pick(choices)
    if (offset !== 0x3c) this.#guest.setConfig(offset, width, rng.pick(values))
  }

  #anyBar(): void {
    const rng = this.#rng
    const bar = rng.pick([0, 1, 2, 3, 4, 5])
    const width = rng.pick([1, 2, 4, 4] as const)
    const offset = rng.pick([rng.below(0x100), rng.below(0x5000), 0xffff_fffc])
    if (rng.chance(0.6)) return void this.#check(width, this.#disk.function.barRead(bar, offset, width))
    if (this.#holdsAddress(bar, offset)) return
    this.#disk.function.barWrite(bar, offset, width, rng.pick([0, 1, 0xffff_ffff, rng.below(256)]) % 2 ** (8 * width))
  }

  /** A register that says where a ring is: a byte of it, changed, would have the device store where nobody could tell it from a mistake. */
  #holdsAddress(bar: number, offset: number): boolean {
    const { offset: at = NaN, bar: common } = this.#common ?? {}
    const isModern = bar === common && offset > at + COMMON.queueDesc - 4 && offset < at + COMMON.queueDevice + 8
    return isModern || (bar === 0 && this.#options.interface !== "modern" && offset > LEGACY.queueAddress - 4 && offset < LEGACY.queueSize)
  }

  #plausible(): void {
    const rng = this.#rng
    const ring = rng.pick(this.#rings)
    const statuses = [0x01, 0x03, 0x0b, 0x0f, 0x07, 0x04, 0x08, 0x80, 0x40, 0x1f]
    if (this.#common === undefined || (this.#options.interface === "transitional" && rng.chance(0.3))) {
      const [offset, width, values] = rng.pick<readonly [number, Width, readonly number[]]>([
        [LEGACY.driverFeatures, 4, [0, 0x3000_0000, rng.u32()]], [LEGACY.queueAddress, 4, [ring.desc / 4096, 0, 0x8_0000]],
        [LEGACY.queueSelect, 2, [0, 1, 2, 3]], [LEGACY.queueNotify, 2, [0, 0, 1, 2, 3]], [LEGACY.status, 1, statuses],
        [LEGACY.configVector, 2, [0, 1, 5, 0xffff]], [LEGACY.queueVector, 2, [0, 1, 2, 0xffff]],
      ])
      return this.#disk.function.barWrite(0, offset, width, rng.pick(values))
    }
    if (rng.chance(0.2)) return this.#kick(rng.pick([0, 0, 1, 2, 3, 7]))
    const [offset, width, values] = rng.pick<readonly [number, Width, readonly number[]]>([
      [COMMON.deviceFeatureSelect, 4, [0, 1, 2]], [COMMON.driverFeatureSelect, 4, [0, 1, 2]],
      [COMMON.driverFeature, 4, [0, 1, 5, 0x3000_0000, rng.u32()]], [COMMON.configVector, 2, [0, 1, 5, 0xffff]],
      [COMMON.status, 1, statuses], [COMMON.queueSelect, 2, [0, 1, 2, 3, 0xffff]], [COMMON.queueSize, 2, [1, 2, 16, 64, 63, 128, 0]],
      [COMMON.queueVector, 2, [0, 1, 2, 0xffff]], [COMMON.queueEnable, 2, [0, 1, 1]], [COMMON.queueReset, 2, [0, 1]],
      [COMMON.queueDesc, 4, [ring.desc]], [COMMON.queueDriver, 4, [ring.avail, ring.avail + 1]],
      [COMMON.queueDevice, 4, [ring.used, ring.used + 1]], [rng.pick([0x24, 0x2c, 0x34]), 4, [0, 0, 1, 0xffff_ffff]],
    ])
    this.#write(offset, width, rng.pick(values))
  }

  #msixTable(): void {
    const vectors = this.#options.vectors ?? 0
    if (vectors === 0) return
    const vector = this.#rng.below(vectors)
    const fn = this.#disk.function
    const [offset, value] = this.#rng.pick([
      [0, MESSAGES_AT], [4, 0], [8, vector], [8, this.#rng.u32()], [12, 0], [12, 0], [12, 1], [12, 0xffff_ffff],
    ] as const)
    fn.barWrite(1, 16 * vector + offset, 4, value)
    this.#check(4, fn.barRead(1, this.#rng.below(0x1000), 4))
  }

  /** [VIRTIO] 4.1.4.9: a BAR through configuration space. Reads of anything, writes of the status and of kicks. */
  #window(): void {
    const rng = this.#rng
    const at = this.#guest.structures().find(({ type }) => type === CAP.PCI)?.at
    const { offset: common, bar } = this.#common ?? {}
    if (at === undefined || common === undefined || bar === undefined) return
    const isRead = rng.chance(0.5)
    this.#guest.setConfig(at + 4, 1, isRead ? rng.pick([bar, 0, 1, 5, 0xff]) : bar)
    this.#guest.setConfig(at + 8, 4, isRead ? rng.pick([rng.below(0x100), rng.below(0x8000), rng.u32()]) : common + COMMON.status)
    this.#guest.setConfig(at + 12, 4, isRead ? rng.pick([1, 2, 4, 3, 0, 0xffff_ffff]) : 1)
    if (isRead) this.#check(4, this.#guest.config(at + 16, 4))
    else this.#guest.setConfig(at + 16, 1, rng.pick([0x0f, 0x0b, 0x80, 0x03]))
    // What comes later must not write there by chance.
    this.#guest.setConfig(at + 12, 4, 0)
  }

  #setUp(): void {
    const rng = this.#rng
    const { desc, avail, used } = rng.pick(this.#rings)
    const queue = rng.below(QUEUES)
    this.#guest.command = 7
    if (this.#common === undefined) {
      const fn = this.#disk.function
      for (const status of [0, 1, 3]) fn.barWrite(0, LEGACY.status, 1, status)
      fn.barWrite(0, LEGACY.queueSelect, 2, queue)
      fn.barWrite(0, LEGACY.queueAddress, 4, desc / 4096)
      fn.barWrite(0, LEGACY.status, 1, 7)
      return fn.barWrite(0, LEGACY.queueNotify, 2, queue)
    }
    if (rng.chance(0.5)) {
      for (const status of [0, 1, 3]) this.#status(status)
      for (const [offset, value] of [
        [COMMON.driverFeatureSelect, 0], [COMMON.driverFeature, rng.pick([0, 0x3000_0000])], [COMMON.driverFeatureSelect, 1],
        [COMMON.driverFeature, 0x101],
      ] as const) this.#write(offset, 4, value)
      this.#status(0x0b)
    }
    for (const [offset, width, value] of [
      [COMMON.queueSelect, 2, queue], [COMMON.queueSize, 2, 64], [COMMON.queueVector, 2, rng.pick([0, 1, 0xffff])],
      [COMMON.queueDesc, 4, desc], [COMMON.queueDesc + 4, 4, 0], [COMMON.queueDriver, 4, avail], [COMMON.queueDriver + 4, 4, 0],
      [COMMON.queueDevice, 4, used], [COMMON.queueDevice + 4, 4, 0], [COMMON.queueEnable, 2, 1],
    ] as const) this.#write(offset, width, value)
    this.#status(0x0f)
    if (rng.chance(0.7)) this.#kick(queue)
  }

  #kick(queue: number): void {
    const notify = this.#notify
    if (notify === undefined) return
    // With one address for all, the value names the queue; with one for each, the address does.
    this.#disk.function.barWrite(notify.bar, notify.offset + this.#rng.pick([0, 4 * queue, 2 * queue]), 2, queue)
  }

  /** Rings as a driver leaves them, each with some reads to do, or with an index that cannot be. */
  #layRings(): void {
    for (const ring of this.#rings) {
      this.#vm.ram.fill(0, ring.desc, ring.desc + RING_PAGE)
      for (let left = this.#rng.below(4); left >= 0; left--) ring.publish(ring.prepare(T.IN, this.#rng.below(SECTORS), 512).head)
      if (this.#rng.chance(0.1)) ring.availIdx = this.#rng.below(65536)
    }
  }

  #saveAndRestore(): void {
    const { device, function: fn } = this.#disk
    void device.pause()
    const text = JSON.stringify(fn.saveState())
    fn.restoreState(JSON.parse(text))
    const again = JSON.stringify(fn.saveState())
    device.resume()
    if (again !== text) throw new Error(`the state came back as ${again}, it was ${text}`)
  }

  #status(value: number): void {
    if (this.#common === undefined) this.#disk.function.barWrite(0, LEGACY.status, 1, value)
    else this.#write(COMMON.status, 1, value)
    if (value !== 0) return
    const found = this.#common === undefined
      ? this.#disk.function.barRead(0, LEGACY.status, 1)
      : this.#disk.function.barRead(this.#common.bar, this.#common.offset + COMMON.status, 1)
    if (found !== 0 || this.#vm.interrupts.raised.length > 0) throw new Error(`after a reset the status reads ${found}, or the pin is up`)
  }

  #write(offset: number, width: Width, value: number): void {
    if (this.#common !== undefined) this.#disk.function.barWrite(this.#common.bar, this.#common.offset + offset, width, value)
  }

  // --- What must hold ---

  get #isMaster(): boolean {
    return (this.#guest.command & 4) !== 0
  }

  #readIdentity(): number[] {
    return IDENTITY.map((offset) => this.#guest.config(offset, 4) & (offset === 0x0c ? 0xff_0000 : ~0))
  }

  #checkConfig(): void {
    const found = this.#readIdentity()
    if (found.join() !== this.#identity.join()) throw new Error(`read-only registers read ${found.join()}, not ${this.#identity.join()}`)
    const list = JSON.stringify(this.#guest.capabilities())
    if (list !== this.#capabilities) throw new Error(`the capabilities are ${list}, not ${this.#capabilities}`)
    const pin = this.#guest.interruptStatus && (this.#guest.command & 0x400) === 0
    const isRaised = this.#vm.interrupts.level(this.#disk.line)
    if (isRaised !== pin) throw new Error(`the line is ${isRaised ? "up" : "down"}, and the registers say otherwise`)
  }

  /** The messages that the table could send, masked or not. */
  #tableMessages(): string[] {
    const table = Array.from({ length: this.#options.vectors ?? 0 }, (_, vector) =>
      [0, 4, 8].map((offset) => this.#disk.function.barRead(1, 16 * vector + offset, 4)))
    return table.map(([low = 0, high = 0, data = 0]) => `${high * 2 ** 32 + low}:${data}`)
  }

  #checkMessages(possible: readonly string[]): void {
    for (const { address, data } of this.#vm.interrupts.takeMessages()) {
      if (!possible.includes(`${address}:${data}`)) throw new Error(`a message of ${data} to ${address}, which the table does not have`)
    }
  }

  /** What is outside of used rings and of the buffers of reads is as it was; all of RAM is, without bus mastering. */
  #checkRam(before: Uint8Array, mayStore: boolean): void {
    const after = this.#vm.ram
    const writable = mayStore ? [[0, 0x2000], [RINGS_AT, RINGS_AT + RINGS * RING_PAGE], [BUFFERS_AT, BUFFERS_AT + 0x2000 * RINGS]] : []
    for (const [start = 0, end = 0] of writable) before.set(after.subarray(start, end), start)
    if (Buffer.compare(before, after) === 0) return
    throw new Error(`byte ${after.findIndex((byte, index) => byte !== before[index])} of RAM was stored into, which is not the device's`)
  }

  #check(width: Width, value: number): void {
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** (8 * width)) throw new Error(`${width} bytes read ${value}`)
  }

  /** An ordinary driver finds an ordinary disk, with what was on it. */
  async #driver(): Promise<void> {
    this.#vm.reset()
    const [device] = findBlockDevices(this.#vm)
    if (device === undefined) throw new Error("driver: no disk on the bus")
    const memory = new RamAllocator({ start: DRIVER_AT, length: RAM - DRIVER_AT })
    const driver = await BlockDriver.open(device, { queues: QUEUES, memory })
    for (let queue = 0; queue < driver.queueCount; queue++) {
      const found = await driver.read(0, SECTORS, { queue })
      if (Buffer.compare(found, this.#content) !== 0) throw new Error("driver: the disk has changed")
    }
    await driver.close()
  }
}
