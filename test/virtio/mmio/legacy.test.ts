/** Version 1 of virtio over MMIO, the legacy interface: its registers, rings by page number, byte orders ([VIRTIO] 4.2.4). */
import { beforeEach, describe, expect, it } from "vitest"
import type { MemoryBacking } from "../../../src/backing/memory.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import type { AttachedMmioDisk } from "../../../src/vmm/mmio-disks.ts"
import { markedDisk } from "../../harness/marked-disk.ts"
import { CONFIG, LegacyMmioGuest, MMIO } from "../../harness/mmio.ts"
import { Ring } from "../../harness/ring.ts"
import { F, mask, OK, T, UNTOUCHED } from "../../harness/words.ts"

const SECTOR = 512
const CAPACITY = 2048 + 1

let vm: Machine
let backing: MemoryBacking
let disk: AttachedMmioDisk
let guest: LegacyMmioGuest
beforeEach(() => {
  vm = new Machine({ ramSize: 4 << 20 })
  backing = markedDisk(CAPACITY * SECTOR)
  disk = vm.attachMmioDisk(backing, { version: 1, queues: 2 })
  guest = new LegacyMmioGuest(vm, disk)
})

/** A read of sector 3; returns its status byte. */
function read(ring: Ring): number {
  const request = ring.request(T.IN, 3, SECTOR)
  guest.kick(ring.index)
  if (ring.status(request) === OK) expect(ring.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x5a))
  return ring.status(request)
}

describe("registers", () => {
  it("MMIO-16 the version is 1, and of page size, alignment and page number only the last can be read", () => {
    expect([MMIO.magic, MMIO.version, MMIO.deviceId].map((at) => guest.read(at))).toEqual([0x7472_6976, 1, 2])
    guest.negotiate()
    for (const at of [MMIO.guestPageSize, MMIO.queueAlign]) {
      guest.write(at, 8192)
      expect(guest.read(at)).toBe(0)
    }
    expect([0, 1, 2].map((queue) => guest.queue(queue, MMIO.queueSizeMax))).toEqual([256, 256, 0])
    guest.enable(1, { size: 16, page: 0x20 })
    expect([0, 1, 2].map((queue) => guest.queue(queue, MMIO.queuePfn))).toEqual([0, 0x20, 0])
    expect(guest.capacity).toBe(CAPACITY)
  })

  it("MMIO-18 FT-07 LEG-06 only feature bits 0 to 31 are shown, with those for legacy drivers", () => {
    expect([1, 2, 0xffff_ffff].map((select) => guest.offeredWord(select))).toEqual([0, 0, 0])
    const offered = BigInt(guest.offeredWord(0))
    expect(offered & mask(F.ANY_LAYOUT, F.NOTIFY_ON_EMPTY, F.INDIRECT_DESC)).toBe(mask(F.ANY_LAYOUT, F.NOTIFY_ON_EMPTY, F.INDIRECT_DESC))
    guest.acceptWord(0, 2 ** F.FLUSH)
    guest.acceptWord(1, 1)
    expect(disk.device.virtio.negotiation.driverFeatures(0)).toBe(2 ** F.FLUSH)
    expect(disk.device.virtio.negotiation.driverFeatures(1)).toBe(0)
  })

  it("MMIO-18 FEATURES_OK does not exist, and writing that bit alone is no reset", () => {
    guest.negotiate()
    guest.status = 0x0b
    expect(guest.status).toBe(0x03)
    guest.status = 0x08
    expect(guest.status).toBe(0x03)
    guest.status = 0
    expect(guest.status).toBe(0)
  })

  it("MMIO-19 registers of version 2 read 0, and writing them does nothing", () => {
    const ring = new Ring(vm, { size: 16 }).clear()
    guest.start(ring)
    const modern = [
      MMIO.queueReady, MMIO.queueDescLow, MMIO.queueDescHigh, MMIO.queueDriverLow, MMIO.queueDriverHigh, MMIO.queueDeviceLow,
      MMIO.queueDeviceHigh, MMIO.shmSel, MMIO.shmLenLow, MMIO.shmLenHigh, MMIO.shmBaseLow, MMIO.shmBaseHigh, MMIO.queueReset,
      MMIO.configGeneration,
    ]
    for (const at of modern) {
      for (const value of [1, 0]) guest.write(at, value)
      expect([at, guest.read(at)]).toEqual([at, 0])
    }
    expect(read(ring)).toBe(OK)
  })
})

describe("rings", () => {
  it.each([
    [4096, 4096, 16], [4096, 4096, 256], [65536, 4096, 128], [65536, 65536, 256], [8192, 16, 32], [1024, 4, 8],
  ] as const)("MMIO-17 LEG-11 a ring begins at page * page size, with an aligned used ring: pages of %d, alignment %d, %d descriptors", (
    pageSize, align, size,
  ) => {
    const base = 0x2_0000
    const used = base + Math.ceil((16 * size + 6 + 2 * size) / align) * align
    const ring = new Ring(vm, { size, place: { desc: base, avail: base + 16 * size, used }, buffers: 0x10_0000 }).clear()
    guest.negotiate(0, pageSize)
    guest.enable(0, { size, align, page: base / pageSize })
    guest.status = 0x07
    expect(guest.queue(0, MMIO.queuePfn)).toBe(base / pageSize)
    for (let round = 0; round < 2 * size + 1; round++) expect(read(ring)).toBe(OK)
    expect(ring.usedIdx).toBe(2 * size + 1)
  })

  it("MMIO-17 MMIO-20 page 0 stops a queue, and a reset stops all", () => {
    const rings = [0, 1].map(
      (index) => new Ring(vm, { size: 16, index, base: 0x1_0000 * (1 + index), buffers: 0x4_0000 + 0x10_0000 * index }),
    )
    const start = (): void => {
      for (const [queue, ring] of rings.entries()) guest.enable(queue, { size: 16, page: ring.clear().desc / 4096 })
    }
    guest.negotiate()
    start()
    guest.status = 0x07
    expect(rings.map(read)).toEqual([OK, OK])
    guest.setQueue(0, MMIO.queuePfn, 0)
    expect([guest.queue(0, MMIO.queuePfn), guest.queue(1, MMIO.queuePfn)]).toEqual([0, 0x20])
    expect(rings.map(read)).toEqual([UNTOUCHED, OK])
    guest.status = 0
    expect([0, 1].map((queue) => guest.queue(queue, MMIO.queuePfn))).toEqual([0, 0])
    // After power-on there is no page size: a page is nowhere.
    vm.reset()
    start()
    expect([0, 1].map((queue) => guest.queue(queue, MMIO.queuePfn))).toEqual([0, 0])
    guest.negotiate()
    start()
    guest.status = 0x07
    expect(rings.map(read)).toEqual([OK, OK])
  })

  it("MMIO-12 MMIO-18 sizes and alignments that are no powers of two are ignored, and another page for a queue in use", () => {
    const ring = new Ring(vm, { size: 16 }).clear()
    guest.negotiate()
    for (const value of [0, 3, 12288, 0xffff_ffff]) {
      guest.write(MMIO.guestPageSize, value)
      guest.setQueue(0, MMIO.queueAlign, value)
      guest.setQueue(0, MMIO.queueSize, 16)
      guest.setQueue(0, MMIO.queueSize, value)
    }
    guest.setQueue(0, MMIO.queuePfn, ring.desc / 4096)
    guest.status = 0x07
    guest.setQueue(0, MMIO.queuePfn, 0x80)
    guest.setQueue(0, MMIO.queueSize, 8)
    expect(guest.queue(0, MMIO.queuePfn)).toBe(ring.desc / 4096)
    for (let round = 0; round < 20; round++) expect(read(ring)).toBe(OK)
    guest.setQueue(9, MMIO.queuePfn, 0x80)
    guest.setQueue(9, MMIO.queueAlign, 4096)
    expect(guest.queue(9, MMIO.queuePfn)).toBe(0)
  })

  it("MMIO-20 GuestPageSize outlives a reset by the driver: Linux writes it before it resets the device", () => {
    const ring = new Ring(vm, { size: 16 }).clear()
    guest.write(MMIO.guestPageSize, 4096)
    for (const status of [0, 1, 3]) guest.status = status
    guest.enable(0, { size: 16, page: ring.desc / 4096 })
    guest.status = 0x07
    expect(read(ring)).toBe(OK)
  })

  it("LEG-07 MMIO-18 a queue is served before DRIVER_OK", () => {
    const ring = new Ring(vm, { size: 16 }).clear()
    guest.negotiate()
    guest.enable(0, { size: 16, page: ring.desc / 4096 })
    expect([guest.status, read(ring)]).toEqual([0x03, OK])
  })

  it("MMIO-17 a ring far outside RAM, up to the largest page number and page size, makes the device need a reset", () => {
    for (const [pageSize, page] of [[4096, 0xffff_ffff], [2 ** 31, 0xffff_ffff], [2 ** 31, 1]] as const) {
      guest.negotiate(0, pageSize)
      guest.enable(0, { size: 16, page })
      guest.status = 0x07
      guest.kick()
      expect([guest.status & 0x40, guest.queue(0, MMIO.queuePfn)]).toEqual([0x40, page])
      expect(guest.interruptStatus).toBe(CONFIG)
    }
    const ring = new Ring(vm, { size: 16 }).clear()
    guest.start(ring)
    expect(read(ring)).toBe(OK)
  })
})
