/** Long requests: done in slices, so that the host's thread is held for some milliseconds only; what may happen between two slices. */
import { afterEach, describe, expect, it as once, vi } from "vitest"
import { it } from "../../harness/both-rings.ts"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { MemoryBacking, zonedDisk } from "../../../src/index.ts"
import { PackedQueue } from "../../../src/virtio/queue/packed-queue.ts"
import { SplitQueue } from "../../../src/virtio/queue/split-queue.ts"
import { FakeDisk, settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { header, pattern, ranges } from "../../harness/requests.ts"
import { F, IOERR, OK, T, UNTOUCHED, ZONE } from "../../harness/words.ts"

const MIB = 1 << 20

/** The type is in the DOM's library only. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer; grow(pages: number): number },
}

afterEach(() => vi.restoreAllMocks())

/** A clock that only stands still or is moved by hand. */
function stoppedClock(): { now: number } {
  const clock = { now: 1000 }
  vi.spyOn(performance, "now").mockImplementation(() => clock.now)
  return clock
}

/** A disk of any size on which every call takes `ms` of the clock and does nothing. */
function emptyDisk(
  size: number, clock: { now: number }, ms: number, more: Partial<VirtioBacking> = {},
): { backing: VirtioBacking; calls: [string, number, number][] } {
  const calls: [string, number, number][] = []
  const call = (name: string, offset: number, length: number): void => {
    calls.push([name, offset, length])
    clock.now += ms
  }
  const total = (buffers: readonly Uint8Array[]) => buffers.reduce((sum, { length }) => sum + length, 0)
  const backing: VirtioBacking = {
    size,
    readOnly: false,
    pread: (buffer, offset) => call("read", offset, buffer.length),
    pwrite: (buffer, offset) => call("write", offset, buffer.length),
    preadv: (buffers, offset) => call("read", offset, total(buffers)),
    pwritev: (buffers, offset) => call("write", offset, total(buffers)),
    flush: () => call("flush", 0, 0),
    discard: (offset, length) => call("discard", offset, length),
    writeZeroes: (offset, length) => call("writeZeroes", offset, length),
    close() {},
    ...more,
  }
  return { backing, calls }
}

/** A request whose data are `count` times the same `length` bytes of RAM. */
function repeated(guest: RingGuest, type: number, count: number, length: number): { head: number; status: number } {
  const at = guest.alloc(16)
  guest.store(at, header({ type, sector: 0 }))
  const data = guest.alloc(length)
  const status = guest.alloc(1)
  guest.fill(status, 1, UNTOUCHED)
  const pieces = Array.from({ length: count }, () => ({ address: data, length, writable: type === T.IN }))
  const head = guest.chain([{ address: at, length: 16, writable: false }, ...pieces, { address: status, length: 1, writable: true }], {
    indirect: true,
  })
  return { head, status }
}

describe("how long one turn is", () => {
  it("reads of 400 MiB over the same RAM move 16 MiB in a turn, in calls of 1 MiB, and complete in the end", async () => {
    const clock = stoppedClock()
    const { backing, calls } = emptyDisk(2 ** 40, clock, 0)
    const guest = new RingGuest({ backing, features: [F.INDIRECT_DESC], machine: { ramSize: 64 * MIB } })
    const sent = [0, 1].map(() => repeated(guest, T.IN, 100, 4 * MIB + 512))
    guest.publish(sent.map(({ head }) => head))
    let seen = 0
    const turn = (): number => {
      const bytes = calls.slice(seen).reduce((sum, [, , length]) => sum + length, 0)
      seen = calls.length
      return bytes
    }
    guest.kick()
    expect(turn()).toBe(16 * MIB)
    let turns = 1
    for (; guest.usedIdx() < 2; turns++) {
      await settled()
      // The last look at the clock may be a call ago.
      expect(turn()).toBeLessThan(17 * MIB)
    }
    expect(Math.max(...calls.map(([, , length]) => length))).toBe(MIB)
    const total = 100 * (4 * MIB + 512)
    expect(calls.reduce((sum, [, , length]) => sum + length, 0)).toBe(2 * total)
    expect(turns).toBeGreaterThan((2 * total) / (17 * MIB))
    expect(sent.map(({ status }) => guest.bytes(status, 1)[0])).toEqual([OK, OK])
    // Each went through the disk from its first to its last byte.
    const offsets = calls.slice(0, calls.length / 2).map(([, offset, length]) => [offset, offset + length])
    expect(offsets.every(([from], at) => from === (offsets[at - 1]?.[1] ?? 0))).toBe(true)
  })

  it("with a slow disk a turn ends after some milliseconds, whatever the number of requests", async () => {
    const clock = stoppedClock()
    const { backing, calls } = emptyDisk(2 ** 30, clock, 3)
    const guest = new RingGuest({ backing, features: [F.INDIRECT_DESC], ringSize: 256 })
    const placed = Array.from({ length: 250 }, (_, at) => guest.place({ type: T.IN, sector: 16 * at, in: 4096 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    const before = clock.now
    guest.kick()
    // The first look at the clock comes after 32 small requests, once: then it is looked at more often.
    expect(clock.now - before).toBeLessThan(3 * 80)
    for (let turns = 0; guest.usedIdx() < 250; turns++) {
      const start = clock.now
      await settled()
      expect(turns < 2 || clock.now - start <= 15).toBe(true)
    }
    expect(calls).toHaveLength(250)
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual(placed.map(() => OK))
  })

  it("with a backing that is `slow` from its first call on the clock is read after each request, and the first turn is short", async () => {
    const clock = stoppedClock()
    let slow = false
    const { backing, calls } = emptyDisk(2 ** 30, clock, 2, {
      readOnly: true, pread: () => ((slow = true), calls.push(["read", 0, 0]), void (clock.now += 2)),
    })
    Object.defineProperty(backing, "slow", { get: () => slow })
    const guest = new RingGuest({ backing, features: [F.INDIRECT_DESC], ringSize: 64 })
    const placed = Array.from({ length: 60 }, (_, at) => guest.place({ type: T.IN, sector: 16 * at, in: 4096 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    guest.kick()
    // The first look begins to count, three more are 6 ms.
    expect(calls).toHaveLength(4)
    await guest.served()
    expect([calls.length, guest.usedIdx()]).toEqual([60, 60])
  })

  it("with a disk whose calls take longer than a turn each turn makes one call, after the first four, until a call is quick", async () => {
    const clock = stoppedClock()
    let ms = 50
    const { backing, calls } = emptyDisk(2 ** 30, clock, 0, {
      readOnly: true, pread: () => (calls.push(["read", 0, 0]), void (clock.now += ms)),
    })
    const guest = new RingGuest({ backing, features: [F.INDIRECT_DESC], ringSize: 64 })
    Object.defineProperty(backing, "slow", { value: true })
    const placed = Array.from({ length: 60 }, (_, at) => guest.place({ type: T.IN, sector: 16 * at, in: 4096 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    guest.kick()
    expect(calls).toHaveLength(4)
    for (let turns = 1; turns <= 4; turns++) {
      await settled()
      expect(calls).toHaveLength(4 + turns)
    }
    ms = 0
    await settled()
    expect(calls).toHaveLength(60)
  })

  it("after 16 MiB of a batch another queue has its turn", async () => {
    stoppedClock()
    const disk = new FakeDisk({ size: 64 * MIB })
    const guest = new RingGuest({
      backing: disk, machine: { ramSize: 8 * MIB }, features: [F.MQ, F.INDIRECT_DESC], queues: 2, ringSize: 128, disk: { queues: 2 },
    })
    const [first, second] = guest.rings
    if (first === undefined || second === undefined) throw new Error("no rings")
    // 60 reads of the same RAM, of every other MiB: no neighbours.
    const long = guest.place({ type: T.IN, sector: 0, in: MIB })
    const heads = Array.from({ length: 60 }, () => guest.chain(long.pieces, { indirect: true }, first))
    guest.publish(heads, first)
    guest.kick(first)
    expect(first.usedIdx).toBe(16)
    const other = guest.place({ type: T.IN, sector: 9, in: 512 })
    guest.publish([guest.chain(other.pieces, { indirect: true }, second)], second)
    guest.kick(second)
    await settled()
    expect([second.usedIdx, first.usedIdx <= 48]).toEqual([1, true])
    await guest.served(first)
  })

  it("long WRITE_ZEROES and DISCARD make calls as large as the backing says, and read the clock after each", async () => {
    for (const [type, name, zeroesAtOnce] of [
      [T.WRITE_ZEROES, "writeZeroes", undefined],
      [T.WRITE_ZEROES, "writeZeroes", 128 * MIB],
      [T.DISCARD, "discard", 64 * MIB],
    ] as const) {
      const clock = stoppedClock()
      const { backing, calls } = emptyDisk(2 ** 42, clock, 2, zeroesAtOnce === undefined ? {} : { zeroesAtOnce })
      const guest = new RingGuest({ backing })
      const count = type === T.DISCARD ? 256 : 16
      // Gaps of one sector: nothing to join.
      const list = Array.from({ length: count }, (_, at) => ({ sector: at * (2 ** 20 + 1), sectors: 2 ** 20 }))
      const placed = guest.place({ type, out: ranges(...list) })
      guest.publish([guest.chain(placed.pieces)])
      guest.kick()
      expect(calls.length).toBeLessThanOrEqual(5)
      await guest.served()
      expect(guest.reply(placed, 0).status).toBe(OK)
      const most = zeroesAtOnce ?? 16 * MIB
      expect(calls.every(([called, , length]) => called === name && length === most)).toBe(true)
      expect(calls.reduce((sum, [, , length]) => sum + length, 0)).toBe(count * 2 ** 29)
      vi.restoreAllMocks()
    }
  })

  it("zeroesAtOnce may change while the backing is open, and invalid values are ignored", () => {
    const clock = stoppedClock()
    let atOnce: unknown = MIB
    const { backing, calls } = emptyDisk(2 ** 30, clock, 0)
    Object.defineProperty(backing, "zeroesAtOnce", { get: () => atOnce })
    const guest = new RingGuest({ backing })
    const zero = () => expect(guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 8192 }) }).status).toBe(OK)
    for (const [value, count] of [
      [MIB, 4], [2 * MIB, 2], [Infinity, 1], [NaN, 1], [-1, 1], [0, 1], [3 * MIB + 100, 2], [String(MIB), 1],
    ] as const) {
      atOnce = value
      calls.length = 0
      zero()
      expect([
        value,
        calls.length,
        calls.reduce((sum, [, , length]) => sum + length, 0),
        calls.every(([, offset]) => offset % 512 === 0),
      ]).toEqual([value, count, 4 * MIB, true])
    }
  })

  it("slices end at multiples of discardGranularity", () => {
    const clock = stoppedClock()
    const { backing, calls } = emptyDisk(2 ** 30, clock, 0, { zeroesAtOnce: MIB, discardGranularity: 65536 })
    const guest = new RingGuest({ backing })
    guest.run({ type: T.DISCARD, out: ranges({ sector: 3, sectors: 5000 }) })
    expect(calls.length).toBe(3)
    for (const [, offset] of calls.slice(1)) expect(offset % 65536).toBe(0)
    expect(calls.at(0)?.[1]).toBe(3 * 512)
    expect(calls.reduce((end, [, offset, length]) => (offset === end ? end + length : NaN), 3 * 512)).toBe(5003 * 512)
  })

  it("adjacent ranges of one request take one call, but those that may be unmapped stay apart from others", () => {
    const disk = new FakeDisk()
    const guest = new RingGuest({ backing: disk })
    guest.run({ type: T.DISCARD, out: ranges(...Array.from({ length: 256 }, (_, at) => ({ sector: 4 * at, sectors: 4 }))) })
    expect(disk.log.map(({ name, offset, length }) => [name, offset, length])).toEqual([["discard", 0, 256 * 2048]])
    disk.log.length = 0
    const zeroes = [[0, 1], [2, 1], [4, 0], [6, 0], [8, 1], [20, 1], [18, 1]] as const
    guest.run({ type: T.WRITE_ZEROES, out: ranges(...zeroes.map(([sector, flags]) => ({ sector, sectors: 2, flags }))) })
    expect(
      disk.log.map(({ offset, length, mayUnmap }) => [offset / 512, length / 512, mayUnmap]),
    ).toEqual([[0, 4, true], [4, 4, false], [8, 2, true], [20, 2, true], [18, 2, true]])
  })

  it("starting a device with thousands of queues does not hold the thread", async () => {
    const clock = stoppedClock()
    let interrupts = 0
    const { backing } = emptyDisk(2 ** 30, clock, 0)
    const guest = new RingGuest({
      backing,
      queues: 600,
      ringSize: 4,
      features: [F.MQ],
      disk: { queues: 600, queueSize: 4 },
      machine: { ramSize: 64 * MIB },
    })
    guest.machine.interrupts.subscribe(() => interrupts++)
    void guest.disk.device.pause()
    for (const ring of guest.rings) guest.publish([guest.chain(guest.place({ type: T.FLUSH }).pieces, {}, ring)], ring)
    const now = vi.mocked(performance.now)
    now.mockImplementation(() => (clock.now += 2))
    guest.disk.device.resume()
    const first = guest.rings.filter((ring) => ring.usedIdx === 1).length
    expect(first).toBeGreaterThan(0)
    expect(first).toBeLessThan(600)
    for (const ring of guest.rings) await guest.served(ring)
    expect(interrupts).toBe(600)
  })
})

describe("a driver on another thread", () => {
  it("may take back available chains again and again: each look at the ring counts, and a kick ends", async () => {
    const RING_SIZE = 16
    const guest = new RingGuest({ backing: new FakeDisk(), ringSize: RING_SIZE })
    let looks = 0
    for (const queue of [SplitQueue, PackedQueue]) {
      vi.spyOn(queue.prototype, "enableKicks").mockImplementation(() => {
        looks++
        return looks < 1000
      })
    }
    guest.publish([guest.chain(guest.place({ type: T.FLUSH }).pieces)])
    guest.kick()
    expect(looks).toBeGreaterThan(0)
    expect(looks).toBeLessThanOrEqual(2 * RING_SIZE)
    vi.restoreAllMocks()
    guest.takeUsed()
    guest.run({ type: T.FLUSH })
    await guest.served()
  })
})

describe("requests that take longer to read than to do", () => {
  /** Bytes of the descriptors between header and status. */
  const NONE = Array.from({ length: 1021 }, () => 0)
  const LIST = [16 * 4096]

  it.each<[string, number, number[]]>([
    ["reads of no bytes, of 1023 descriptors each", T.IN, NONE],
    ["requests for the serial number, of 1023 descriptors each", T.GET_ID, NONE],
    ["discards that are refused, of 4096 ranges each", T.DISCARD, LIST],
  ])("%s read the clock after some of them, and leave the rest to later turns", async (_, type, lengths) => {
    const REQUESTS = 300
    const clock = stoppedClock()
    const guest = new RingGuest({
      backing: emptyDisk(2 ** 30, clock, 0).backing, features: [F.INDIRECT_DESC, F.DISCARD], ringSize: 512,
      disk: { queueSize: 512 },
    })
    const at = guest.alloc(16)
    guest.store(at, header({ type, sector: 0 }))
    const place = guest.alloc(16 * 4096)
    const status = guest.alloc(1)
    const table = guest.table([
      { address: at, length: 16, writable: false },
      ...lengths.map((length) => ({ address: place, length, writable: false })),
      { address: status, length: 1, writable: true },
    ])
    guest.publish(Array.from({ length: REQUESTS }, () => guest.ring.chainWithTable([], table, 16 * (lengths.length + 2))))
    vi.mocked(performance.now).mockImplementation(() => (clock.now += 2))
    guest.kick()
    expect(guest.usedIdx()).toBeGreaterThan(0)
    expect(guest.usedIdx()).toBeLessThan(50)
    await guest.served()
    expect(guest.takeUsed()).toHaveLength(REQUESTS)
  })
})

it("reads of a disk that answers later read the clock after some calls, and leave the rest to later turns", async () => {
  const REQUESTS = 300
  const clock = stoppedClock()
  const { backing, calls } = emptyDisk(2 ** 30, clock, 1, { asynchronous: true })
  const never = Object.assign(backing, {
    pread: (buffer: Uint8Array, offset: number): Promise<void> => {
      calls.push(["read", offset, buffer.length])
      clock.now += 1
      return Promise.resolve()
    },
  })
  const guest = new RingGuest({ backing: never, features: [F.INDIRECT_DESC], ringSize: 512, disk: { queueSize: 512 } })
  const { pieces } = guest.place({ type: T.IN, sector: 7, in: 512 })
  guest.publish(Array.from({ length: REQUESTS }, () => guest.chain(pieces, { indirect: true })))
  guest.kick()
  expect(calls.length).toBeGreaterThan(0)
  expect(calls.length).toBeLessThan(150)
  await guest.served()
  expect(guest.takeUsed()).toHaveLength(REQUESTS)
})

it("reports of many zones read the clock after some of them, and leave the rest to later turns", async () => {
  const REQUESTS = 128
  const clock = stoppedClock()
  const disk = zonedDisk(new MemoryBacking({ size: 16 << 20 }), { zoneSize: 16 << 10 })
  const report = disk.zones.report.bind(disk.zones)
  const reports = vi.spyOn(disk.zones, "report").mockImplementation((...range) => {
    clock.now += 1
    return report(...range)
  })
  const guest = new RingGuest({
    backing: disk, features: [F.INDIRECT_DESC, F.ZONED], ringSize: 128, disk: { queueSize: 128 }, machine: { ramSize: 4 << 20 },
  })
  const { pieces } = guest.place({ type: ZONE.REPORT, sector: 0, in: 64 + 64 * 1024 })
  guest.publish(Array.from({ length: REQUESTS }, () => guest.chain(pieces, { indirect: true })))
  guest.kick()
  expect(reports.mock.calls.length).toBeGreaterThan(0)
  expect(reports.mock.calls.length).toBeLessThan(20)
  await guest.served()
  expect([guest.takeUsed().length, reports.mock.calls.length]).toEqual([REQUESTS, REQUESTS])
})

describe("between two slices", () => {
  const SECTORS = 2 ** 17

  /** A guest with one long read of `mib` MiB under way: its first turn is over. The disk holds `pattern`. */
  function reading(options: Partial<RingGuestOptions> = {}, mib = 40): { guest: RingGuest; disk: FakeDisk; placed: Placed } {
    stoppedClock()
    const disk = new FakeDisk({ size: 512 * SECTORS })
    disk.cache.set(pattern(0, 4096))
    const guest = new RingGuest({ backing: disk, machine: { ramSize: 64 * MIB }, ...options })
    const placed = guest.place({ type: T.IN, sector: 0, in: mib * MIB })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    expect([disk.log.length, guest.usedIdx()]).toEqual([16, 0])
    return { guest, disk, placed }
  }

  async function quiet(): Promise<void> {
    for (let round = 0; round < 6; round++) await settled()
  }

  /** What reaches the process uncaught while `act` runs. */
  async function uncaught(act: () => Promise<void>): Promise<unknown[]> {
    const listeners = process.listeners("uncaughtException")
    process.removeAllListeners("uncaughtException")
    const seen: unknown[] = []
    process.on("uncaughtException", (error) => seen.push(error))
    try {
      await act()
      await quiet()
    } finally {
      process.removeAllListeners("uncaughtException")
      for (const listener of listeners) process.on("uncaughtException", listener)
    }
    return seen
  }

  it("an interrupt handler that throws in the middle of a batch does not keep the rest from being served", async () => {
    const disk = new FakeDisk({ size: 512 * SECTORS })
    const guest = new RingGuest({ backing: disk, machine: { ramSize: 64 * MIB }, features: [] })
    stoppedClock()
    const placed = Array.from({ length: 50 }, (_, at) => guest.place({ type: T.IN, sector: 4096 * (at % 16), in: MIB }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
    guest.kick()
    expect(guest.usedIdx()).toBe(16)
    const oops = new Error("injected: the embedder's own bug")
    const stop = guest.machine.interrupts.subscribe(() => {
      stop()
      throw oops
    })
    expect(await uncaught(() => guest.disk.device.whenIdle())).toEqual([oops])
    expect(guest.takeUsed()).toHaveLength(50)
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual(placed.map(() => OK))
  })

  it("a request goes on by itself, and arrives whole", async () => {
    const { guest, disk, placed } = reading()
    await guest.served()
    expect([disk.log.length, guest.reply(placed, 0).status]).toEqual([40, OK])
    expect(Buffer.compare(guest.reply(placed, 0).data, disk.cache.subarray(0, 40 * MIB))).toBe(0)
    expect(guest.takeUsed()).toEqual([{ id: 0, length: 40 * MIB + 1 }])
  })

  it.each([
    "the device", "the queue", "the machine", "a pulled cable",
  ])("a reset by %s ends a request: the rest is not read, and nothing is stored", async (what) => {
    const { guest, disk } = reading()
    if (what === "the device") guest.status = 0
    if (what === "the queue") guest.modern.setQueueRegister(0, 0x3a, 2, 1)
    if (what === "the machine") guest.machine.reset()
    if (what === "a pulled cable") guest.machine.detachDisk(guest.disk.slot)
    const ram = guest.machine.ram.slice()
    await guest.disk.device.whenIdle()
    await quiet()
    expect([disk.log.length, Buffer.compare(ram, guest.machine.ram)]).toEqual([16, 0])
    if (what === "a pulled cable") return
    if (what === "the queue") guest.ring = guest.openRing(0)
    else if (what === "the device") guest.start()
    else return
    expect(guest.read(7, 1).data).toEqual(pattern(7, 1))
  })

  it("a failing slice ends the request with IOERR, and the rest is not read", async () => {
    const { guest, disk, placed } = reading()
    disk.failing = ({ offset }) => (offset === 20 * MIB ? new Error("injected") : undefined)
    const seen = await uncaught(() => guest.served())
    expect([disk.log.length, guest.reply(placed, 0).status, guest.takeUsed()]).toEqual([21, IOERR, [{ id: 0, length: 0 }]])
    // It is no BackingError: somebody's bug, which is thrown on.
    expect(seen).toEqual([new Error("injected")])
  })

  once("PCI-36 bus mastering off: it waits, the device is idle and can be saved; on: it goes on", async () => {
    const { guest, disk, placed } = reading()
    const ram = guest.machine.ram.slice()
    guest.registers.command = 3
    await guest.disk.device.whenIdle()
    await quiet()
    expect([disk.log.length, Buffer.compare(ram, guest.machine.ram)]).toEqual([16, 0])
    expect(guest.disk.device.virtio.saveState().queues).toMatchObject([{ position: 0, heads: [0] }])
    guest.registers.command = 7
    await guest.served()
    expect([disk.log.length, guest.reply(placed, 0).status]).toEqual([40, OK])
  })

  once("pause waits for it; the state then has nothing in flight", async () => {
    const { guest, disk, placed } = reading()
    expect(() => guest.disk.device.virtio.saveState()).toThrow("requests in flight: pause the device")
    await guest.disk.device.pause()
    expect([disk.log.length, guest.usedIdx(), guest.reply(placed, 0).status]).toEqual([40, 1, OK])
    expect(guest.disk.device.virtio.saveState().queues).toMatchObject([{ position: 1, heads: [] }])
  })

  it("RAM may be replaced, as by a WebAssembly memory that grows: the rest and the status go into the new RAM", async () => {
    const memory = new WebAssembly.Memory({ initial: 1024, maximum: 1100 })
    const { guest, disk, placed } = reading({ machine: { memory } })
    memory.grow(1)
    await guest.served()
    expect(guest.reply(placed, 0).status).toBe(OK)
    expect(Buffer.compare(guest.reply(placed, 0).data, disk.cache.subarray(0, 40 * MIB))).toBe(0)
  })

  it("other requests of the batch, of the queue and of other queues come after a long one, and lose nothing", async () => {
    stoppedClock()
    const disk = new FakeDisk({ size: 512 * SECTORS })
    const guest = new RingGuest({
      backing: disk,
      machine: { ramSize: 64 * MIB },
      features: [F.MQ, F.INDIRECT_DESC],
      queues: 2,
      disk: { queues: 2 },
    })
    const [first, second] = guest.rings
    if (first === undefined || second === undefined) throw new Error("no rings")
    const long = guest.place({ type: T.OUT, sector: 0, out: new Uint8Array(2 ** 25).fill(0x11) })
    const overlapping = guest.place({ type: T.OUT, sector: 2 ** 16 - 1, out: pattern(5, 1) })
    guest.publish([long, overlapping].map(({ pieces }) => guest.chain(pieces, {}, first)), first)
    guest.kick(first)
    expect(first.usedIdx).toBe(0)
    const other = guest.place({ type: T.IN, sector: 2 ** 16 - 1, in: 512 })
    guest.publish([guest.chain(other.pieces, {}, second)], second)
    guest.kick(second)
    await guest.served(first)
    await guest.served(second)
    expect([long, overlapping, other].map((one) => guest.reply(one, 0).status)).toEqual([OK, OK, OK])
    expect(Buffer.compare(disk.cache.subarray(0, 512 * (2 ** 16 - 1)), new Uint8Array(512 * (2 ** 16 - 1)).fill(0x11))).toBe(0)
    expect(guest.reply(other, 0).data).toEqual(pattern(5, 1))
  })

  it("write-through mode adds one flush behind the last slice, then the status", async () => {
    stoppedClock()
    const disk = new FakeDisk({ size: 512 * SECTORS })
    const guest = new RingGuest({ backing: disk, machine: { ramSize: 64 * MIB }, features: [] })
    const data = new Uint8Array(2 ** 25).fill(0x11)
    const placed = guest.place({ type: T.OUT, sector: 0, out: data })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    await guest.served()
    expect(disk.takeNames()).toEqual([...Array.from({ length: 32 }, () => "write"), "flush"])
    expect([guest.reply(placed, 0).status, Buffer.compare(disk.stable.subarray(0, 2 ** 25), data)]).toEqual([OK, 0])
  })

  it("an asynchronous backing gets one call of 1 MiB after the other, each with the device's own buffer, until a reset", async () => {
    stoppedClock()
    const disk = new FakeDisk({ size: 512 * SECTORS })
    disk.cache.set(pattern(0, 8192))
    disk.waits = () => true
    const guest = new RingGuest({ backing: disk, machine: { ramSize: 64 * MIB } })
    const placed = guest.place({ type: T.IN, sector: 0, in: 4 * MIB - 512 })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    for (const [at, length] of [MIB, MIB, MIB, MIB - 512].entries()) {
      expect(disk.waiting.map(({ call }) => [call.offset, call.length])).toEqual([[at * MIB, length]])
      await disk.finishNext()
    }
    expect([
      guest.usedIdx(),
      guest.reply(placed, 0).status,
      Buffer.compare(guest.reply(placed, 0).data, pattern(0, 8191)),
    ]).toEqual([1, OK, 0])
    guest.start()
    const again = guest.place({ type: T.IN, sector: 0, in: 4 * MIB })
    guest.publish([guest.chain(again.pieces)])
    guest.kick()
    await disk.finishNext()
    guest.status = 0
    const ram = guest.machine.ram.slice()
    await disk.finishNext()
    await quiet()
    expect([disk.waiting, Buffer.compare(ram, guest.machine.ram)]).toEqual([[], 0])
    await guest.disk.device.whenIdle()
  })
})
