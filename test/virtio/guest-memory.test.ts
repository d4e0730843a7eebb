/** Guest RAM of every kind, from end to end: an ArrayBuffer, a part of one, a SharedArrayBuffer, and a WebAssembly memory that grows under requests in flight. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block-driver.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { BIT, mask, ModernGuest, UP } from "./guest.ts"
import { HeldBacking, turn } from "./held-backing.ts"
import { IN, NEXT, OUT, Ring, UNTOUCHED, WRITE } from "./ring.ts"

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
  it("VQ-31 requests by hand: header, data, status and both rings are where the guest sees them", () => {
    const vm = new Machine({ memory: make() })
    const backing = new MemoryBacking({ size: 64 * SECTOR })
    backing.pwrite(content(64), 0)
    const guest = new ModernGuest(vm, vm.attachDisk(backing).slot)
    const ring = new Ring(vm, { size: 4 })
    guest.start([ring], mask(BIT.EVENT_IDX))
    for (let round = 0; round < 10; round++) {
      ring.usedEvent = round
      const request = ring.request(IN, round, 4 * SECTOR)
      guest.kick()
      expect([ring.usedIdx, ring.usedEntry(round), ring.status(request), guest.readIsr()]).toEqual([round + 1, { id: 0, length: 4 * SECTOR + 1 }, 0, 1])
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
  function start(): { memory: WasmMemory; backing: HeldBacking; vm: Machine; guest: ModernGuest; ring: Ring } {
    const memory = wasmMemory(shared)
    const vm = new Machine({ memory })
    const backing = new HeldBacking(content(64))
    const guest = new ModernGuest(vm, vm.attachDisk(backing).slot)
    const ring = new Ring(vm)
    guest.start([ring], mask(BIT.FLUSH))
    return { memory, backing, vm, guest, ring }
  }

  /** Answers whatever the disk is asked for, until it is asked for nothing. */
  async function finishAll(backing: HeldBacking): Promise<void> {
    while (backing.calls.length > 0) await backing.finishNext()
  }

  it("while a read is in flight: the data, the status and the used entry arrive in the memory that the guest has now", async () => {
    const { memory, backing, vm, guest, ring } = start()
    // Data in two pieces, so that one call on the disk is behind the other.
    const request = ring.prepare(IN, 5, SECTOR)
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
    expect([ring.status(request), ring.usedIdx, ring.usedEntry(0), guest.status, guest.readIsr()]).toEqual([0, 1, { id: 0, length: SECTOR + 1 }, UP, 1])
  })

  it("between two pieces of a read, and again while it is redone", async () => {
    const { memory, backing, guest, ring } = start()
    const request = ring.prepare(IN, 5, SECTOR)
    ring.describe(1, request.data, 100, NEXT | WRITE, 3)
    ring.describe(3, request.data + 100, SECTOR - 100, NEXT | WRITE, 2)
    ring.publish(0)
    guest.kick()
    for (let calls = 0; backing.calls.length > 0; calls++) {
      if (calls % 2 === 0 && calls < 6) memory.grow(1)
      await backing.finishNext()
    }
    expect([ring.status(request), ring.usedIdx]).toEqual([0, 1])
    expect(ring.data(request, SECTOR)).toEqual(content(64).slice(5 * SECTOR, 6 * SECTOR))
  })

  it("while a write and a flush are in flight: what the guest wrote is on the disk", async () => {
    const { memory, backing, guest, ring } = start()
    const written = ring.request(OUT, 9, SECTOR)
    const data = new Uint8Array(SECTOR).map((_, at) => 255 - at)
    ring.vm.ram.set(data, written.data)
    const flushed = ring.request(4, 0, 0, 1)
    guest.kick()
    memory.grow(2)
    await finishAll(backing)
    expect(backing.content.slice(9 * SECTOR, 10 * SECTOR)).toEqual(data)
    expect([ring.status(written), ring.status(flushed), ring.usedIdx]).toEqual([0, 0, 2])
  })

  it("while a request is in flight that a reset then ends: its end is told in neither memory", async () => {
    const { memory, backing, guest, ring } = start()
    const request = ring.request(IN, 5, SECTOR)
    guest.kick()
    memory.grow(1)
    guest.status = 0
    await finishAll(backing)
    await turn()
    expect([guest.status, ring.usedIdx, ring.status(request)]).toEqual([0, 0, UNTOUCHED])
  })

  it("between requests: the new memory is used, its new pages too", async () => {
    const { memory, backing, vm, guest, ring } = start()
    for (let round = 0; round < 4; round++) {
      memory.grow(1)
      const request = ring.prepare(IN, round, SECTOR)
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
