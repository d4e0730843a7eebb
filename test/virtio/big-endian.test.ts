/**
 * Legacy guests that are big-endian (LEG-13): every number that they share with the device is typed here byte by byte, in their order,
 * over MMIO version 1 and over a legacy PCI function.
 */
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { LinearMemory } from "../../src/virtio/guest-memory.ts"
import { VirtioMmio } from "../../src/virtio/mmio/mmio-transport.ts"
import { VirtioPciFunction } from "../../src/virtio/pci/pci-transport.ts"
import { FakeDisk, settled } from "../harness/fake-disk.ts"
import { LEGACY } from "../harness/words.ts"

/** WebAssembly.Memory; the compiler's library for Node leaves it out. */
interface WasmMemory {
  readonly buffer: ArrayBuffer
  grow(pages: number): number
}
declare const WebAssembly: { readonly Memory: new (limits: { initial: number; maximum: number }) => WasmMemory }

const [SIZE, BASE, PAGE] = [8, 0x1000, 4096] as const
const [AVAIL, USED] = [BASE + 16 * SIZE, BASE + 0x1000] as const
const [HEADER, DATA, STATUS, TABLE] = [0x4000, 0x5000, 0x6000, 0x7000] as const
const [NEXT, WRITE, INDIRECT] = [1, 2, 4] as const

type Descriptor = readonly [address: number, length: number, flags: number, next: number]

/** Bytes of a number, the high one first. */
function big(value: number, width: number): number[] {
  return Array.from({ length: width }, (_, at) => Math.floor(value / 2 ** (8 * (width - 1 - at))) % 256)
}

/** A big-endian guest: registers are little-endian all the same, of one width or another. */
abstract class BigGuest {
  readonly memory: WasmMemory | SharedArrayBuffer | ArrayBuffer
  #published = 0

  constructor(memory: BigGuest["memory"]) {
    this.memory = memory
  }

  get ram(): Uint8Array {
    return new Uint8Array("grow" in this.memory && "buffer" in this.memory ? this.memory.buffer : this.memory)
  }

  abstract start(features: number): void
  abstract kick(): void
  abstract configBytes(offset: number, length: number): number[]

  describe(at: number, descriptors: readonly Descriptor[]): void {
    for (const [index, [address, length, flags, next]] of descriptors.entries()) {
      this.ram.set([...big(address, 8), ...big(length, 4), ...big(flags, 2), ...big(next, 2)], at + 16 * index)
    }
  }

  header(at: number, type: number, sector: number): void {
    this.ram.set([...big(type, 4), ...big(0, 4), ...big(sector, 8)], at)
  }

  /** Makes the chain at descriptor 0 available, and kicks. */
  run(): void {
    this.ram[STATUS] = 0xee
    this.ram.set(big(0, 2), AVAIL + 4 + 2 * (this.#published % SIZE))
    this.#published++
    this.ram.set(big(this.#published, 2), AVAIL + 2)
    this.kick()
  }

  /** The used index, and the entry before it: id and length. */
  get used(): number[] {
    const number = (at: number, width: number): number => [...this.ram.subarray(at, at + width)].reduce((sum, byte) => sum * 256 + byte, 0)
    const index = number(USED + 2, 2)
    const at = USED + 4 + 8 * ((index + SIZE - 1) % SIZE)
    return [index, number(at, 4), number(at + 4, 4)]
  }
}

class MmioBigGuest extends BigGuest {
  readonly transport: VirtioMmio

  constructor(blk: VirtioBlk, memory: BigGuest["memory"]) {
    super(memory)
    const options = { version: 1, guestEndian: "big", memory: new LinearMemory(memory), interrupt: () => undefined } as const
    this.transport = new VirtioMmio(blk, options)
  }

  start(features: number): void {
    for (const [offset, value] of [[0x70, 3], [0x24, 0], [0x20, features], [0x28, PAGE], [0x30, 0], [0x38, SIZE], [0x3c, PAGE]] as const) {
      this.transport.write(offset, 4, value)
    }
    this.transport.write(0x40, 4, BASE / PAGE)
    this.transport.write(0x70, 4, 7)
  }

  kick(): void {
    this.transport.write(0x50, 4, 0)
  }

  configBytes(offset: number, length: number): number[] {
    return Array.from({ length }, (_, at) => this.transport.read(0x100 + offset + at, 1))
  }
}

class PciBigGuest extends BigGuest {
  readonly fn: VirtioPciFunction

  constructor(blk: VirtioBlk, memory: BigGuest["memory"]) {
    super(memory)
    const interrupts = { intx: () => undefined, message: () => undefined }
    this.fn = new VirtioPciFunction(blk, {
      interface: "legacy", guestEndian: "big", vectors: 0, memory: new LinearMemory(memory), interrupts,
    })
    this.fn.configWrite(4, 2, 7)
  }

  start(features: number): void {
    this.fn.barWrite(0, LEGACY.status, 1, 3)
    this.fn.barWrite(0, LEGACY.driverFeatures, 4, features)
    this.fn.barWrite(0, LEGACY.queueAddress, 4, BASE / PAGE)
    this.fn.barWrite(0, LEGACY.status, 1, 7)
  }

  kick(): void {
    this.fn.barWrite(0, LEGACY.queueNotify, 2, 0)
  }

  configBytes(offset: number, length: number): number[] {
    return Array.from({ length }, (_, at) => this.fn.barRead(0, LEGACY.device + offset + at, 1))
  }
}

const GUESTS = { "MMIO version 1": MmioBigGuest, "PCI, legacy": PciBigGuest } as const

function content(): Uint8Array {
  return Uint8Array.from({ length: 1 << 20 }, (_, at) => (Math.floor(at / 512) * 3 + at) % 251)
}

function open(
  transport: keyof typeof GUESTS, backing: VirtioBacking = diskOf(content()), memory: BigGuest["memory"] = new ArrayBuffer(1 << 16),
): BigGuest {
  return new GUESTS[transport](new VirtioBlk(backing, { queueSize: SIZE }), memory)
}

function diskOf(bytes: Uint8Array): MemoryBacking {
  const backing = new MemoryBacking({ size: bytes.length })
  backing.pwrite(bytes, 0)
  return backing
}

const USUAL: readonly Descriptor[] = [[HEADER, 16, NEXT, 1], [DATA, 1024, NEXT | WRITE, 2], [STATUS, 1, WRITE, 0]]

describe.each(Object.keys(GUESTS) as (keyof typeof GUESTS)[])("%s", (transport) => {
  it("LEG-13 LEG-05 CF-01 fields of the configuration space are in the guest's byte order, and single bytes keep their places", () => {
    const backing = new MemoryBacking({ size: 0x1_2345_6789 * 512 })
    const guest = new GUESTS[transport](new VirtioBlk(backing, { blockSize: 4096, queueSize: SIZE }), new ArrayBuffer(1 << 16))
    expect(guest.configBytes(0, 8)).toEqual(big(0x1_2345_6789, 8))
    expect(guest.configBytes(0x0c, 4)).toEqual(big(SIZE - 2, 4))
    // Cylinders, and then heads and sectors of a byte each.
    expect(guest.configBytes(0x10, 4)).toEqual([0xff, 0xff, 16, 63])
    expect(guest.configBytes(0x14, 4)).toEqual(big(4096, 4))
    expect(guest.configBytes(0x1a, 2)).toEqual(big(1, 2))
    expect(guest.configBytes(0x20, 4)).toEqual([1, 0, 0, 1])
    expect(guest.configBytes(0x24, 4)).toEqual(big(0x3f_ffff, 4))
  })

  it("LEG-13 VQ-03 BLK-01 rings, descriptors and request headers are in the guest's byte order", () => {
    const guest = open(transport)
    guest.start(0)
    guest.describe(BASE, USUAL)
    guest.header(HEADER, 0, 3)
    guest.run()
    expect([guest.ram[STATUS], guest.used]).toEqual([0, [1, 0, 1025]])
    expect([...guest.ram.subarray(DATA, DATA + 1024)]).toEqual([...content().subarray(3 * 512, 5 * 512)])
    // More than a ring, so that indices have more than one digit of the ring's size.
    for (let round = 0; round < 300; round++) guest.run()
    expect(guest.used).toEqual([301, 0, 1025])
  })

  it("LEG-13 VQ-14 BLK-03 an indirect table and a header in pieces are in the guest's byte order", () => {
    const guest = open(transport)
    guest.start(2 ** 28)
    guest.describe(BASE, [[TABLE, 16 * 5, INDIRECT, 0]])
    guest.describe(TABLE, [
      [HEADER, 3, NEXT, 1], [HEADER + 3, 7, NEXT, 2], [HEADER + 10, 6, NEXT, 3], [DATA, 512, NEXT | WRITE, 4], [STATUS, 1, WRITE, 0],
    ])
    guest.header(HEADER, 0, 0x100)
    guest.run()
    expect([guest.ram[STATUS], guest.used]).toEqual([0, [1, 0, 513]])
    expect([...guest.ram.subarray(DATA, DATA + 512)]).toEqual([...content().subarray(0x100 * 512, 0x101 * 512)])
  })

  it("LEG-13 BLK-22 segments of a discard are in the guest's byte order", () => {
    const backing = diskOf(content())
    const guest = open(transport, backing)
    guest.start(2 ** 14)
    guest.describe(BASE, [[HEADER, 16, NEXT, 1], [DATA, 16, NEXT, 2], [STATUS, 1, WRITE, 0]])
    guest.header(HEADER, 13, 0)
    guest.ram.set([...big(5, 8), ...big(2, 4), ...big(1, 4)], DATA)
    guest.run()
    expect([guest.ram[STATUS], guest.used]).toEqual([0, [1, 0, 1]])
    const bytes = content()
    bytes.fill(0, 5 * 512, 7 * 512)
    const now = new Uint8Array(bytes.length)
    backing.pread(now, 0)
    expect(Buffer.compare(now, bytes)).toBe(0)
  })

  it("LEG-13 VQ-24 event indices are in the guest's byte order", () => {
    const guest = open(transport)
    guest.start(2 ** 29)
    guest.describe(BASE, USUAL)
    guest.header(HEADER, 0, 3)
    for (let round = 0; round < 258; round++) guest.run()
    const availEvent = USED + 4 + 8 * SIZE
    expect([...guest.ram.subarray(availEvent, availEvent + 2)]).toEqual([1, 2])
  })

  it("LEG-13 VQ-31 shared memory works, and a WebAssembly memory that grows under a request", async () => {
    const shared = open(transport, diskOf(content()), new SharedArrayBuffer(1 << 16))
    shared.start(0)
    shared.describe(BASE, USUAL)
    shared.header(HEADER, 0, 3)
    for (let round = 0; round < 300; round++) shared.run()
    expect([shared.ram[STATUS], shared.used]).toEqual([0, [300, 0, 1025]])

    const memory = new WebAssembly.Memory({ initial: 1, maximum: 4 })
    const slow = new FakeDisk({ content: content() })
    slow.waits = () => true
    const guest = open(transport, slow, memory)
    guest.start(0)
    guest.describe(BASE, USUAL)
    guest.header(HEADER, 0, 3)
    guest.run()
    memory.grow(1)
    slow.next().finish()
    await settled()
    expect([guest.ram[STATUS], guest.used]).toEqual([0, [1, 0, 1025]])
    expect([...guest.ram.subarray(DATA, DATA + 1024)]).toEqual([...content().subarray(3 * 512, 5 * 512)])
  })
})

it("LEG-13 big-endian guests are refused on a device that offers a modern interface, which is always little-endian", () => {
  const blk = (): VirtioBlk => new VirtioBlk(new MemoryBacking({ size: 512 }))
  const memory = new LinearMemory(new ArrayBuffer(4096))
  expect(() => new VirtioMmio(blk(), { guestEndian: "big", memory, interrupt: () => undefined })).toThrow(/needs version 1/)
  const interrupts = { intx: () => undefined, message: () => undefined }
  expect(() => new VirtioPciFunction(blk(), { guestEndian: "big", memory, interrupts })).toThrow(/needs interface "legacy"/)
})
