/**
 * One contract over every transport: the guest's driver and our device over PCI, over MMIO, in both byte orders, and over a transport that
 * is not ours. Whatever is between them, the disk is the same.
 */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { VirtioBlk } from "../../src/virtio/blk/device.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import type { BlockDriverOptions } from "../../src/vmm/driver/block/options.ts"
import type { PciDevice } from "../../src/vmm/driver/pci/device.ts"
import { RamAllocator } from "../../src/vmm/driver/ram-allocator.ts"
import type { VirtioBus } from "../../src/vmm/driver/virtio/bus.ts"
import { findMmioBlockDevices, MmioDevice } from "../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import { PackedRing } from "../../src/vmm/driver/virtio/rings/packed-ring.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { exercise, expectSame, SECTORS } from "../harness/exercise.ts"
import { Rng } from "../support/rng.ts"
import { CallTransport, callBus } from "./call-transport.ts"

interface Bench {
  readonly machine: Machine
  readonly backing: MemoryBacking
  readonly blk: VirtioBlk
  readonly device: PciDevice | VirtioBus
  /** What the driver has to be told besides. */
  readonly options: BlockDriverOptions
  readonly detach: () => void
}

interface TransportCase {
  readonly name: string
  readonly bench: () => Bench
  readonly isLegacy?: boolean
}

const ON_REQUEST = ["IN_ORDER", "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA", "SUSPEND"] as const
const DISK = { serial: "the same disk", queues: 2, withFeatures: ["RING_PACKED", ...ON_REQUEST] } as const

function parts(): { machine: Machine; backing: MemoryBacking } {
  return { machine: new Machine({ ramSize: 8 << 20 }), backing: new MemoryBacking({ size: SECTORS * 512 }) }
}

function onPci(options: BlockDriverOptions): Bench {
  const { machine, backing } = parts()
  const guestEndian = options.guestEndian ?? "little"
  const { device: blk, slot } = machine.attachDisk(backing, { ...DISK, guestEndian, ...(guestEndian === "big" && { interface: "legacy" }) })
  const [device] = findBlockDevices(machine)
  if (device === undefined) throw new Error("no disk on the bus")
  return { machine, backing, blk, device, options, detach: () => machine.detachDisk(slot) }
}

function onMmio(version: 1 | 2, guestEndian: "little" | "big" = "little"): Bench {
  const { machine, backing } = parts()
  const disk = machine.attachMmioDisk(backing, { ...DISK, version, guestEndian })
  const [device] = findMmioBlockDevices(machine, [disk])
  if (device === undefined) throw new Error("no disk there")
  return { machine, backing, blk: disk.device, device, options: { guestEndian }, detach: () => machine.detachMmioDisk(disk.address) }
}

function onCalls(): Bench {
  const { machine, backing } = parts()
  const blk = new VirtioBlk(backing, DISK)
  const { intx } = machine.interrupts.connect(7)
  const { call } = new CallTransport(blk, { memory: machine.memory, interrupt: intx })
  let isThere = true
  const device = callBus(machine, 7, (name, a, b) => (isThere ? call(name, a, b) : 0))
  return { machine, backing, blk, device, options: {}, detach: () => (isThere = false) }
}

const TRANSPORTS: readonly TransportCase[] = [
  { name: "PCI, modern", bench: () => onPci({ transport: "modern" }) },
  { name: "PCI, legacy", bench: () => onPci({ transport: "legacy" }), isLegacy: true },
  { name: "PCI, legacy, big-endian", bench: () => onPci({ transport: "legacy", guestEndian: "big" }), isLegacy: true },
  { name: "MMIO, version 2", bench: () => onMmio(2) },
  { name: "MMIO, version 1", bench: () => onMmio(1), isLegacy: true },
  { name: "MMIO, version 1, big-endian", bench: () => onMmio(1, "big"), isLegacy: true },
  { name: "a transport of the tests' own", bench: onCalls },
]

const CHAINS = [
  { chains: "direct", refuse: ["INDIRECT_DESC", "EVENT_IDX", ...ON_REQUEST] },
  { chains: "direct, EVENT_IDX", refuse: ["INDIRECT_DESC", ...ON_REQUEST] },
  { chains: "indirect", refuse: ["EVENT_IDX", ...ON_REQUEST] },
  { chains: "indirect, EVENT_IDX", refuse: ON_REQUEST },
  { chains: "direct, in order", refuse: ["INDIRECT_DESC", "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA"] },
  { chains: "indirect, kicks with all that they may say", refuse: ["IN_ORDER"] },
  { chains: "everything", refuse: [] },
] as const

/** What refusing makes of a ring. A legacy driver has split ones only. */
const FORMATS = [{ format: "split", refused: ["RING_PACKED"] }, { format: "packed", refused: [] }] as const

const CASES = TRANSPORTS.flatMap((transport) => FORMATS.map((format) => ({ ...transport, ...format })))
  .filter(({ isLegacy, format }) => isLegacy !== true || format === "split")

describe.each(CASES)("$name, $format rings", ({ bench, isLegacy = false, format, refused }) => {
  /** With rings of this format. */
  const chosen = (): Bench => {
    const one = bench()
    return { ...one, options: { ...one.options, features: { refuse: refused } } }
  }

  it.each(CHAINS)("FT-15 FT-18 FT-19 MMIO-04 MMIO-17 LEG-13 VQ-08 PK-09 BLK-30 data is right: $chains", async ({ chains, refuse }) => {
    for (const interrupts of ["intx", "none"] as const) {
      const { device, options, machine } = bench()
      const memory = new RamAllocator({ start: 1 << 20, length: 6 << 20 })
      const features = { refuse: [...refuse, ...refused] }
      const blk = await BlockDriver.open(device, { ...options, queues: 2, memory, interrupts, features })
      expect(blk.virtio.queues.map(({ ring }) => ring instanceof PackedRing)).toEqual([format, format].map((each) => each === "packed"))
      await exercise(blk, new Rng(chains.length), 8)
      expect([await blk.getId(), blk.queueCount]).toEqual([DISK.serial, 2])
      const { counters } = blk.virtio
      expect(interrupts === "none" ? counters.interrupts === 0 : counters.interrupts > 0).toBe(true)
      await blk.close()
      expect([memory.allocations, machine.interrupts.raised]).toEqual([0, []])
    }
  })

  it("BC-01 CF-01 the configuration reads the same", async () => {
    const { device, options } = chosen()
    const blk = await BlockDriver.open(device, { ...options, queues: 2 })
    expect(blk.identify()).toMatchObject({
      capacity: SECTORS,
      segMax: 254,
      geometry: { cylinders: Math.floor(SECTORS / (16 * 63)), heads: 16, sectors: 63 },
      blockSize: 512,
      topology: { physicalBlockExp: 0, alignmentOffset: 0, minIoSize: 1, optIoSize: 0 },
      writeback: true,
      queues: 2,
      discard: { maxSectors: 0x3f_ffff, maxRanges: 256, sectorAlignment: 128 },
      writeZeroes: { maxSectors: 0x10_0000, maxRanges: 16, mayUnmap: true },
    })
    blk.setWriteback(false)
    expect(blk.identify().writeback).toBe(false)
  })

  it("BLK-35 CF-08 MMIO-05 a disk that grows raises an event", async () => {
    const { device, options, backing, blk: own } = chosen()
    const blk = await BlockDriver.open(device, options)
    const seen: number[] = []
    blk.onConfigurationChange(() => seen.push(blk.identify().capacity))
    backing.resize(3 * 2 ** 32 * 512)
    own.capacityChanged()
    expect(seen).toEqual([3 * 2 ** 32])
    await blk.write(2 ** 33, new Uint8Array(512).fill(7))
    expectSame(await blk.read(2 ** 33, 1), new Uint8Array(512).fill(7))
  })

  it("ST-11 ST-12 VQ-10 a chain that loops makes the device need a reset, after which it works", async () => {
    const { device, options } = chosen()
    const blk = await BlockDriver.open(device, options)
    const model = await exercise(blk, new Rng(1), 3)
    const [queue] = blk.virtio.queues
    if (queue === undefined) throw new Error("no queue")
    const [head = 0] = queue.ring.reserve(1)
    queue.ring.writeDescriptor(head, { address: 0x1000, length: 16, flags: 1, next: head })
    const lost = blk.whenUsed(head)
    if (queue.ring.publish(head)) blk.virtio.kick(queue)
    await expect(lost).rejects.toMatchObject({ code: "needs-reset" })
    await blk.reset()
    await exercise(blk, new Rng(2), 3, model)
  })

  it("MMIO-14 VQ-32 a queue is reset alone if the transport can, and that is refused if not", async () => {
    const { device, options } = chosen()
    const blk = await BlockDriver.open(device, { ...options, queues: 2 })
    const model = await exercise(blk, new Rng(3), 2)
    const canReset = !isLegacy && blk.virtio.transport.resetQueue !== undefined
    if (!canReset) await expect(blk.resetQueue(1)).rejects.toMatchObject({ code: "unsupported" })
    for (let round = 0; canReset && round < 3; round++) {
      await blk.resetQueue(1)
      await exercise(blk, new Rng(round), 2, model)
    }
  })

  it("FT-22 ST-15 a device is suspended and resumed if the driver has accepted that, and requests wait meanwhile", async () => {
    for (const interrupts of ["intx", "none"] as const) {
      const { device, options, backing, blk: own } = chosen()
      const blk = await BlockDriver.open(device, { ...options, queues: 2, interrupts })
      if (isLegacy) {
        await expect(blk.suspend()).rejects.toMatchObject({ code: "unsupported" })
        await exercise(blk, new Rng(8), 1)
        continue
      }
      const model = await exercise(blk, new Rng(7), 2)
      const seen: number[] = []
      blk.onConfigurationChange(() => seen.push(blk.identify().capacity))
      const before = blk.getId()
      await blk.suspend()
      expect([await before, blk.virtio.transport.status]).toEqual([DISK.serial, 0x1b])
      let isDone = false
      const during = blk.getId({ queue: 1 }).then(() => (isDone = true))
      backing.resize((SECTORS + 8) * 512)
      own.capacityChanged()
      await new Promise((resolve) => setImmediate(resolve))
      expect([isDone, seen, blk.failure]).toEqual([false, [], undefined])
      await blk.resume()
      await during
      expect([blk.virtio.transport.status, blk.identify().capacity]).toEqual([0x0f, SECTORS + 8])
      expect(seen).toEqual(interrupts === "none" ? [] : [SECTORS + 8])
      await exercise(blk, new Rng(9), 2, model)
      await blk.suspend()
      await blk.reset()
      await exercise(blk, new Rng(10), 2, model)
      await blk.close()
    }
  })

  it("requests to a disk that was taken away reject with gone", async () => {
    const { device, options, detach } = chosen()
    const blk = await BlockDriver.open(device, { ...options, interrupts: "none" })
    detach()
    await expect(blk.read(0, 1)).rejects.toMatchObject({ code: "gone" })
    await blk.close().catch(() => undefined)
  })

  it("ST-04 LEG-17 a driver works after a reset of the machine, and a second driver after the first", async () => {
    const { device, options, machine, blk: own } = chosen()
    const blk = await BlockDriver.open(device, options)
    const model = await exercise(blk, new Rng(4), 2)
    machine.reset()
    own.virtio.writeStatus(0)
    await blk.reset()
    await exercise(blk, new Rng(5), 2, model)
    const other = await BlockDriver.open(device, options)
    await expect(blk.read(0, 1)).rejects.toMatchObject({ code: "reset" })
    await exercise(other, new Rng(6), 2, model)
  })
})

describe("the driver finds MMIO devices", () => {
  it("MMIO-02 at their places, and ignores placeholders, other types and empty places", () => {
    const { machine, backing } = parts()
    const disk = machine.attachMmioDisk(backing)
    const places = [disk, { address: disk.address + 4096 }, { address: 0x1000 }, { address: 0xd000_0000 }]
    expect(findMmioBlockDevices(machine, places).map(({ name }) => name)).toEqual(["mmio@feb00000"])
    expect(new MmioDevice(machine, { address: disk.address + 4096 }).deviceId).toBe(0)
    expect(new MmioDevice(machine, { address: 0xd000_0000 }).deviceId).toBeUndefined()
    expect(() => new MmioDevice(machine, { address: 0x1000 }).open()).toThrow(/there is no virtio device/)
  })

  it("but no modern device in a big-endian guest", async () => {
    const { machine, backing } = parts()
    const device = new MmioDevice(machine, machine.attachMmioDisk(backing))
    await expect(BlockDriver.open(device, { guestEndian: "big" })).rejects.toMatchObject({ code: "unsupported" })
  })
})
