/**
 * Guest RAM of every kind, from end to end: an ArrayBuffer, a part of one, a SharedArrayBuffer, and a WebAssembly memory that grows under
 * requests in flight.
 */
import { describe, expect, it, vi } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { type GuestMemory, RamRegion } from "../../src/virtio/guest-memory.ts"
import { VirtioPciFunction } from "../../src/virtio/pci/pci-transport.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { FakeDisk, heldDisk, settled } from "../harness/fake-disk.ts"
import { ModernGuest } from "../harness/registers.ts"
import { Ring } from "../harness/ring.ts"
import { F, mask, NEXT, T, UNTOUCHED, UP, WRITE } from "../harness/words.ts"

const SECTOR = 512
const PAGE = 65536
const PAGES = 16

/** The types of Node have the name only. */
declare const WebAssembly: { readonly Memory: new (limits: { initial: number; maximum: number; shared: boolean }) => WasmMemory }

interface WasmMemory {
  readonly buffer: ArrayBufferLike
  grow(pages: number): number
}

function wasmMemory(shared: boolean): WasmMemory {
  return new WebAssembly.Memory({ initial: PAGES, maximum: 64, shared })
}

const KINDS = [
  ["an ArrayBuffer", () => new ArrayBuffer(PAGES * PAGE)],
  ["a part of an ArrayBuffer", () => new Uint8Array(new ArrayBuffer((PAGES + 2) * PAGE), 6, PAGES * PAGE)],
  ["a SharedArrayBuffer", () => new SharedArrayBuffer(PAGES * PAGE)],
  ["a WebAssembly memory", () => wasmMemory(false)],
  ["a shared WebAssembly memory", () => wasmMemory(true)],
] as const

function content(sectors: number): Uint8Array {
  return Uint8Array.from({ length: sectors * SECTOR }, (_, at) => (at >> 9) * 3 + at)
}

describe.each(KINDS)("RAM in %s", (_, make) => {
  it("VQ-31 header, data, status and both rings are where the guest sees them", () => {
    const vm = new Machine({ memory: make() })
    const backing = new MemoryBacking({ size: 64 * SECTOR })
    backing.pwrite(content(64), 0)
    const guest = new ModernGuest(vm, vm.attachDisk(backing).slot)
    const ring = new Ring(vm, { size: 4 })
    guest.start([ring], mask(F.EVENT_IDX))
    for (let round = 0; round < 10; round++) {
      ring.usedEvent = round
      const request = ring.request(T.IN, round, 4 * SECTOR)
      guest.kick()
      expect([
        ring.usedIdx, ring.usedEntry(round), ring.status(request), guest.readIsr(),
      ]).toEqual([round + 1, { id: 0, length: 4 * SECTOR + 1 }, 0, 1])
      expect(ring.data(request, 4 * SECTOR)).toEqual(content(64).slice(round * SECTOR, (round + 4) * SECTOR))
    }
  })

  it("VQ-31 a driver of vmm/driver writes and reads", async () => {
    const vm = new Machine({ memory: make() })
    vm.attachDisk(new MemoryBacking({ size: 1 << 20 }))
    const [pci] = findBlockDevices(vm)
    if (pci === undefined) throw new Error("no disk")
    const driver = await BlockDriver.open(pci)
    await driver.write(7, content(100))
    await driver.flush()
    expect(await driver.read(7, 100)).toEqual(content(100))
    await driver.close()
  })
})

describe.each([["a WebAssembly memory", false], ["a shared WebAssembly memory", true]] as const)("%s that grows", (_, shared) => {
  function start(): { memory: WasmMemory; backing: FakeDisk; vm: Machine; guest: ModernGuest; ring: Ring } {
    const memory = wasmMemory(shared)
    const vm = new Machine({ memory })
    const backing = heldDisk(content(64))
    const guest = new ModernGuest(vm, vm.attachDisk(backing).slot)
    const ring = new Ring(vm)
    guest.start([ring], mask(F.FLUSH))
    return { memory, backing, vm, guest, ring }
  }

  /** Answers whatever the disk is asked for, until it is asked for nothing. */
  async function finishAll(backing: FakeDisk): Promise<void> {
    while (backing.waiting.length > 0) await backing.finishNext()
  }

  it("while a read is in flight: the data, the status and the used entry arrive in the new buffer", async () => {
    const { memory, backing, vm, guest, ring } = start()
    // Data in two pieces, so that one call on the disk is behind the other.
    const request = ring.prepare(T.IN, 5, SECTOR)
    ring.describe(1, request.data, 100, NEXT | WRITE, 3)
    ring.describe(3, request.data + 0x800, SECTOR - 100, NEXT | WRITE, 2)
    ring.publish(0)
    guest.kick()
    memory.grow(1)
    expect(vm.ram.length).toBe((PAGES + 1) * PAGE)
    await finishAll(backing)
    const data = content(64).slice(5 * SECTOR, 6 * SECTOR)
    expect(vm.ram.slice(request.data, request.data + 100)).toEqual(data.slice(0, 100))
    expect(vm.ram.slice(request.data + 0x800, request.data + 0x800 + SECTOR - 100)).toEqual(data.slice(100))
    expect([
      ring.status(request), ring.usedIdx, ring.usedEntry(0), guest.status, guest.readIsr(),
    ]).toEqual([0, 1, { id: 0, length: SECTOR + 1 }, UP, 1])
  })

  it("between two pieces of a read, and again while the read is repeated: all data arrives", async () => {
    const { memory, backing, guest, ring } = start()
    const request = ring.prepare(T.IN, 5, SECTOR)
    ring.describe(1, request.data, 100, NEXT | WRITE, 3)
    ring.describe(3, request.data + 100, SECTOR - 100, NEXT | WRITE, 2)
    ring.publish(0)
    guest.kick()
    for (let calls = 0; backing.waiting.length > 0; calls++) {
      if (calls % 2 === 0 && calls < 6) memory.grow(1)
      await backing.finishNext()
    }
    expect([ring.status(request), ring.usedIdx]).toEqual([0, 1])
    expect(ring.data(request, SECTOR)).toEqual(content(64).slice(5 * SECTOR, 6 * SECTOR))
  })

  it("while a write and a flush are in flight: the guest's data is on the disk", async () => {
    const { memory, backing, guest, ring } = start()
    const written = ring.request(T.OUT, 9, SECTOR)
    const data = new Uint8Array(SECTOR).map((_, at) => 255 - at)
    ring.vm.ram.set(data, written.data)
    const flushed = ring.request(4, 0, 0, 1)
    guest.kick()
    memory.grow(2)
    await finishAll(backing)
    expect(backing.cache.slice(9 * SECTOR, 10 * SECTOR)).toEqual(data)
    expect([ring.status(written), ring.status(flushed), ring.usedIdx]).toEqual([0, 0, 2])
  })

  it("while a request is in flight that a reset ends: no answer reaches the old buffer or the new one", async () => {
    const { memory, backing, guest, ring } = start()
    const request = ring.request(T.IN, 5, SECTOR)
    guest.kick()
    memory.grow(1)
    guest.status = 0
    await finishAll(backing)
    await settled()
    expect([guest.status, ring.usedIdx, ring.status(request)]).toEqual([0, 0, UNTOUCHED])
  })

  it("inside an interrupt handler that adds another request: both are served", () => {
    const { memory, backing, vm, guest, ring } = start()
    const sync = new MemoryBacking({ size: 64 * SECTOR })
    sync.pwrite(content(64), 0)
    Object.assign(backing, { pread: sync.pread.bind(sync) })
    guest.start([ring.clear()], mask(F.EVENT_IDX))
    const first = ring.prepare(T.IN, 5, SECTOR)
    const second = ring.prepare(T.IN, 6, SECTOR, 1)
    const stop = vm.interrupts.subscribe(() => {
      stop()
      memory.grow(1)
      ring.publish(second.head)
    })
    ring.publish(first.head)
    guest.kick()
    expect([ring.usedIdx, ring.status(first), ring.status(second), guest.status]).toEqual([2, 0, 0, UP])
    expect(ring.data(second, SECTOR)).toEqual(content(64).slice(6 * SECTOR, 7 * SECTOR))
  })

  it("between requests: its new pages are used", async () => {
    const { memory, backing, vm, guest, ring } = start()
    for (let round = 0; round < 4; round++) {
      memory.grow(1)
      const request = ring.prepare(T.IN, round, SECTOR)
      const target = vm.ram.length - SECTOR
      ring.describe(1, target, SECTOR, NEXT | WRITE, 2)
      ring.publish(0)
      guest.kick()
      await finishAll(backing)
      expect([ring.status(request), ring.usedIdx]).toEqual([0, round + 1])
      expect(vm.ram.slice(target)).toEqual(content(64).slice(round * SECTOR, (round + 1) * SECTOR))
    }
  })
})

describe("a memory of the embedder's own, of several regions", () => {
  const CUT = 0x8_0000

  /** A machine whose disk sees the RAM in two regions, up to CUT and from there on. `limit` takes the RAM from there on away. */
  function start(): { backing: FakeDisk; device: VirtioBlk; guest: ModernGuest; ring: Ring; limit: (end: number) => void } {
    const vm = new Machine({ ramSize: PAGES * PAGE })
    const region = (from: number, to: number): RamRegion => new RamRegion(from, vm.ram.subarray(from, to))
    let regions = [region(0, CUT), region(CUT, vm.ram.length)]
    let generation = 0
    const memory: GuestMemory = {
      get generation() {
        return generation
      },
      region: (address) => regions.find(({ start, end }) => start <= address && address < end),
    }
    const backing = heldDisk(new Uint8Array(64 * SECTOR))
    const device = new VirtioBlk(backing)
    const { slot } = vm.plug(undefined, ({ interrupts }) => new VirtioPciFunction(device, { memory, interrupts }))
    const guest = new ModernGuest(vm, slot)
    const ring = new Ring(vm)
    guest.start([ring])
    const limit = (end: number): void => {
      regions = end > CUT ? [region(0, CUT), region(CUT, end)] : [region(0, CUT)]
      generation++
    }
    return { backing, device, guest, ring, limit }
  }

  it("`region` may reset the device while a request is taken: then no call is made, and nothing is stored", () => {
    const vm = new Machine({ ramSize: PAGES * PAGE })
    const whole = new RamRegion(0, vm.ram)
    let looked = (): void => {}
    const memory: GuestMemory = {
      generation: 0,
      region(address) {
        looked()
        return address < vm.ram.length ? whole : undefined
      },
    }
    const disk = new FakeDisk({ size: 64 * SECTOR })
    const { slot } = vm.plug(undefined, ({ interrupts }) => new VirtioPciFunction(new VirtioBlk(disk), { memory, interrupts }))
    const guest = new ModernGuest(vm, slot)
    const ring = new Ring(vm)
    guest.start([ring])
    const request = ring.prepare(T.IN, 5, SECTOR)
    ring.publish(0)
    guest.kick()
    expect([ring.status(request), ring.usedIdx, disk.log.splice(0).length]).toEqual([0, 1, 1])
    // A flag that means nothing: it is not usual, and is walked.
    const next = ring.prepare(T.IN, 6, SECTOR)
    ring.describe(0, next.header, 16, NEXT | 8, 1)
    looked = () => {
      looked = () => {}
      guest.status = 0
    }
    ring.publish(0)
    guest.kick()
    expect([ring.status(next), ring.usedIdx, disk.log.length]).toEqual([UNTOUCHED, 1, 0])
  })

  /** A write of two sectors at sector 5: one of 0x11 from `first`, one of 0x22 from the low region. */
  function write(guest: ModernGuest, ring: Ring, first: number): void {
    const request = ring.prepare(T.OUT, 5, SECTOR)
    ring.describe(1, first, SECTOR, NEXT, 3)
    ring.describe(3, request.data, SECTOR, NEXT, 2)
    guest.vm.ram.fill(0x11, first, first + SECTOR)
    guest.vm.ram.fill(0x22, request.data, request.data + SECTOR)
    ring.publish(0)
    guest.kick()
  }

  const values = ({ cache }: FakeDisk) => [4, 5, 6, 7].map((sector) => [...new Set(cache.subarray(sector * SECTOR, (sector + 1) * SECTOR))])

  async function finishAll(backing: FakeDisk): Promise<void> {
    while (backing.waiting.length > 0) await backing.finishNext()
  }

  it("a buffer may run from one region into the next", async () => {
    const { backing, guest, ring } = start()
    write(guest, ring, CUT - 100)
    await finishAll(backing)
    expect([values(backing), ring.usedIdx]).toEqual([[[0], [0x11], [0x22], [0]], 1])
  })

  it.each([
    ["a region", CUT], ["the end of a region", CUT + SECTOR],
  ])("%s may go away under a write: the device needs a reset, and the rest of the request goes nowhere else", async (_, end) => {
    const { backing, device, guest, ring, limit } = start()
    write(guest, ring, CUT + 256)
    limit(end)
    await finishAll(backing)
    expect(values(backing)).toEqual([[0], [0x11], [0x22], [0]])
    expect([device.brokenBy?.message, ring.usedIdx]).toEqual(["queue 0: 0x80100 is not RAM any more, chain 0", 0])
    guest.status = 0
    expect(guest.status).toBe(0)
  })
})

it("shared RAM is recognized in pages that are not isolated, which see no SharedArrayBuffer", () => {
  const ram = new Uint8Array(new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer)
  vi.stubGlobal("SharedArrayBuffer", undefined)
  try {
    expect(new RamRegion(0, ram).shared).toBe(true)
    expect(new RamRegion(0, new Uint8Array(8)).shared).toBe(false)
  } finally {
    vi.unstubAllGlobals()
  }
})
