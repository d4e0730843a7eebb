/** The driver and our own device over a Machine, end to end: two readings of the specification that must agree. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../../src/backing/memory.ts"
import { BlockDriver, findBlockDevices } from "../../../../src/vmm/driver/block/driver.ts"
import type { BlockDriverOptions } from "../../../../src/vmm/driver/block/options.ts"
import type { PciDevice } from "../../../../src/vmm/driver/pci/device.ts"
import { Ecam } from "../../../../src/vmm/driver/pci/config.ts"
import { SplitRing } from "../../../../src/vmm/driver/virtio/rings/split-ring.ts"
import { RamAllocator } from "../../../../src/vmm/driver/ram-allocator.ts"
import { type AttachDiskOptions, type AttachedDisk, Machine, type MachineOptions } from "../../../../src/vmm/machine.ts"
import { exercise, expectSame, SECTORS } from "../../../harness/exercise.ts"
import { type FakeDisk, heldDisk, settled } from "../../../harness/fake-disk.ts"
import { Rng } from "../../../support/rng.ts"
import { passesByStepping } from "../virtio/rings/ring-device.ts"

/** Node has it, but the types for Node 20 do not declare it. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer; grow(pages: number): number },
}

interface Bench {
  readonly machine: Machine
  readonly backing: MemoryBacking
  readonly disk: AttachedDisk
  readonly pci: PciDevice
}

function bench(options: AttachDiskOptions = {}, machineOptions: MachineOptions = { ramSize: 8 << 20 }): Bench {
  const machine = new Machine(machineOptions)
  const backing = new MemoryBacking({ size: SECTORS * 512 })
  const disk = machine.attachDisk(backing, { serial: "vioblk-driver", ...options })
  return { machine, backing, disk, pci: firstDisk(machine) }
}

function firstDisk(machine: Machine): PciDevice {
  const [pci] = findBlockDevices(machine)
  if (pci === undefined) throw new Error("no disk on the bus")
  return pci
}

const MATRIX: (BlockDriverOptions & { readonly name: string })[] = [
  ...(["modern", "legacy"] as const).flatMap((transport) =>
    (["msix", "intx", "none"] as const).flatMap((interrupts) => [
      { name: `${transport}, ${interrupts}, all features`, transport, interrupts },
      {
        name: `${transport}, ${interrupts}, no ring features`,
        transport,
        interrupts,
        features: { refuse: ["INDIRECT_DESC", "EVENT_IDX"] as const },
      },
      { name: `${transport}, ${interrupts}, EVENT_IDX only`, transport, interrupts, features: { refuse: ["INDIRECT_DESC"] as const } },
    ]),
  ),
  { name: "modern through the configuration window", transport: "modern", access: "window" },
  { name: "modern, direct descriptors followed by indirect ones", framing: { indirect: { direct: 2 }, segmentSize: 1536 } },
  { name: "modern, scattered in odd pieces", framing: { readable: [3, 9, 1, 8], writable: [5, 100], scattered: true } },
  { name: "modern, a queue of 2", queueSize: 2 },
  { name: "modern, a queue of 4 without indirect tables", queueSize: 4, features: { refuse: ["INDIRECT_DESC"] } },
  { name: "modern, requests of 4 KiB", maxRequestBytes: 4096, depth: 100 },
]

describe("a disk driven by the guest's driver", () => {
  it.each(MATRIX)("VQ-08 VQ-14 VQ-16 VQ-25 BLK-04 PCI-20 LEG-11 data is right: $name", async ({ name, ...options }) => {
    const { pci } = bench({ queues: 2 })
    const blk = await BlockDriver.open(pci, { queues: 2, ...options })
    await exercise(blk, new Rng(name.length), 40)
    expect(await blk.getId()).toBe("vioblk-driver")
    const { interrupts, kicks } = blk.virtio.counters
    expect(kicks).toBeGreaterThan(0)
    if (options.interrupts === "none") expect(interrupts).toBe(0)
    else expect(interrupts).toBeGreaterThan(0)
    const { memory } = blk.virtio
    await blk.close()
    expect(memory.allocations).toBe(0)
  })

  it.each([
    ["transitional", "memory"],
    ["modern", "memory"],
    ["modern", "io"],
    ["legacy", "memory"],
  ] as const)("LEG-01 PCI-08 the driver opens a %s function (%s)", async (kind, modernBar) => {
    const { pci } = bench({ interface: kind, modernBar })
    const blk = await BlockDriver.open(pci)
    expect(blk.virtio.transport.kind).toBe(kind === "legacy" ? "legacy" : "modern")
    await exercise(blk, new Rng(3), 5)
    if (kind === "modern") {
      await expect(BlockDriver.open(pci, { transport: "legacy" })).rejects.toMatchObject({ code: expect.stringMatching(/unsupported/) })
    }
    if (kind === "legacy") await expect(BlockDriver.open(pci, { transport: "modern" })).rejects.toMatchObject({ code: "unsupported" })
  })

  it("PCI-14 the disk works through ECAM with its BARs moved, also above 4 GiB", async () => {
    const { machine } = bench()
    const [pci] = findBlockDevices(machine, { config: new Ecam(machine, { base: 0xc000_0000 }) })
    if (pci === undefined) throw new Error("no disk in the ECAM")
    expect(pci.config).toBeInstanceOf(Ecam)
    for (const bar of pci.bars()) pci.setBarAddress(bar.index, bar.space === "io" ? 0xe000 : bar.is64Bit ? 0x90_0000_0000 : 0xe000_0000)
    const blk = await BlockDriver.open(pci)
    const model = await exercise(blk, new Rng(4), 10)
    await blk.close()
    const legacy = await BlockDriver.open(pci, { transport: "legacy" })
    await exercise(legacy, new Rng(5), 10, model)
  })

  it.each([1, 2, 3, 5, 16])("PCI-28 PCI-31 BC-09 four queues share %i MSI-X vectors", async (vectors) => {
    const { pci } = bench({ queues: 4, vectors })
    const blk = await BlockDriver.open(pci, { queues: 9 })
    expect(blk.queueCount).toBe(4)
    expect(blk.virtio.vectors).toBe(vectors)
    const used = new Set(blk.virtio.queues.map(({ vector }) => vector))
    expect([...used]).toEqual(vectors === 1 ? [0] : vectors < 5 ? [1] : [1, 2, 3, 4])
    await exercise(blk, new Rng(vectors), 20)
  })

  it("BC-09 without MQ only queue 0 is used", async () => {
    const { pci } = bench({ queues: 4 })
    const blk = await BlockDriver.open(pci, { queues: 4, features: { refuse: ["MQ"] } })
    expect(blk.queueCount).toBe(1)
    expect(blk.identify().queues).toBeUndefined()
  })

  it.each([8, 1024, 32768])("VQ-02 PCI-17 queues of %i work through both interfaces", async (queueSize) => {
    const { pci } = bench({ queueSize }, { ramSize: 16 << 20 })
    for (const transport of ["modern", "legacy"] as const) {
      const blk = await BlockDriver.open(pci, { transport })
      expect(blk.virtio.queues[0]?.ring.size).toBe(queueSize)
      await blk.write(0, new Uint8Array(512).fill(queueSize % 251))
      expect((await blk.read(0, 1))[511]).toBe(queueSize % 251)
      await blk.close()
    }
  })

  it("VQ-04 indices run past 65535 through a ring of 4", async () => {
    const { pci } = bench()
    const blk = await BlockDriver.open(pci, { queueSize: 4 })
    const ring = blk.virtio.queues[0]?.ring
    for (let round = 0; round < 350; round++) await Promise.all(blk.batch(() => Array.from({ length: 200 }, () => blk.flush())))
    expect(ring?.exposedIndex).toBe((350 * 200) % 65536)
    await exercise(blk, new Rng(6), 2)
  })

  it("VQ-25 VQ-26 with EVENT_IDX the device notifies when used_event is passed, and only then, across index 65535 too", async () => {
    const { pci } = bench()
    // Nobody takes interrupts, so the ISR status keeps what the device decided.
    const blk = await BlockDriver.open(pci, { interrupts: "none", queueSize: 64 })
    const ring = blk.virtio.queues[0]?.ring
    if (!(ring instanceof SplitRing)) throw new Error("no split ring")
    const rng = new Rng(25)
    for (let skipped = 0; skipped < 65_536 - 640; skipped += 64) {
      await Promise.all(blk.batch(() => Array.from({ length: 64 }, () => blk.flush())))
    }
    blk.virtio.transport.readIsr()
    let notified = 0
    for (let round = 0; round < 300; round++) {
      const before = ring.lastUsed
      const batch = rng.between(1, 12)
      ring.usedEvent = before + rng.between(-8, 20)
      const isWanted = passesByStepping(ring.usedEvent, (before + batch) % 65536, before)
      await Promise.all(blk.batch(() => Array.from({ length: batch }, () => blk.flush())))
      expect(blk.virtio.transport.readIsr(), `used_event ${ring.usedEvent}, from ${before} by ${batch}`).toBe(isWanted ? 1 : 0)
      if (isWanted) notified++
    }
    expect(ring.lastUsed).toBeLessThan(4096)
    expect(notified).toBeGreaterThan(30)
  })

  it("long scattered transfers need no more memory than short ones", async () => {
    const { pci } = bench()
    const memory = new RamAllocator({ start: 1 << 20, length: 256 << 10 })
    const blk = await BlockDriver.open(pci, { memory, maxRequestBytes: 8192, depth: 2, framing: { segmentSize: 1024, scattered: true } })
    const data = new Rng(8).bytes(1 << 20)
    await blk.write(0, data)
    expectSame(await blk.read(0, 2048), data)
    await blk.close()
    expect(memory.allocations).toBe(0)
  })

  it("FT-24 BC-01 BC-03 BC-05 identify shows the fields of negotiated features, and no others", async () => {
    const { pci } = bench({ queues: 3, blockSize: 512, physicalBlockSize: 4096, optimalIoSize: 65536 })
    const blk = await BlockDriver.open(pci, { features: { want: ["FLUSH", "TOPOLOGY", "MQ", "DISCARD"] } })
    expect(blk.identify()).toEqual({
      capacity: SECTORS,
      size: SECTORS * 512,
      features: ["FLUSH", "TOPOLOGY", "MQ", "DISCARD", "VERSION_1"],
      readOnly: false,
      topology: { physicalBlockExp: 3, alignmentOffset: 0, minIoSize: 8, optIoSize: 128 },
      queues: 3,
      discard: { maxSectors: expect.any(Number), maxRanges: expect.any(Number), sectorAlignment: 128 },
    })
  })

  it("BLK-25 long discards and zeroings are split to the device's limits", async () => {
    const machine = new Machine({ ramSize: 8 << 20 })
    machine.attachDisk(new MemoryBacking({ size: 2 ** 41 }))
    const blk = await BlockDriver.open(firstDisk(machine))
    const last = 2 ** 41 / 512 - 1
    await blk.write(last, new Uint8Array(512).fill(1))
    const { writeZeroes, discard, capacity } = blk.identify()
    expect(capacity).toBe(2 ** 32)
    const { kicks } = blk.virtio.counters
    await blk.writeZeroes([{ sector: last - 40 * (writeZeroes?.maxSectors ?? 0), sectors: 40 * (writeZeroes?.maxSectors ?? 0) + 1 }])
    expect(blk.virtio.counters.kicks).toBe(kicks + 1)
    expect(await blk.read(last, 1)).toEqual(new Uint8Array(512))
    await blk.discard([{ sector: 0, sectors: last + 1 }, { sector: 5, sectors: 1 }])
    expect(discard?.maxSectors).toBeLessThan(last)
  })

  it("BLK-08 BLK-09 BLK-10 requests that the device refuses reject with its status", async () => {
    const machine = new Machine({ ramSize: 8 << 20 })
    machine.attachDisk(new MemoryBacking({ size: SECTORS * 512, readOnly: true }))
    const blk = await BlockDriver.open(firstDisk(machine))
    expect(blk.identify().readOnly).toBe(true)
    await expect(blk.write(0, new Uint8Array(512))).rejects.toMatchObject({ name: "BlockRequestError", status: "IOERR", request: "OUT" })
    await expect(blk.read(SECTORS, 1)).rejects.toMatchObject({ status: "IOERR", sector: SECTORS })
    await expect(blk.read(SECTORS - 1, 2)).rejects.toMatchObject({ status: "IOERR" })
    expect(await blk.request({ type: 0x7fff_ffff })).toMatchObject({ status: 2 })
    expect(await blk.read(SECTORS - 1, 1)).toEqual(new Uint8Array(512))
  })

  it("BLK-17 the cache mode can be switched where CONFIG_WCE is negotiated", async () => {
    const { pci } = bench()
    const blk = await BlockDriver.open(pci)
    for (const mode of [false, true]) {
      blk.setWriteback(mode)
      expect(blk.identify().writeback).toBe(mode)
    }
  })

  it("LEG-03 LEG-04 the configuration moves when MSI-X is switched, and the driver follows at run time", async () => {
    const { pci, machine } = bench()
    const blk = await BlockDriver.open(pci, { transport: "legacy", interrupts: "intx" })
    const msix = pci.msix()
    const base = pci.bars()[0]?.address ?? 0
    if (msix === undefined) throw new Error("no MSI-X")
    for (const [enabled, offset] of [[false, 20], [true, 24], [false, 20]] as const) {
      msix.enabled = enabled
      expect(machine.portRead(base + offset, 4)).toBe(SECTORS)
      expect(blk.identify().capacity).toBe(SECTORS)
    }
  })

  it("ST-07 FT-06 a device that refuses the features gets FAILED, and the driver frees its memory", async () => {
    const { pci } = bench({ interface: "modern" })
    const memory = new RamAllocator({ start: 1 << 20, length: 1 << 20 })
    await expect(
      BlockDriver.open(pci, { memory, features: { want: [], refuse: ["VERSION_1"] } }),
    ).rejects.toMatchObject({ code: "features-refused" })
    const status = pci.registers(4).read(0x14, 1)
    expect(status & 0x80).toBe(0x80)
    // Two rings of 256 take 2 * 6668 bytes in the modern interface, 2 * 12288 in the legacy one.
    for (const length of [100, 5000, 6000, 12_000, 14_000, 24_000]) {
      const little = new RamAllocator({ start: 1 << 20, length })
      for (const transport of ["modern", "legacy"] as const) {
        const other = bench({ queues: 2 })
        const opened = BlockDriver.open(other.pci, { memory: little, transport, queues: 2 })
        if (length < 14_000 || transport === "legacy") await expect(opened).rejects.toMatchObject({ code: "no-memory" })
        else await (await opened).close()
        expect(little.allocations).toBe(0)
      }
    }
  })

  it("a machine that was reset is no obstacle to the driver's own reset", async () => {
    const { machine, pci } = bench()
    const blk = await BlockDriver.open(pci)
    const model = await exercise(blk, new Rng(1), 3)
    machine.reset()
    await blk.reset()
    await exercise(blk, new Rng(2), 3, model)
  })

  it("PCI-32 the driver sets masks and messages of the MSI-X table, and reads its pending bits", async () => {
    const { machine, pci } = bench()
    const blk = await BlockDriver.open(pci)
    const msix = pci.msix()
    if (msix === undefined) throw new Error("no MSI-X")
    expect([
      msix.enabled, msix.functionMasked, msix.isMasked(1), msix.message(1).data === msix.message(0).data,
    ]).toEqual([true, false, false, false])
    for (const mask of [(on: boolean) => (on ? msix.mask(1) : msix.unmask(1)), (on: boolean) => (msix.functionMasked = on)]) {
      mask(true)
      let isDone = false
      const flush = blk.flush().then(() => (isDone = true))
      await new Promise((resolve) => setImmediate(resolve))
      expect([isDone, msix.isPending(1), msix.isPending(0)]).toEqual([false, true, false])
      mask(false)
      await flush
      expect(msix.isPending(1)).toBe(false)
    }
    expect(() => msix.message(2)).toThrow(RangeError)
    expect(machine.interrupts.messages).toEqual([])
  })

  it("LEG-17 FT-14 ST-04 modern and legacy sessions follow one another on the same disk", async () => {
    const { pci } = bench()
    const model = new Uint8Array(SECTORS * 512)
    for (const [round, transport] of (["legacy", "modern", "legacy", "legacy", "modern", "modern"] as const).entries()) {
      const blk = await BlockDriver.open(pci, { transport, interrupts: round % 2 === 0 ? "msix" : "intx" })
      await exercise(blk, new Rng(round), 4, model)
      await blk.reset()
      expectSame(await blk.read(0, SECTORS), model)
    }
  })
})

describe("events from the device", () => {
  it.each(["msix", "intx"] as const)("BLK-35 CF-08 PCI-27 a disk that grows raises an event (%s)", async (interrupts) => {
    for (const transport of ["modern", "legacy"] as const) {
      const { pci, backing, disk } = bench()
      const blk = await BlockDriver.open(pci, { interrupts, transport })
      const seen: number[] = []
      const end = blk.onConfigurationChange(() => seen.push(blk.identify().capacity))
      backing.resize(2 * SECTORS * 512)
      disk.device.capacityChanged()
      end()
      backing.resize(3 * SECTORS * 512)
      disk.device.capacityChanged()
      expect(seen).toEqual([2 * SECTORS])
      expect(blk.virtio.counters.configurationChanges).toBe(2)
      await blk.write(3 * SECTORS - 1, new Uint8Array(512))
    }
  })

  it.each([
    "msix", "intx", "none",
  ] as const)("ST-11 ST-12 VQ-10 a chain that loops, written by hand, makes the device ask for a reset (%s)", async (interrupts) => {
    const { pci, machine } = bench()
    const blk = await BlockDriver.open(pci, { interrupts })
    const queue = blk.virtio.queues[0]
    if (queue === undefined) throw new Error("no queue")
    const [head = 0] = queue.ring.reserve(1)
    queue.ring.writeDescriptor(head, { address: 0x1000, length: 16, flags: 1, next: head })
    const lost = blk.whenUsed(head)
    if (queue.ring.publish(head)) blk.virtio.kick(queue)
    if (interrupts === "none") blk.poll()
    await expect(lost).rejects.toMatchObject({ code: "needs-reset" })
    await expect(blk.read(0, 1)).rejects.toMatchObject({ code: "needs-reset" })
    await blk.reset()
    await exercise(blk, new Rng(9), 2)
    await blk.close()
    expect(machine.interrupts.raised).toEqual([])
  })

  it("a chain written by hand is answered like any other", async () => {
    const { pci, machine } = bench()
    const blk = await BlockDriver.open(pci)
    const queue = blk.virtio.queues[0]
    if (queue === undefined) throw new Error("no queue")
    const [head = 0, next = 0] = queue.ring.reserve(2)
    const buffer = blk.virtio.memory.allocate(64)
    machine.ram.set([4, 0, 0, 0], buffer)
    machine.ram[buffer + 32] = 0xff
    queue.ring.writeDescriptor(head, { address: buffer, length: 16, flags: 1, next })
    queue.ring.writeDescriptor(next, { address: buffer + 32, length: 1, flags: 2 })
    const used = blk.whenUsed(head)
    queue.ring.publish(head)
    blk.virtio.kick(queue)
    expect([await used, machine.ram[buffer + 32]]).toEqual([1, 0])
    expect(
      await blk.submit([{ address: buffer, length: 16, writable: false }, { address: buffer + 32, length: 1, writable: true }]),
    ).toBe(1)
  })

  it("two disks on one line, and a third with MSI-X, do not take each other's interrupts", async () => {
    const machine = new Machine({ ramSize: 16 << 20 })
    // Lines repeat every four slots.
    for (const slot of [1, 5, 2]) machine.attachDisk(new MemoryBacking({ size: SECTORS * 512 }), { slot, serial: `slot ${slot}` })
    const disks = await Promise.all(
      findBlockDevices(machine).map((pci) => BlockDriver.open(pci, { interrupts: pci.address.device === 2 ? "msix" : "intx" })),
    )
    expect(await Promise.all(disks.map((blk) => blk.getId()))).toEqual(["slot 1", "slot 2", "slot 5"])
    await Promise.all(disks.map((blk, index) => exercise(blk, new Rng(index), 15)))
    expect(new Set(disks.map((blk) => blk.virtio.pci.interruptLine)).size).toBe(2)
    for (const blk of disks) await blk.close()
    expect(machine.interrupts.raised).toEqual([])
  })

  it("eight disks in one slot, each a function of one device, on one line: found, told apart and used at once, also after a reset",
  async () => {
    const machine = new Machine({ ramSize: 128 << 20 })
    for (let functionNumber = 0; functionNumber < 8; functionNumber++) {
      const disk = new MemoryBacking({ size: SECTORS * 512 })
      machine.attachDisk(disk, { slot: 4, functionNumber, serial: `function ${functionNumber}` })
    }
    machine.attachDisk(new MemoryBacking({ size: SECTORS * 512 }), { serial: "alone" })
    for (let round = 0; round < 2; round++) {
      const disks = await Promise.all(
        findBlockDevices(machine).map((pci) => BlockDriver.open(pci, { interrupts: pci.address.function === 5 ? "msix" : "intx" })),
      )
      const serials = ["alone", ...Array.from({ length: 8 }, (_, at) => `function ${at}`)]
      expect(await Promise.all(disks.map((blk) => blk.getId()))).toEqual(serials)
      if (round === 0) await Promise.all(disks.map((blk, index) => exercise(blk, new Rng(index), 5)))
      else await Promise.all(disks.map((blk) => blk.write(1, new Uint8Array(512))))
      expect(new Set(disks.slice(1).map((blk) => blk.virtio.pci.interruptLine)).size).toBe(1)
      const places = disks.flatMap((blk) => blk.virtio.pci.bars().map(({ address }) => address))
      expect(new Set(places).size).toBe(places.length)
      for (const blk of disks) await blk.close()
      expect(machine.interrupts.raised).toEqual([])
      machine.reset()
    }
  })

  it("a disk that is unplugged with the driver at work is an error, and closing frees the memory", async () => {
    const { machine, pci, disk } = bench()
    const memory = new RamAllocator({ start: 1 << 20, length: 4 << 20 })
    const blk = await BlockDriver.open(pci, { memory, interrupts: "none" })
    machine.unplug(disk.slot)
    const read = blk.read(0, 1)
    await expect(read).rejects.toMatchObject({ code: "gone" })
    await expect(blk.reset()).rejects.toMatchObject({ code: "no-device" })
    await blk.close()
    expect(memory.allocations).toBe(0)
    await expect(BlockDriver.open(pci, { memory })).rejects.toMatchObject({ name: "DriverError" })
  })

  it("FT-20 VQ-32 PCI-23 one queue is reset alone while the other goes on", async () => {
    const { pci } = bench({ queues: 2 })
    const blk = await BlockDriver.open(pci, { queues: 2 })
    expect(blk.identify().features).toContain("RING_RESET")
    const model = await exercise(blk, new Rng(12), 5)
    for (let round = 0; round < 3; round++) {
      // More than once around the ring, so that old indices would mean old chains.
      for (let index = 0; index < 300; index++) await blk.flush({ queue: 1 })
      await blk.resetQueue(1)
      await exercise(blk, new Rng(round), 5, model)
    }
    const without = await BlockDriver.open(pci, { queues: 2, features: { refuse: ["RING_RESET"] } })
    await expect(without.resetQueue(1)).rejects.toMatchObject({ code: "unsupported" })
  })
})

/** Lets `disk` answer, last come first served, until `work` is done. */
async function serve<T>(disk: FakeDisk, work: Promise<T>): Promise<T> {
  let isDone = false
  const end = (): void => {
    isDone = true
  }
  work.then(end, end)
  while (!isDone) {
    disk.waiting.at(-1)?.finish()
    await settled()
  }
  return work
}

describe("a backing that takes its time", () => {
  it.each(["msix", "intx"] as const)("VQ-22 requests complete out of order, each with its own data (%s)", async (interrupts) => {
    const machine = new Machine({ ramSize: 8 << 20 })
    const backing = heldDisk(new Uint8Array(SECTORS * 512))
    machine.attachDisk(backing, { queues: 2 })
    const blk = await BlockDriver.open(firstDisk(machine), { interrupts, queues: 2, queueSize: 16, maxRequestBytes: 16384 })
    const data = new Rng(22).bytes(SECTORS * 512)
    await serve(backing, blk.write(0, data))
    expectSame(backing.cache, data)
    const target = new Uint8Array(data.length)
    await serve(backing, blk.readInto(0, target, { queue: 1 }))
    expectSame(target, data)
    const reads = Array.from({ length: 50 }, (_, index) => blk.read(index * 64, 3, { queue: index % 2 }))
    const all = await serve(backing, Promise.all(reads))
    all.forEach((bytes, index) => expectSame(bytes, data.subarray(index * 64 * 512, (index * 64 + 3) * 512)))
  })

  it("VQ-32 a queue reset rejects what its queue has in flight; requests made meanwhile, and other queues, are served", async () => {
    const machine = new Machine({ ramSize: 8 << 20 })
    const backing = heldDisk(new Uint8Array(SECTORS * 512))
    machine.attachDisk(backing, { queues: 2 })
    const blk = await BlockDriver.open(firstDisk(machine), { queues: 2 })
    backing.cache.fill(0x5a)
    const lost = Promise.allSettled([blk.read(1, 1, { queue: 1 }), blk.read(9, 1, { queue: 1 })])
    const kept = blk.read(20, 1)
    const reset = blk.resetQueue(1)
    const later = blk.read(30, 1, { queue: 1 })
    await serve(backing, Promise.all([reset, later, kept]))
    for (const outcome of await lost) expect(outcome).toMatchObject({ status: "rejected", reason: { code: "reset" } })
    expectSame(await later, new Uint8Array(512).fill(0x5a))
    const memory = blk.virtio.memory
    await serve(backing, Promise.all([blk.reset(), blk.reset()]))
    await blk.close()
    expect(memory.allocations).toBe(0)
  })

  it("ST-02 ST-03 a reset ends requests in flight, and later answers reach neither memory nor the driver", async () => {
    const machine = new Machine({ ramSize: 8 << 20 })
    const backing = heldDisk(new Uint8Array(SECTORS * 512))
    machine.attachDisk(backing)
    const blk = await BlockDriver.open(firstDisk(machine))
    backing.cache.fill(0x5a)
    const reads = Array.from({ length: 5 }, (_, index) => blk.read(index * 100, 8))
    const outcomes = Promise.allSettled(reads)
    await serve(backing, blk.reset())
    for (const outcome of await outcomes) expect(outcome).toMatchObject({ status: "rejected", reason: { code: "reset" } })
    expectSame(await serve(backing, blk.read(0, 1)), new Uint8Array(512).fill(0x5a))
  })
})

describe("other kinds of guest RAM", () => {
  it("VQ-31 a SharedArrayBuffer works", async () => {
    const { pci, machine } = bench({}, { memory: new SharedArrayBuffer(8 << 20) })
    await exercise(await BlockDriver.open(pci), new Rng(31), 10)
    expect(machine.ram.buffer).toBeInstanceOf(SharedArrayBuffer)
  })

  it("a WebAssembly memory may grow between and during requests", async () => {
    const memory = new WebAssembly.Memory({ initial: 64, maximum: 256 })
    const { pci } = bench({}, { memory })
    const blk = await BlockDriver.open(pci)
    const model = await exercise(blk, new Rng(1), 5)
    for (let round = 0; round < 3; round++) {
      memory.grow(4)
      await exercise(blk, new Rng(round), 5, model)
    }
    let pieces = 0
    await blk.readStream(0, SECTORS, (data, sector) => {
      expectSame(data, model.subarray(sector * 512, sector * 512 + data.length))
      if (pieces++ % 2 === 0) memory.grow(1)
    })
    expect(pieces).toBeGreaterThan(1)
  })
})
