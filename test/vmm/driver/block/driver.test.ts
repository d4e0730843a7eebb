/** The block driver over a model of a disk, without a real device. */
import { describe, expect, it } from "vitest"
import { BlockDriver } from "../../../../src/vmm/driver/block/driver.ts"
import type { BlockDriverOptions } from "../../../../src/vmm/driver/block/options.ts"
import { BlockRequestError, DriverError } from "../../../../src/vmm/driver/errors.ts"
import { RamAllocator } from "../../../../src/vmm/driver/ram-allocator.ts"
import { ModelDisk } from "./model-disk.ts"

function open(disk: ModelDisk, options: BlockDriverOptions = {}): Promise<BlockDriver> {
  return BlockDriver.open(disk.pci, { memory: disk.memory, ...options })
}

/** Sectors of the model disk: sector n is full of n. */
function sectors(first: number, count: number): Uint8Array {
  return Uint8Array.from({ length: count * 512 }, (_, index) => first + Math.floor(index / 512))
}

describe("the block driver against a small model device", () => {
  it("BLK-01 BLK-04 sends reads and writes as the specification says", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk)
    expect(await blk.read(3, 4)).toEqual(sectors(3, 4))
    await blk.write(9, new Uint8Array(1024).fill(0xaa))
    expect(disk.disk.subarray(8 * 512, 12 * 512)).toEqual(
      Uint8Array.from([...sectors(8, 1), ...new Uint8Array(1024).fill(0xaa), ...sectors(11, 1)]),
    )
    await blk.flush()
    expect(
      disk.seen.map(({ type, sector, chain }) => [
        type, sector, chain.segments.map(({ length, writable }) => (writable ? -length : length)),
      ]),
    ).toEqual([
      [0, 3n, [16, -2048, -1]],
      [1, 9n, [16, 1024, -1]],
      [4, 0n, [16, -1]],
    ])
    await blk.close()
    expect(disk.memory.allocations).toBe(0)
    expect(disk.status).toBe(0)
  })

  it("a request that the device completes during the kick completes in the same tick", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk)
    const events: string[] = []
    const read = blk.read(0, 1).then(() => events.push("read"))
    await new Promise<void>((resolve) => setImmediate(() => resolve(void events.push("next tick"))))
    expect(events).toEqual(["read", "next tick"])
    await read
  })

  it("VQ-08 requests may be split into descriptors of given sizes, scattered in memory, down to single bytes", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk, { framing: { readable: [1, 2, 4], writable: [100, 0, 411], scattered: true } })
    expect(await blk.read(3, 1)).toEqual(sectors(3, 1))
    const [request] = disk.seen
    expect(request?.chain.segments.map(({ length }) => length)).toEqual([1, 2, 4, 9, 100, 0, 411, 2])
    const ends = new Set(request?.chain.segments.map(({ address, length }) => address + length))
    expect(request?.chain.segments.filter(({ address, length }) => length > 0 && ends.has(address))).toEqual([])
    await blk.write(5, new Uint8Array(512).fill(0x77), { framing: { readable: [15, 2, 3] } })
    expect(disk.disk.subarray(5 * 512, 6 * 512)).toEqual(new Uint8Array(512).fill(0x77))
    expect(disk.seen[1]?.chain.segments.map(({ length }) => length)).toEqual([15, 2, 3, 508, 1])
    await expect(blk.read(0, 1, { framing: { segmentSize: 8 } })).rejects.toThrow(/longer than the queue/)
    await blk.close()
    expect(disk.memory.allocations).toBe(0)
  })

  it("VQ-14 VQ-16 requests may use indirect tables, alone or after direct descriptors", async () => {
    const disk = new ModelDisk()
    disk.features = 1 << 28
    const blk = await open(disk)
    expect(await blk.read(1, 1)).toEqual(sectors(1, 1))
    expect(await blk.read(2, 1, { framing: { indirect: { direct: 1 } } })).toEqual(sectors(2, 1))
    expect(await blk.read(2, 1, { framing: { indirect: { direct: 9 } } })).toEqual(sectors(2, 1))
    expect(await blk.read(3, 1, { framing: { indirect: false } })).toEqual(sectors(3, 1))
    expect(disk.seen.map(({ chain }) => chain.descriptors.length)).toEqual([1, 2, 3, 3])
  })

  it("requests wait for descriptors and memory instead of failing, and all complete", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const memory = new RamAllocator({ start: 0x1000, length: 0x1_0000 })
    const blk = await open(disk, { memory })
    const reads = Array.from({ length: 60 }, (_, index) => blk.read(index, 2))
    const longs = Array.from({ length: 9 }, (_, index) => blk.read(10 * index, 16))
    while (
      await Promise.race([
        Promise.all([...reads, ...longs]).then(() => false),
        new Promise<boolean>((resolve) => setImmediate(() => resolve(true))),
      ])
    ) {
      disk.let(3)
    }
    expect(await Promise.all(reads)).toEqual(reads.map((_, index) => sectors(index, 2)))
    expect(await Promise.all(longs)).toEqual(longs.map((_, index) => sectors(10 * index, 16)))
    await expect(blk.request({ type: 1, dataOut: new Uint8Array(0x1_0000) })).rejects.toMatchObject({ code: "no-memory" })
    await blk.close()
    expect(memory.allocations).toBe(0)
  })

  it("a request that waits for descriptors is not overtaken by one that needs fewer", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const blk = await open(disk)
    const order: string[] = []
    const reads = Array.from({ length: 6 }, (_, index) => blk.read(index, 1).then(() => order.push(`read ${index}`)))
    // 15 of 16 descriptors are taken: the sixth read waits, and this one, of a single descriptor, behind it.
    const status = disk.memory.allocate(16)
    const single = blk.submit([{ address: status, length: 1, writable: true }]).then(() => order.push("single"))
    expect([disk.held, blk.virtio.queues[0]?.ring.freeDescriptors]).toEqual([5, 1])
    while (order.length < 7) {
      disk.let(1)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await Promise.all([...reads, single])
    expect(order.slice(5)).toEqual(["read 5", "single"])
  })

  it("a long read keeps many requests in flight and delivers their data in order", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const blk = await open(disk, { maxRequestBytes: 2048, depth: 5 })
    const offsets: number[] = []
    const target = new Uint8Array(64 * 512)
    const whole = blk.readStream(4, 64, (data, sector) => {
      offsets.push(sector)
      target.set(data, (sector - 4) * 512)
    })
    expect(disk.held).toBe(5)
    disk.let(3)
    expect(disk.held).toBe(2)
    while (await Promise.race([whole.then(() => false), new Promise<boolean>((resolve) => setImmediate(() => resolve(true)))])) disk.let(5)
    expect(offsets).toEqual(Array.from({ length: 16 }, (_, index) => 4 + 4 * index))
    expect(target).toEqual(sectors(4, 64))
  })

  it("a consumer that throws ends a long read once none of its requests is in flight", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk, { maxRequestBytes: 512, depth: 4 })
    const before = disk.memory.allocations
    await expect(
      blk.readStream(0, 64, (_, sector) => {
        disk.isHolding = true
        if (sector === 3) {
          setImmediate(() => disk.let())
          throw new Error("enough")
        }
      }),
    ).rejects.toThrow("enough")
    expect(disk.memory.allocations).toBe(before)
    disk.isHolding = false
    expect(await blk.read(9, 1)).toEqual(sectors(9, 1))
  })

  it("a long write rejects with its first failure in order", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk, { maxRequestBytes: 512, depth: 4 })
    disk.answer = (answer, request) => {
      if (request.sector === 6n) answer.status = 1
      if (request.sector === 5n) answer.status = 2
    }
    await expect(blk.write(0, sectors(0, 20))).rejects.toMatchObject({ status: "UNSUPP", sector: 5, request: "OUT" })
  })

  it("requests that wait for memory when the device fails are rejected as well", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const memory = new RamAllocator({ start: 0x1000, length: 0x8000 })
    const blk = await open(disk, { memory })
    const reads = Array.from({ length: 30 }, (_, index) => blk.read(index, 8))
    disk.status |= 0x40
    disk.interrupt(2)
    for (const read of reads) await expect(read).rejects.toMatchObject({ code: "needs-reset" })
    disk.isHolding = false
    await blk.reset()
    expect(await blk.read(5, 8)).toEqual(sectors(5, 8))
    await blk.close()
    expect(memory.allocations).toBe(0)
  })

  it("one kick shows a whole batch", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk)
    const reads = blk.batch(() => [blk.read(1, 1), blk.batch(() => blk.read(2, 1)), blk.read(3, 1)])
    expect(await Promise.all(reads)).toEqual([sectors(1, 1), sectors(2, 1), sectors(3, 1)])
    expect(blk.virtio.counters).toMatchObject({ kicks: 1, interrupts: 1 })
  })

  it("BLK-02 a status other than OK rejects with its name, and an unknown or missing one is a protocol error", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk)
    const statuses: (number | undefined)[] = [1, 2, 3, undefined, 0]
    disk.answer = (answer) => {
      answer.status = statuses.shift()
    }
    await expect(blk.read(7, 1)).rejects.toSatisfy(
      (error) => error instanceof BlockRequestError && error.status === "IOERR" && error.sector === 7 && error.request === "IN",
    )
    await expect(blk.flush()).rejects.toSatisfy((error) => error instanceof BlockRequestError && error.status === "UNSUPP")
    await expect(blk.read(7, 1)).rejects.toMatchObject({ code: "protocol", message: expect.stringContaining("unknown status 3") })
    await expect(blk.write(7, new Uint8Array(512))).rejects.toMatchObject({
      code: "protocol", message: expect.stringContaining("without writing its status"),
    })
    expect(await blk.read(7, 1)).toEqual(new Uint8Array(512))
  })

  it("BLK-11 LEG-16 data not covered by the used length is an error in strict mode; legacy drivers ignore the used length", async () => {
    for (const strictUsedLength of [true, undefined]) {
      const disk = new ModelDisk()
      disk.answer = (answer) => {
        answer.usedLength = 1
      }
      const blk = await open(disk, strictUsedLength === undefined ? {} : { strictUsedLength })
      if (strictUsedLength === true) {
        await expect(blk.read(7, 1)).rejects.toMatchObject({
          code: "protocol", message: expect.stringContaining("does not cover its 512 bytes"),
        })
      } else {
        expect(await blk.read(7, 1)).toEqual(sectors(7, 1))
      }
      await blk.write(7, new Uint8Array(512))
    }
  })

  it("`request` takes any type and any sector, and returns status, used length and data", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk)
    disk.answer = (answer) => {
      answer.status = 2
      answer.usedLength = 0
    }
    expect(
      await blk.request({ type: 0x7fff_ffff, sector: 0xffff_ffff_ffff_fffen, dataIn: 3, dataOut: new Uint8Array(5), reserved: 6 }),
    ).toEqual({ status: 2, usedLength: 0, data: new Uint8Array(3) })
    expect(disk.seen[0]).toMatchObject({ type: 0x7fff_ffff, sector: 0xffff_ffff_ffff_fffen })
    expect(disk.seen[0]?.chain.segments.map(({ length }) => length)).toEqual([16, 5, 3, 1])
  })

  it("after a wrong used entry requests reject until the reset, and those in flight keep their memory until then", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const blk = await open(disk)
    const before = disk.memory.allocations
    const reads = [blk.read(1, 1), blk.read(2, 1)]
    disk.give(11, 0)
    disk.interrupt(1)
    for (const read of reads) await expect(read).rejects.toMatchObject({ code: "protocol", message: expect.stringContaining("used id 11") })
    await expect(blk.read(1, 1)).rejects.toBe(blk.failure)
    expect(disk.memory.allocations).toBe(before + 2)
    disk.isHolding = false
    await blk.reset()
    expect(disk.memory.allocations).toBe(before)
    expect(await blk.read(1, 1)).toEqual(sectors(1, 1))
  })

  it("ST-12 DEVICE_NEEDS_RESET rejects everything in flight and everything new until the reset", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const blk = await open(disk)
    const reads = Array.from({ length: 20 }, (_, index) => blk.read(index, 1))
    disk.status |= 0x40
    disk.interrupt(2)
    for (const read of reads) await expect(read).rejects.toMatchObject({ code: "needs-reset" })
    await expect(blk.flush()).rejects.toMatchObject({ code: "needs-reset" })
    disk.isHolding = false
    await blk.reset()
    expect(await blk.read(5, 1)).toEqual(sectors(5, 1))
  })

  it("ST-02 ST-03 a reset waits until the status reads 0; requests in flight are rejected, memory comes back only then", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const blk = await open(disk)
    const before = disk.memory.allocations
    const read = blk.read(1, 1)
    disk.resetReads = [7, 7, 7]
    const reset = blk.reset()
    await expect(read).rejects.toMatchObject({ code: "reset" })
    expect(disk.memory.allocations).toBe(before + 1)
    await reset
    expect(disk.memory.allocations).toBe(before)
    disk.isHolding = false
    expect(await blk.read(1, 1)).toEqual(sectors(1, 1))
  })

  it("ST-02 a reset that does not end and a missing device have different errors", async () => {
    const stuck = new ModelDisk()
    const blk = await open(stuck, { resetTimeout: 3 })
    stuck.resetReads = Array.from({ length: 10_000 }, () => 7)
    await expect(blk.reset()).rejects.toMatchObject({ code: "timeout" })
    await expect(blk.read(0, 1)).rejects.toMatchObject({ code: "reset" })
    stuck.resetReads = []
    await blk.reset()
    stuck.resetReads = [0xff, 0xff, 0xff]
    await expect(blk.reset()).rejects.toMatchObject({ code: "no-device" })
    stuck.resetReads = [0xff, 0xff, 0xff]
    await blk.close()
    expect(stuck.memory.allocations).toBe(0)
  })

  it("a second driver takes the device over: the first one's requests are rejected, and it gets no more interrupts", async () => {
    const disk = new ModelDisk()
    disk.isHolding = true
    const first = await open(disk)
    const read = first.read(1, 1)
    disk.isHolding = false
    const second = await open(disk)
    await expect(read).rejects.toMatchObject({ code: "reset", message: expect.stringContaining("another driver") })
    await expect(first.read(1, 1)).rejects.toMatchObject({ code: "reset" })
    const { interrupts } = first.virtio.counters
    expect(await second.read(1, 1)).toEqual(sectors(1, 1))
    expect(first.virtio.counters.interrupts).toBe(interrupts)
    await second.close()
    expect(disk.memory.allocations).toBe(0)
    await first.reset()
    expect(await first.read(1, 1)).toEqual(sectors(1, 1))
  })

  it("LEG-18 the capacity is read until two results agree", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk)
    disk.capacities = [1, 2, 3, 3, 4]
    expect(blk.identify()).toMatchObject({ capacity: 3, size: 3 * 512 })
    disk.capacities = Array.from({ length: 500 }, (_, index) => index)
    expect(() => blk.identify()).toThrow(DriverError)
  })

  it("completions are found by polling where there are no interrupts", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk, { interrupts: "none" })
    expect(await blk.read(5, 1)).toEqual(sectors(5, 1))
    disk.isHolding = true
    const read = blk.read(6, 1)
    expect(blk.poll()).toBe(false)
    disk.let()
    expect(blk.poll()).toBe(true)
    expect(await read).toEqual(sectors(6, 1))
    expect(blk.virtio.counters.interrupts).toBe(0)
    disk.status |= 0x40
    expect(blk.poll()).toBe(false)
    expect(blk.failure).toMatchObject({ code: "needs-reset" })
  })

  it("wrong arguments reject before anything is sent", async () => {
    const disk = new ModelDisk()
    const blk = await open(disk)
    for (const bad of [
      blk.read(-1, 1),
      blk.read(0.5, 1),
      blk.read(0, -1),
      blk.write(0, new Uint8Array(511)),
      blk.read(0, 1, { queue: 1 }),
    ]) {
      await expect(bad).rejects.toThrow(RangeError)
    }
    await expect(blk.discard([{ sector: 0, sectors: 1 }])).rejects.toMatchObject({ code: "unsupported" })
    await expect(blk.getLifetime()).rejects.toMatchObject({ code: "unsupported" })
    expect(() => blk.setWriteback(true)).toThrow(expect.objectContaining({ code: "unsupported" }))
    expect(await blk.read(0, 0)).toEqual(new Uint8Array(0))
    expect(disk.seen).toEqual([])
  })
})
