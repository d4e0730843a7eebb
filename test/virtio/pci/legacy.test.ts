/**
 * The legacy interface of a transitional device ([VIRTIO] 4.1.4.10 and the "Legacy Interface" sections): registers, rings by page number,
 * and one driver after another.
 */
import { beforeEach, describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { markedDisk } from "../../harness/marked-disk.ts"
import type { Width } from "../../harness/pci.ts"
import { LegacyGuest, ModernGuest } from "../../harness/registers.ts"
import { Ring } from "../../harness/ring.ts"
import { COMMON, F, LEGACY, mask, NEXT, NO_VECTOR, T, UNTOUCHED, UP, WRITE } from "../../harness/words.ts"

const SECTOR = 512
const CAPACITY = 2048 + 1

let vm: Machine
let backing: MemoryBacking
let slot: number
let guest: LegacyGuest
let ring: Ring
beforeEach(() => {
  vm = new Machine({ ramSize: 2 << 20 })
  backing = markedDisk(CAPACITY * SECTOR)
  slot = vm.attachDisk(backing, { queues: 2 }).slot
  guest = new LegacyGuest(vm, slot)
  ring = new Ring(vm, { size: 256 })
})

/** A read of sector 3; returns its status byte. */
function read(with_: LegacyGuest | ModernGuest = guest, rings = ring): number {
  const request = rings.request(T.IN, 3, SECTOR)
  with_.kick()
  if (rings.status(request) === 0) expect(rings.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x5a))
  return rings.status(request)
}

describe("registers", () => {
  it("LEG-01 BAR 0 shows the same device as the common configuration does", () => {
    const modern = new ModernGuest(vm, slot)
    const low = guest.config(0x10, 4)
    expect(low & 3).toBe(1)
    for (const status of [0x01, 0x03, 0x07]) {
      guest.status = status
      expect([guest.status, modern.status]).toEqual([status, status])
    }
    guest.io.write(LEGACY.driverFeatures, 4, 2 ** F.FLUSH)
    expect(modern.accepted).toBe(mask(F.FLUSH))
    guest.place(1, 0x40)
    expect([modern.queueRegister(1, COMMON.queueEnable, 2), modern.queueRegister(1, COMMON.queueDesc, 4)]).toEqual([1, 0x4_0000])
    modern.status = 0
    expect([guest.status, guest.io.read(LEGACY.driverFeatures, 4)]).toEqual([0, 0])
  })

  it("LEG-02 LEG-10 each register has its offset and width, and is writable or not, as specified", () => {
    const table: readonly [keyof typeof LEGACY, Width, initial: number, written: number, then: number][] = [
      ["deviceFeatures", 4, guest.offered, 0, guest.offered],
      ["driverFeatures", 4, 0, 0x8000_0200, 0x8000_0200],
      ["queueSelect", 2, 0, 1, 1],
      ["queueSize", 2, 256, 8, 256],
      ["queueAddress", 4, 0, 0x100, 0x100],
      ["status", 1, 0, 0x03, 0x03],
      ["isr", 1, 0, 0xff, 0],
      ["queueNotify", 2, 0, 5, 0],
    ]
    expect(guest.offered).toBeGreaterThan(0)
    for (const [name, width, initial, written, then] of table) {
      expect([name, guest.io.read(LEGACY[name], width)]).toEqual([name, initial])
      guest.io.write(LEGACY[name], width, written)
      expect([name, guest.io.read(LEGACY[name], width)]).toEqual([name, then])
    }
    for (const [queue, size] of [[0, 256], [1, 256], [2, 0], [0xffff, 0]] as const) {
      guest.io.write(LEGACY.queueSelect, 2, queue)
      guest.io.write(LEGACY.queueSize, 2, 16)
      expect([queue, guest.io.read(LEGACY.queueSize, 2)]).toEqual([queue, size])
    }
    guest.place(2, 0x100)
    expect(guest.io.read(LEGACY.queueAddress, 4)).toBe(0)
  })

  it("LEG-03 LEG-04 the MSI-X Enable bit, not the capability, puts two vectors in front of the configuration", () => {
    const control = guest.msixAt + 2
    const capacity = (offset: number): number => guest.io.read(offset, 4)
    expect(Number.isNaN(guest.msixAt)).toBe(false)
    for (let round = 0; round < 2; round++) {
      expect([capacity(20), capacity(24)]).toEqual([CAPACITY, 0])
      guest.setConfig(control, 2, 0x8000)
      expect([capacity(20), capacity(24)]).toEqual([0xffff_ffff, CAPACITY])
      guest.io.write(LEGACY.configVector, 2, 1)
      guest.io.write(LEGACY.queueVector, 2, 2)
      expect([guest.io.read(LEGACY.configVector, 2), guest.io.read(LEGACY.queueVector, 2)]).toEqual([1, 2])
      // The function mask alone changes nothing.
      guest.setConfig(control, 2, 0xc000)
      expect(capacity(24)).toBe(CAPACITY)
      guest.status = 0
      expect([guest.io.read(LEGACY.configVector, 2), guest.io.read(LEGACY.queueVector, 2)]).toEqual([NO_VECTOR, NO_VECTOR])
      guest.setConfig(control, 2, 0x4000)
    }
  })

  it("LEG-05 LEG-13 registers are little-endian: a byte reads the same alone and in a word", () => {
    guest.io.write(LEGACY.driverFeatures, 4, 0x8765_4321)
    expect([0, 1, 2, 3].map((at) => guest.io.read(LEGACY.driverFeatures + at, 1))).toEqual([0x21, 0x43, 0x65, 0x87])
    expect([0, 2].map((at) => guest.io.read(LEGACY.driverFeatures + at, 2))).toEqual([0x4321, 0x8765])
    guest.io.write(LEGACY.driverFeatures + 2, 1, 0)
    expect(guest.io.read(LEGACY.driverFeatures, 4)).toBe(0x8700_4321)
    expect([0, 1, 2, 3].map((at) => guest.io.read(LEGACY.device + at, 1))).toEqual([0x01, 0x08, 0, 0])
    expect(guest.io.read(LEGACY.device + 1, 2)).toBe(0x08)
  })

  it("LEG-14 the ISR is cleared by reading it, which lowers the line; status 0 resets; the value of a kick is the queue", () => {
    const second = new Ring(vm, { size: 256, base: 0x10_0000, buffers: 0x18_0000 })
    guest.start(ring)
    guest.place(1, second.desc / 4096)
    const [first, other] = [ring.request(T.IN, 3, SECTOR), second.request(T.IN, 3, SECTOR)]
    guest.kick(1)
    expect([ring.status(first), second.status(other), guest.interrupted]).toEqual([UNTOUCHED, 0, true])
    expect([guest.readIsr(), guest.interrupted, guest.readIsr()]).toEqual([1, false, 0])
    guest.kick(2)
    guest.kick(0xffff)
    expect(ring.status(first)).toBe(UNTOUCHED)
    guest.kick(0)
    expect([ring.status(first), guest.interrupted]).toEqual([0, true])
    guest.status = 0
    expect([guest.status, guest.interrupted, guest.readIsr(), guest.io.read(LEGACY.queueAddress, 4)]).toEqual([0, false, 0, 0])
  })

  it("LEG-14 a read of the ISR with its neighbours clears it as well, and one of the neighbours alone does not", () => {
    guest.start(ring)
    read()
    expect([guest.io.read(LEGACY.status, 1), guest.io.read(LEGACY.queueNotify, 2), guest.interrupted]).toEqual([0x07, 0, true])
    expect([guest.io.read(LEGACY.status, 2), guest.interrupted]).toEqual([0x0107, false])
  })
})

describe("a driver without VERSION_1", () => {
  it("LEG-06 only bits 0 to 31 can be accepted, also after a modern session with more", () => {
    const modern = new ModernGuest(vm, slot)
    modern.start([new Ring(vm, { base: 0x2_0000 })], mask(F.RING_RESET, F.EVENT_IDX))
    expect(modern.accepted >> 32n).not.toBe(0n)
    guest.start(ring, 0xffff_ffff)
    expect(modern.accepted).toBe(0xffff_ffffn)
    expect(read()).toBe(0)
  })

  it("LEG-07 FEATURES_OK is not needed: queues run before DRIVER_OK, and the configuration is written before features", () => {
    guest.status = 0
    guest.status = 0x01
    guest.io.write(LEGACY.device + 0x20, 1, 0)
    expect(guest.io.read(LEGACY.device + 0x20, 1)).toBe(0)
    guest.status = 0x03
    guest.place(0, ring.desc / 4096)
    expect(read()).toBe(0)
    expect(guest.interrupted).toBe(true)
    guest.readIsr()
    // Accepted with the ring in use already.
    guest.io.write(LEGACY.driverFeatures, 4, 2 ** F.EVENT_IDX)
    ring.usedEvent = 5
    expect([read(), guest.interrupted]).toEqual([0, false])
    expect(guest.status).toBe(0x03)
  })

  it("LEG-08 the queue address is a page number, which reads back", () => {
    guest.start(new Ring(vm, { size: 256, base: 0x12_3000, buffers: 0x18_0000 }))
    expect(guest.io.read(LEGACY.queueAddress, 4)).toBe(0x123)
    expect(read(guest, new Ring(vm, { size: 256, base: 0x12_3000, buffers: 0x18_0000 }))).toBe(0)
    guest.status = 0
    guest.place(0, 0xffff_ffff)
    expect(guest.io.read(LEGACY.queueAddress, 4)).toBe(0xffff_ffff)
    // 2^44 - 4096 is no RAM: the device says so when it is kicked, and goes nowhere else.
    guest.kick()
    expect(guest.status & 0x40).toBe(0x40)
  })

  it("LEG-09 page 0 stops a queue, which may be placed anew", () => {
    guest.start(ring)
    expect(read()).toBe(0)
    guest.place(0, 0)
    expect([guest.io.read(LEGACY.queueAddress, 4), read()]).toEqual([0, UNTOUCHED])
    // No ring at address 0 either.
    expect(read(guest, new Ring(vm, { size: 256, base: 0 }))).toBe(UNTOUCHED)
    const next = new Ring(vm, { size: 256, base: 0x3_0000 })
    guest.place(0, next.desc / 4096)
    expect([guest.io.read(LEGACY.queueAddress, 4), read(guest, next)]).toEqual([0x30, 0])
    // Another page without 0 in between: the ring begins anew there.
    ring.clear()
    guest.place(0, ring.desc / 4096)
    expect(read()).toBe(0)
  })

  it.each([
    [1, 4096], [2, 4096], [64, 4096], [128, 4096], [256, 8192], [512, 12288], [1024, 20480], [4096, 77824], [32768, 593920],
  ])("LEG-11 LEG-12 a ring of %i descriptors has its used ring at byte %i, and is served there", (size, usedAt) => {
    const big = new Machine({ ramSize: 4 << 20 })
    const legacy = new LegacyGuest(big, big.attachDisk(backing, { queueSize: size }).slot)
    const base = 0x10_0000
    expect(legacy.io.read(LEGACY.queueSize, 2)).toBe(size)
    const avail = base + 16 * size
    legacy.status = 0x03
    legacy.place(0, base / 4096)
    // One descriptor is all that fits into the smallest ring: header, data and status are in an indirect table.
    legacy.io.write(LEGACY.driverFeatures, 4, 2 ** F.INDIRECT_DESC)
    const table = new Ring(big, { size: 4, base: 0x8000, buffers: 0x2_0000 })
    const request = table.prepare(T.IN, 3, SECTOR)
    table.describe(0, table.desc, 48, 4, 0, base)
    const { ram } = table
    for (let index = 0; index < 3; index++) {
      ram.setUint16(avail + 4 + 2 * (index % size), 0, true)
      ram.setUint16(avail + 2, index + 1, true)
      legacy.kick()
      expect(ram.getUint16(base + usedAt + 2, true)).toBe(index + 1)
      expect([
        ram.getUint32(base + usedAt + 4 + 8 * (index % size), true),
        ram.getUint32(base + usedAt + 8 + 8 * (index % size), true),
      ]).toEqual([0, SECTOR + 1])
    }
    expect(table.status(request)).toBe(0)
  })

  it("LEG-10 LEG-17 the queue size is the device's own, even after a modern driver has lowered it", () => {
    new ModernGuest(vm, slot).setQueueRegister(0, COMMON.queueSize, 2, 8)
    guest.status = 0x03
    guest.place(0, ring.clear().desc / 4096)
    // Head 15 is beyond the eight descriptors.
    const request = ring.request(T.IN, 3, SECTOR, 5)
    guest.kick()
    expect([ring.status(request), guest.status]).toEqual([0, 0x03])
  })

  it("LEG-15 a request without ANY_LAYOUT is a header of 16 bytes, data and one byte of status, each in its own descriptor", () => {
    guest.start(ring)
    const request = ring.request(T.OUT, 9, 3 * SECTOR)
    vm.ram.fill(0x77, request.data, request.data + 3 * SECTOR)
    guest.kick()
    expect([ring.status(request), ring.usedEntry(0)]).toEqual([0, { id: 0, length: 1 }])
    const stored = new Uint8Array(3 * SECTOR)
    backing.pread(stored, 9 * SECTOR)
    expect(stored).toEqual(new Uint8Array(3 * SECTOR).fill(0x77))
  })

  it("LEG-16 the status is the last writable byte, also in one descriptor with the data, and the used length is right", () => {
    guest.start(ring, 2 ** F.ANY_LAYOUT)
    const request = ring.prepare(T.IN, 3, SECTOR)
    ring.describe(1, request.data, SECTOR + 1, WRITE)
    vm.ram[request.data + SECTOR] = UNTOUCHED
    ring.publish(0)
    guest.kick()
    expect([vm.ram[request.data + SECTOR], ring.usedEntry(0), ring.status(request)]).toEqual([0, { id: 0, length: SECTOR + 1 }, UNTOUCHED])
    expect(ring.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x5a))
    // A read that fails has written its status only.
    ring.prepare(T.IN, CAPACITY, SECTOR)
    ring.describe(1, request.data, SECTOR + 1, WRITE)
    ring.publish(0)
    guest.kick()
    expect([vm.ram[request.data + SECTOR], ring.usedEntry(1).length <= 1]).toEqual([1, true])
  })

  it("PCI-36 the status DRIVER enables bus mastering, which Linux before 2.6.34 never does", () => {
    guest.command = 1
    guest.start(ring)
    expect([guest.command, read()]).toEqual([5, 0])
  })

  it("LEG-07 a broken legacy ring stops the device, as a modern one does", () => {
    guest.start(ring)
    ring.describe(0, ring.buffers, 16, NEXT, 0)
    ring.publish(0)
    guest.kick()
    expect([guest.status, guest.readIsr()]).toEqual([0x47, 3])
    guest.start(ring.clear())
    expect(read()).toBe(0)
  })
})

describe("one driver after another", () => {
  const bios = (): void => {
    guest.start(ring.clear())
    expect(read()).toBe(0)
  }
  const modernOs = (): void => {
    const modern = new ModernGuest(vm, slot)
    const own = new Ring(vm, { size: 64, base: 0x3_0000 }).clear()
    modern.start([own], modern.offered)
    own.usedEvent = 0
    expect(read(modern, own)).toBe(0)
    expect(modern.readIsr()).toBe(1)
  }

  it("LEG-17 ST-04 a legacy BIOS, a modern system and a legacy one work, each beginning with a reset", () => {
    for (let round = 0; round < 3; round++) {
      bios()
      modernOs()
    }
  })

  it("LEG-17 a handover without a reset works: the second driver's is enough, from modern to legacy and back", () => {
    const modern = new ModernGuest(vm, slot)
    modern.start([new Ring(vm, { size: 8, base: 0x2_0000 }).clear()], mask(F.EVENT_IDX))
    modern.programVector(1, { address: 0xfee0_0000, data: 0x33 })
    modern.setQueueRegister(0, COMMON.queueVector, 2, 1)
    expect(modern.queueRegister(0, COMMON.queueSize, 2)).toBe(8)
    // The legacy system knows no MSI-X.
    guest.setConfig(guest.msixAt + 2, 2, 0)
    bios()
    expect([vm.interrupts.takeMessages(), guest.interrupted]).toEqual([[], true])
    modernOs()
  })

  it("LEG-17 the drivers of vmm/driver work in turn: legacy writes, modern reads, legacy again", async () => {
    const [pci] = findBlockDevices(vm)
    if (pci === undefined) throw new Error("no disk")
    const data = new Uint8Array(8 * SECTOR).map((_, at) => at * 11)
    for (const [index, transport] of (["legacy", "modern", "legacy"] as const).entries()) {
      const driver = await BlockDriver.open(pci, { transport })
      if (index === 0) await driver.write(40, data)
      expect(await driver.read(40, 8)).toEqual(data)
      await driver.close()
    }
    expect(new ModernGuest(vm, slot).status).toBe(0)
  })

  it("LEG-17 the next session works after a reset of the machine in the middle of one, once firmware has placed the BARs", () => {
    modernOs()
    vm.reset()
    expect(guest.status).toBe(0)
    guest = new LegacyGuest(vm, slot)
    bios()
    vm.reset()
    modernOs()
    expect(new ModernGuest(vm, slot).status).toBe(UP)
  })
})
