/**
 * ACCESS_PLATFORM ([VIRTIO] 6, bit 33): a disk behind an IOMMU. The driver's addresses are the platform's, and the transport's memory is
 * what translates them, page by page.
 */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { type GuestMemory, RamRegion } from "../../src/virtio/guest-memory.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { VirtioMmio } from "../../src/virtio/mmio/mmio-transport.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { MMIO } from "../harness/mmio.ts"
import { ModernGuest } from "../harness/registers.ts"
import { pattern } from "../harness/requests.ts"
import { F, mask, NEXT, OK, STATUS, T, VERSION_1, WRITE } from "../harness/words.ts"

const PAGE = 4096
/** Where the driver's addresses begin: no RAM is at any of them. */
const IO = 0x10_0000_0000
const OPTIONS = { withFeatures: ["ACCESS_PLATFORM"] } as const

/** 16 pages of RAM, which an IOMMU shows from `IO` on in another order. The last one it does not show. */
class Iommu implements GuestMemory {
  readonly generation = 0
  readonly ram = new Uint8Array(16 * PAGE)
  readonly #regions = Array.from(
    { length: 15 },
    (_, page) => new RamRegion(IO + page * PAGE, this.ram.subarray(this.at(page), this.at(page) + PAGE)),
  )

  /** Where page `page` of the driver's addresses is in RAM. */
  at(page: number): number {
    return ((page * 7 + 3) % 16) * PAGE
  }

  region(address: number): RamRegion | undefined {
    return this.#regions[Math.floor((address - IO) / PAGE)]
  }

  /** Stores at one of the driver's addresses, byte by byte. */
  store(address: number, bytes: ArrayLike<number>): void {
    for (let i = 0; i < bytes.length; i++) this.ram[this.#of(address + i)] = bytes[i] ?? 0
  }

  load(address: number, length: number): Uint8Array {
    return Uint8Array.from({ length }, (_, i) => this.ram[this.#of(address + i)] ?? 0)
  }

  #of(address: number): number {
    return this.at(Math.floor((address - IO) / PAGE)) + ((address - IO) % PAGE)
  }
}

const bytesOf = (...words: number[]): Uint8Array => new Uint8Array(Uint32Array.from(words).buffer)

/** A device whose driver has placed a ring of 4 on pages 0 to 2. */
function driven(iommu: Iommu, backing: MemoryBacking): VirtioMmio {
  const registers = new VirtioMmio(new VirtioBlk(backing, OPTIONS), { memory: iommu, interrupt: () => undefined })
  const put = (offset: number, value: number): void => registers.write(offset, 4, value)
  for (const status of [1, 3]) put(MMIO.status, status)
  for (const [select, word] of [[0, 0], [1, 3]] as const) {
    put(MMIO.driverFeaturesSel, select)
    put(MMIO.driverFeatures, word)
  }
  put(MMIO.status, 0x0b)
  put(MMIO.queueSize, 4)
  for (const [page, offset] of [MMIO.queueDescLow, MMIO.queueDriverLow, MMIO.queueDeviceLow].entries()) {
    put(offset, (IO + page * PAGE) % 2 ** 32)
    put(offset + 4, Math.floor(IO / 2 ** 32))
  }
  put(MMIO.queueReady, 1)
  put(MMIO.status, 0x0f)
  return registers
}

/** Puts a request for sector 5 into the ring, and kicks. Header and status are on page 3; the data is at `data`. */
function request(iommu: Iommu, registers: VirtioMmio, type: number, data: number, length: number): void {
  const [header, status] = [IO + 3 * PAGE, IO + 3 * PAGE + 64]
  iommu.store(header, bytesOf(type, 0, 5, 0))
  const high = IO / 2 ** 32
  const descriptors = [
    [header, 16, NEXT, 1], [data, length, type === T.IN ? WRITE | NEXT : NEXT, 2], [status, 1, WRITE, 0],
  ] as const
  for (const [index, [address, bytes, flags, next]] of descriptors.entries()) {
    iommu.store(IO + 16 * index, bytesOf(address % 2 ** 32, high, bytes, flags | (next << 16)))
  }
  const idx = iommu.load(IO + PAGE + 2, 1)[0] ?? 0
  iommu.store(IO + PAGE + 2, [idx + 1])
  registers.write(MMIO.queueNotify, 4, 0)
}

describe("ACCESS_PLATFORM", () => {
  it("FT-13 rings, headers and buffers are accessed where the IOMMU maps them, page by page", () => {
    const [iommu, backing] = [new Iommu(), new MemoryBacking({ size: 1 << 20 })]
    const registers = driven(iommu, backing)
    const data = IO + 5 * PAGE - 1024
    iommu.store(data, pattern(40, 12))
    request(iommu, registers, T.OUT, data, 6144)
    const written = new Uint8Array(6144)
    backing.pread(written, 5 * 512)
    expect([iommu.load(IO + 3 * PAGE + 64, 1)[0], Buffer.compare(written, pattern(40, 12))]).toEqual([OK, 0])
    const target = IO + 9 * PAGE - 512
    request(iommu, registers, T.IN, target, 6144)
    expect([iommu.load(IO + 2 * PAGE + 2, 1)[0], Buffer.compare(iommu.load(target, 6144), pattern(40, 12))]).toEqual([2, 0])
  })

  it("FT-13 an address that the IOMMU does not map is not RAM: the device needs a reset, and touches nothing", () => {
    const [iommu, backing] = [new Iommu(), new MemoryBacking({ size: 1 << 20 })]
    const registers = driven(iommu, backing)
    iommu.ram.fill(0xaa, iommu.at(15), iommu.at(15) + PAGE)
    request(iommu, registers, T.IN, IO + 15 * PAGE - 512, 1024)
    expect(registers.read(MMIO.status, 4) & STATUS.NEEDS_RESET).toBe(STATUS.NEEDS_RESET)
    expect(iommu.ram.subarray(iommu.at(15), iommu.at(15) + PAGE).every((byte) => byte === 0xaa)).toBe(true)
  })

  it("FT-13 a driver must accept it, and there must be no other way to the device", async () => {
    const vm = new Machine({ ramSize: 4 << 20 })
    const disk = (): MemoryBacking => new MemoryBacking({ size: 1 << 20 })
    expect(() => vm.attachDisk(disk(), OPTIONS)).toThrow(
      new RangeError('withFeatures: ACCESS_PLATFORM is for modern drivers: give VirtioPciFunction the interface "modern"'),
    )
    expect(() => vm.attachDisk(disk(), { ...OPTIONS, interface: "legacy" })).toThrow(RangeError)
    expect(() => vm.attachMmioDisk(disk(), { ...OPTIONS, version: 1 })).toThrow(
      new RangeError("withFeatures: ACCESS_PLATFORM is for modern drivers: give VirtioMmio version 2"),
    )
    const { slot } = vm.attachDisk(disk(), { ...OPTIONS, interface: "modern" })
    const guest = new ModernGuest(vm, slot)
    expect([guest.negotiate(VERSION_1), guest.negotiate(VERSION_1 | mask(F.ACCESS_PLATFORM))]).toEqual([false, true])
    const [found] = findBlockDevices(vm)
    if (found === undefined) throw new Error("no disk on the bus")
    const driver = await BlockDriver.open(found)
    await driver.write(3, pattern(3, 1))
    expect([driver.identify().features.includes("ACCESS_PLATFORM"), await driver.read(3, 1)]).toEqual([true, pattern(3, 1)])
    await driver.close()
  })
})
