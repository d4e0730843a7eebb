/** A backing that answers later: in any order, with failures, during resets, with memory that is replaced meanwhile. */
import { describe, expect, it as once, vi } from "vitest"
import { it } from "../../harness/both-rings.ts"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { pattern, ranges, type Request } from "../../harness/requests.ts"
import { F, IOERR, OK, T, UNTOUCHED } from "../../harness/words.ts"

/** The type is in the DOM's library only. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer; grow(pages: number): number },
}

function pair(options: Partial<RingGuestOptions> = {}, disk = new FakeDisk({ size: 1 << 18 })): { disk: FakeDisk; guest: RingGuest } {
  disk.cache.set(pattern(0, disk.size / 512))
  disk.waits = () => true
  return { disk, guest: new RingGuest({ backing: disk, ...options }) }
}

function send(guest: RingGuest, requests: readonly Request[]): { heads: number[]; placed: Placed[] } {
  const placed = requests.map((request) => guest.place(request))
  const heads = placed.map(({ pieces }) => guest.chain(pieces, { indirect: true }))
  guest.publish(heads)
  guest.kick()
  return { heads, placed }
}

/** Sectors that are no neighbours, so that each request is a call of its own. */
const reads = (count: number): Request[] => Array.from({ length: count }, (_, at) => ({ type: T.IN, sector: 3 * at, in: 512 }))

describe("completion in the order of the answers", () => {
  it("requests that come in while a full batch waits for the disk are taken as one more batch", async () => {
    const disk = new FakeDisk({ size: 32 << 20 })
    disk.waits = () => true
    const guest = new RingGuest({ backing: disk, machine: { ramSize: 64 << 20 } })
    const sendWhileWaiting = (lastLength: number): void => {
      send(guest, Array.from({ length: 16 }, (_, at) => ({ type: T.IN, sector: 4096 * at, in: at === 15 ? lastLength : 1 << 20 })))
      expect(disk.waiting).toHaveLength(16)
      // Neighbours are one call, if they are in one batch.
      send(guest, [{ type: T.IN, sector: 1, in: 512 }, { type: T.IN, sector: 2, in: 512 }])
      expect(disk.waiting).toHaveLength(17)
    }
    // One sector less than a batch may have.
    sendWhileWaiting((1 << 20) - 512)
    for (const { finish } of disk.waiting.splice(0)) finish()
    await guest.served()
    guest.start()
    // All that it may have.
    sendWhileWaiting(1 << 20)
    for (const { finish } of disk.waiting.splice(0)) finish()
    await guest.served()
  })

  it("VQ-22 two reads that the disk answers in reverse order complete in that order, each with its data and an interrupt", async () => {
    const { disk, guest } = pair()
    const { heads, placed } = send(guest, reads(2))
    const [first, second] = disk.waiting.splice(0)
    expect([guest.takeUsed(), guest.irqs()]).toEqual([[], []])
    second?.finish()
    await settled()
    expect([guest.takeUsed(), guest.queueIrqs()]).toEqual([[{ id: heads[1], length: 513 }], 1])
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([UNTOUCHED, OK])
    first?.finish()
    await settled()
    expect([guest.takeUsed(), guest.queueIrqs()]).toEqual([[{ id: heads[0], length: 513 }], 1])
    expect(placed.map((one) => guest.reply(one, 0).data)).toEqual([pattern(0, 1), pattern(3, 1)])
  })

  it("VQ-22 BLK-36 hundreds of requests, answered or failed in random order, complete once with their own outcome", async () => {
    const rng = new Rng(seedFromEnvironment(20260806))
    const { disk, guest } = pair({ ringSize: 64, features: [F.INDIRECT_DESC, F.DISCARD, F.WRITE_ZEROES, F.FLUSH] })
    const open = new Map<number, { placed: Placed; request: Request }>()
    let [sent, returned, failures] = [0, 0, 0]
    const failed = new Set<number>()
    while (returned < 600) {
      if (sent < 600 && open.size < 40 && rng.chance(0.6)) {
        const sector = 2 * sent % 500
        const request = rng.pick<Request>([
          { type: T.IN, sector, in: 512 },
          { type: T.OUT, sector, out: pattern(sector, 1) },
          { type: T.FLUSH },
          { type: T.DISCARD, out: ranges({ sector: 511, sectors: 1 }) },
        ])
        while (open.has(guest.ring.nextDesc % 64)) guest.ring.nextDesc++
        const { heads, placed } = send(guest, [request])
        const [head] = heads
        const [one] = placed
        if (head === undefined || one === undefined || open.has(head)) throw new Error("the test reuses a head")
        open.set(head, { placed: one, request })
        sent++
      } else if (disk.waiting.length > 0) {
        const [waiting] = disk.waiting.splice(rng.below(disk.waiting.length), 1)
        if (rng.chance(0.2)) {
          waiting?.fail(eio())
          failures++
        } else waiting?.finish()
        await settled()
        const used = guest.takeUsed()
        expect(used).toHaveLength(1)
        for (const { id } of used) {
          const back = open.get(id)
          if (back === undefined) throw new Error(`head ${id} was returned and not in flight`)
          open.delete(id)
          returned++
          const { status, data } = guest.reply(back.placed, 0)
          if (status === IOERR) failed.add(returned)
          else if (back.request.type === T.IN) expect(data).toEqual(pattern(back.request.sector as number, 1))
        }
      }
      if (open.size === 0) guest.top = 0x8_0000
    }
    expect([failed.size, open.size, disk.waiting.length]).toEqual([failures, 0, 0])
    expect(failures).toBeGreaterThan(50)
  })

  it("a flush waits for the writes before it, and holds up no other request", async () => {
    const { disk, guest } = pair()
    const { heads } = send(guest, [{ type: T.OUT, sector: 1, out: pattern(9, 1) }, { type: T.FLUSH }, { type: T.IN, sector: 9, in: 512 }])
    disk.next("read").finish()
    await settled()
    expect(guest.takeUsed().map(({ id }) => id)).toEqual([heads[2]])
    disk.next("flush").finish()
    disk.next("write").finish()
    await settled()
    expect(guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)).toEqual([heads[0], heads[1]])
  })

  once("used.idx moves once for requests that are answered together, and the batch behind is served while others wait", async () => {
    const { disk, guest } = pair({ features: [F.INDIRECT_DESC, F.EVENT_IDX] })
    disk.waits = ({ offset }) => offset === 0
    send(guest, reads(3))
    expect([guest.usedIdx(), disk.waiting.length]).toEqual([2, 1])
    send(guest, reads(3).slice(1))
    expect([guest.usedIdx(), guest.ring.availEvent]).toEqual([4, 5])
    disk.next().finish()
    await settled()
    expect(guest.usedIdx()).toBe(5)
  })

  once("a driver that offers more chains than its ring has, before it gets any back, breaks the device", () => {
    const { guest } = pair({ ringSize: 8 })
    send(guest, reads(8))
    expect(guest.status).toBe(0x0f)
    send(guest, reads(1))
    expect([guest.status & 0x40, guest.disk.device.brokenBy?.message]).toEqual([
      0x40, expect.stringMatching(/more than 8 chains in flight/),
    ])
  })

  once("what was in flight when the device broke completes all the same, in memory and in the used ring", async () => {
    const { disk, guest } = pair()
    const { heads, placed } = send(guest, reads(1))
    guest.publish([0xffff])
    guest.kick()
    expect(guest.status & 0x40).toBe(0x40)
    disk.next().finish()
    await settled()
    expect(guest.takeUsed()).toEqual([{ id: heads[0], length: 513 }])
    expect(placed.map((one) => guest.reply(one, 0))).toEqual([{ status: OK, length: 0, data: pattern(0, 1) }])
  })
})

describe("calls that serve several requests", () => {
  it("BLK-36 a merged call that fails is repeated request by request, and only the one that causes the error fails", async () => {
    for (const waits of [false, true]) {
      for (const type of [T.IN, T.OUT]) {
        const { disk, guest } = pair()
        disk.waits = () => waits
        const bad = 12 * 512
        if (!waits) disk.failing = ({ offset, length }) => (offset <= bad && offset + length > bad ? eio() : undefined)
        const requests = [10, 11, 12, 13].map(
          (sector) => (type === T.IN ? { type, sector, in: 512 } : { type, sector, out: pattern(sector + 100, 1) }),
        )
        const { heads, placed } = send(guest, requests)
        if (waits) {
          disk.next().fail(eio())
          await settled()
          expect(disk.waiting.map(({ call }) => call.offset / 512)).toEqual([10, 11, 12, 13])
          // In any order again.
          for (const waiting of disk.waiting.splice(0).reverse()) waiting.call.offset === bad ? waiting.fail(eio()) : waiting.finish()
          await settled()
        }
        expect(disk.log.map(({ offset, length }) => [offset / 512, length / 512])).toEqual([[10, 4], [10, 1], [11, 1], [12, 1], [13, 1]])
        expect(guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)).toEqual(heads)
        expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([OK, OK, IOERR, OK])
        for (const [at, sector] of [10, 11, 13].entries()) {
          if (type === T.IN) expect(guest.reply(placed[at === 2 ? 3 : at] as Placed, 0).data).toEqual(pattern(sector, 1))
          else expect(disk.cache.subarray(512 * sector, 512 * sector + 512)).toEqual(pattern(sector + 100, 1))
        }
      }
    }
  })

  it("ranges of one request are done one after the other, and a failure ends the request", async () => {
    const { disk, guest } = pair()
    const { placed } = send(guest, [
      {
        type: T.WRITE_ZEROES,
        out: ranges({ sector: 0, sectors: 1 }, { sector: 0, sectors: 0 }, { sector: 5, sectors: 1 }, { sector: 9, sectors: 1 }),
      },
    ])
    expect(disk.waiting.map(({ call }) => call.offset)).toEqual([0])
    disk.next().finish()
    await settled()
    expect(disk.waiting.map(({ call }) => call.offset)).toEqual([5 * 512])
    disk.next().fail(eio())
    await settled()
    expect([disk.waiting, placed.map((one) => guest.reply(one, 0).status), guest.takeUsed().length]).toEqual([[], [IOERR], 1])
  })

  it("without vectored methods an asynchronous disk gets one call with the device's own buffer, others one for each buffer", async () => {
    const disk = new FakeDisk({ size: 1 << 18, without: ["preadv", "pwritev"] })
    const { guest } = pair({}, disk)
    const { placed } = send(guest, [10, 11, 12].map((sector) => ({ type: T.IN, sector, in: 512 })))
    expect(disk.waiting.map(({ call }) => [call.name, call.offset / 512, call.length])).toEqual([["read", 10, 3 * 512]])
    disk.next().finish()
    await settled()
    expect(placed.map((one) => guest.reply(one, 0).data)).toEqual([pattern(10, 1), pattern(11, 1), pattern(12, 1)])
    disk.waits = () => false
    disk.asynchronous = false
    disk.log.length = 0
    send(guest, [20, 21].map((sector) => ({ type: T.OUT, sector, out: pattern(sector + 50, 1) })))
    expect(disk.log.map(({ name, offset, length }) => [name, offset / 512, length])).toEqual([["write", 20, 512], ["write", 21, 512]])
    expect(disk.cache.subarray(20 * 512, 22 * 512)).toEqual(pattern(70, 2))
  })
})

describe("what the embedder sees", () => {
  /** Runs `act` while unhandled rejections go into the list that is returned, as an embedder's own handler would take them. */
  async function unhandled(act: () => void): Promise<unknown[]> {
    const listeners = process.listeners("unhandledRejection")
    process.removeAllListeners("unhandledRejection")
    const seen: unknown[] = []
    const take = (reason: unknown) => void seen.push(reason)
    process.on("unhandledRejection", take)
    try {
      act()
      await settled()
      await settled()
    } finally {
      process.off("unhandledRejection", take)
      for (const listener of listeners) process.on("unhandledRejection", listener)
    }
    return seen
  }

  it("a rejection that is no BackingError is IOERR to the guest, and an unhandled rejection to the embedder", async () => {
    const { disk, guest } = pair()
    const { placed } = send(guest, reads(2))
    const bug = new TypeError("injected: a bug of the backing")
    expect(await unhandled(() => disk.next().fail(bug))).toEqual([bug])
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([IOERR, UNTOUCHED])
    expect(await unhandled(() => disk.next().fail(eio()))).toEqual([])
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([IOERR, IOERR])
    expect(guest.status).toBe(0x0f)
  })

  it("an interrupt handler that throws leaves no request behind", async () => {
    const { disk, guest } = pair()
    send(guest, reads(1))
    const oops = new Error("injected: the embedder's own bug")
    const stop = guest.machine.interrupts.subscribe(() => {
      throw oops
    })
    expect(await unhandled(() => disk.next().finish())).toEqual([oops])
    stop()
    await guest.disk.device.whenIdle()
    expect(guest.start()).toBe(0x0f)
  })

  it.each(
    ["throws", "resets the device"],
  )("when an interrupt handler %s, no request of a failed merged call is left behind", async (what) => {
    const { disk, guest } = pair()
    const { placed } = send(guest, [0, 1, 2, 3].map((sector) => ({ type: T.IN, sector, in: 512 })))
    expect(disk.waiting.map(({ call }) => call.length)).toEqual([4 * 512])
    disk.waits = () => false
    const oops = new Error("injected: the embedder's own bug")
    const stop = guest.machine.interrupts.subscribe(() => {
      stop()
      if (what === "throws") throw oops
      guest.status = 0
    })
    expect(await unhandled(() => disk.next().fail(eio()))).toEqual(what === "throws" ? [oops] : [])
    await guest.disk.device.whenIdle()
    const served = what === "throws" ? 4 : 1
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([0, 1, 2, 3].map((at) => (at < served ? OK : UNTOUCHED)))
    expect(guest.disk.device.virtio.inFlight).toMatchObject({ count: 0, calls: 0, heldBytes: 0 })
  })

  it("ST-02 ST-03 a reset waits for no answer, and none reaches the guest after it", async () => {
    const { disk, guest } = pair()
    const { placed } = send(guest, [...reads(3), { type: T.OUT, sector: 100, out: pattern(1, 1) }])
    guest.status = 0
    expect(guest.status).toBe(0)
    for (const waiting of disk.waiting.splice(0, 3)) waiting.fail(eio())
    await settled()
    disk.next().finish()
    await settled()
    expect([guest.status, guest.takeUsed(), guest.irqs()]).toEqual([0, [], []])
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual(placed.map(() => UNTOUCHED))
  })

  it("a reset inside the interrupt of the last completion ends at once, and the device can be started there", async () => {
    for (const waits of [false, true]) {
      const { disk, guest } = pair()
      disk.waits = () => waits
      const seen: number[] = []
      const stop = guest.machine.interrupts.subscribe(() => {
        stop()
        guest.status = 0
        seen.push(guest.status)
        seen.push(guest.start())
        send(guest, reads(1))
      })
      send(guest, reads(1))
      for (let round = 0; round < 3; round++) {
        disk.waiting.splice(0).forEach((waiting) => waiting.finish())
        await settled()
      }
      expect([waits, seen]).toEqual([waits, [0, 0x0f]])
      expect([guest.usedIdx(), guest.disk.device.brokenBy]).toEqual([1, undefined])
    }
  })

  it("thousands of kicks, each inside the interrupt handler of the last, are served in a loop, in order", async () => {
    for (const waits of [false, true]) {
      const { disk, guest } = pair({ ringSize: 16 })
      disk.waits = () => waits
      const mark = guest.top
      let left = 3000
      const stop = guest.machine.interrupts.subscribe(() => {
        guest.takeUsed()
        if (left-- <= 0) return
        guest.top = mark
        send(guest, reads(1))
      })
      send(guest, reads(1))
      // A turn of the device ends before 3000 requests do; it goes on by itself.
      for (let round = 0; round < 6000 && left >= 0; round++) {
        if (disk.waiting.length > 0) disk.next().finish()
        await settled()
      }
      stop()
      expect([waits, left, guest.usedIdx()]).toEqual([waits, -1, 3001])
    }
  })

  it("a kick of another queue inside an interrupt handler does not disturb the batch of the first", () => {
    const { disk, guest } = pair({ features: [F.MQ, F.INDIRECT_DESC], queues: 2, disk: { queues: 2 } })
    disk.waits = () => false
    const [first, second] = guest.rings
    if (first === undefined || second === undefined) throw new Error("no rings")
    const other = Array.from({ length: 300 }, (_, at) => guest.place({ type: T.IN, sector: at, in: 512 }))
    const stop = guest.machine.interrupts.subscribe(() => {
      stop()
      guest.publish(other.slice(0, 200).map(({ pieces }) => guest.chain(pieces, { indirect: true }, second)), second)
      guest.kick(second)
    })
    // More than a batch holds, so that the first queue interrupts in the middle of its work.
    const placed = Array.from({ length: 256 }, (_, at) => guest.place({ type: T.IN, sector: 511 - at, in: 512 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true }, first)), first)
    guest.kick(first)
    expect([guest.usedIdx(first), guest.usedIdx(second)]).toEqual([256, 200])
    for (const [at, one] of placed.entries()) {
      if (Buffer.compare(guest.reply(one, 0).data, pattern(511 - at, 1)) !== 0) throw new Error(`request ${at} has wrong data`)
    }
    for (const [at, one] of other.slice(0, 200).entries()) {
      if (Buffer.compare(guest.reply(one, 0).data, pattern(at, 1)) !== 0) {
        throw new Error(`request ${at} of the second queue has wrong data`)
      }
    }
  })

  once.each([
    "bus mastering", "the device",
  ] as const)("PCI-36 %s is stopped from inside an interrupt handler: nothing more is taken, nor stored, until it goes on", (what) => {
    const { disk, guest } = pair({ features: [F.INDIRECT_DESC, F.EVENT_IDX] })
    disk.waits = () => false
    const { device, function: fn } = guest.disk
    const stop = guest.machine.interrupts.subscribe(() => {
      stop()
      if (what === "the device") void device.pause()
      else fn.configWrite(4, 2, 3)
      send(guest, reads(2))
    })
    send(guest, reads(1))
    expect([guest.usedIdx(), guest.ring.availEvent, device.statistics.read.requests]).toEqual([1, 0, 1])
    if (what === "the device") device.resume()
    else fn.configWrite(4, 2, 7)
    expect([guest.usedIdx(), guest.ring.availEvent]).toEqual([3, 3])
  })

  it("PCI-36 of several answers that wait for bus mastering one may throw: the others and new requests still complete", async () => {
    const { disk, guest } = pair()
    const { placed } = send(guest, reads(3))
    guest.disk.function.configWrite(4, 2, 3)
    // Kicked for in vain.
    placed.push(...send(guest, [{ type: T.FLUSH }]).placed)
    disk.waits = () => false
    disk.next().fail(new TypeError("injected: a bug of the backing"))
    disk.waiting.splice(0).forEach((waiting) => waiting.finish())
    await settled()
    expect(() => guest.disk.function.configWrite(4, 2, 7)).toThrow("injected: a bug of the backing")
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([IOERR, OK, OK, OK])
    await guest.disk.device.whenIdle()
    expect(guest.start()).toBe(0x0f)
  })

  it("a driver that keeps its ring full takes one timer, however often it kicks", () => {
    vi.useFakeTimers({ toFake: ["setImmediate", "performance"] })
    try {
      let refill = (): void => {}
      const disk = new FakeDisk()
      const guest = new RingGuest({ backing: disk, ringSize: 8, machine: { ramSize: 1 << 20, written: () => refill() } })
      const head = guest.chain(guest.place({ type: T.FLUSH }).pieces, { indirect: true })
      // What another thread would do: as soon as entries are used, all slots are available again.
      refill = () => {
        guest.takeUsed()
        guest.publish(Array.from({ length: (guest.usedIdx() + 8 - guest.ring.availIdx + 65536) % 65536 }, () => head))
      }
      refill()
      for (let kicks = 0; kicks < 50; kicks++) guest.kick()
      expect([disk.log.length, vi.getTimerCount()]).toEqual([50 * 16, 1])
      for (let ticks = 0; ticks < 5; ticks++) vi.runOnlyPendingTimers()
      expect([disk.log.length, vi.getTimerCount()]).toEqual([55 * 16, 1])
      refill = () => {}
      vi.runOnlyPendingTimers()
      expect([guest.usedIdx(), vi.getTimerCount(), guest.disk.device.brokenBy]).toEqual([guest.ring.availIdx, 0, undefined])
    } finally {
      vi.useRealTimers()
    }
  })

  it("a bug of the backing does not keep the requests behind it from being served, however many they are", () => {
    vi.useFakeTimers({ toFake: ["setImmediate", "performance"] })
    try {
      let [refill, fills] = [(): void => {}, 0]
      const disk = new FakeDisk()
      const guest = new RingGuest({ backing: disk, ringSize: 8, machine: { ramSize: 1 << 20, written: () => refill() } })
      const head = guest.chain(guest.place({ type: T.FLUSH }).pieces, { indirect: true })
      refill = () => {
        guest.takeUsed()
        if (fills++ < 40) guest.publish(Array.from({ length: (guest.usedIdx() + 8 - guest.ring.availIdx + 65536) % 65536 }, () => head))
      }
      disk.failing = () => (disk.log.length === 1 ? new TypeError("injected: a bug of the backing") : undefined)
      refill()
      expect(() => guest.kick()).toThrow("injected: a bug of the backing")
      expect(guest.ring.availIdx).toBeGreaterThan(guest.usedIdx())
      vi.runAllTimers()
      expect(guest.usedIdx()).toBe(guest.ring.availIdx)
    } finally {
      vi.useRealTimers()
    }
  })

  it("when RAM is replaced while a request waits, as by a WebAssembly memory that grows, the read arrives in the new RAM", async () => {
    const memory = new WebAssembly.Memory({ initial: 64, maximum: 128 })
    const disk = new FakeDisk({ size: 1 << 18 })
    const { guest } = pair({ machine: { memory } }, disk)
    const { placed } = send(guest, [{ type: T.IN, sector: 4, in: 1024 }, { type: T.OUT, sector: 100, out: pattern(7, 1) }])
    memory.grow(1)
    disk.waits = () => false
    for (const waiting of disk.waiting.splice(0)) {
      // The views that the backing was given are of a buffer that is gone.
      try {
        waiting.finish()
      } catch {
        waiting.fail(eio())
      }
    }
    await settled()
    expect(guest.takeUsed().map(({ length }) => length)).toEqual([1025, 1])
    expect(guest.reply(placed[0] as Placed, 0)).toMatchObject({ status: OK, data: pattern(4, 2) })
    expect(disk.cache.subarray(100 * 512, 101 * 512)).toEqual(pattern(7, 1))
  })

  it("BLK-35 a request in flight when the disk shrinks was checked against the old size: the backing decides how it ends", async () => {
    const { disk, guest } = pair()
    const { placed } = send(guest, [{ type: T.IN, sector: 511, in: 512 }, { type: T.IN, sector: 0, in: 512 }])
    disk.size = 1 << 17
    guest.disk.device.capacityChanged()
    expect(guest.capacity).toBe(256)
    disk.waiting.splice(0).forEach((waiting) => (waiting.call.offset > 0 ? waiting.fail(eio()) : waiting.finish()))
    await settled()
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([IOERR, OK])
  })

  it("whenIdle waits for requests in flight, a paused device takes none, and resume serves all of them", async () => {
    const { disk, guest } = pair()
    const { device } = guest.disk
    send(guest, reads(1))
    let idle = false
    const paused = device.pause().then(() => (idle = true))
    await settled()
    expect(idle).toBe(false)
    send(guest, reads(2))
    expect(disk.waiting).toHaveLength(1)
    disk.next().finish()
    await paused
    expect([guest.usedIdx(), disk.waiting.length]).toEqual([1, 0])
    disk.waits = () => false
    device.resume()
    expect(guest.usedIdx()).toBe(3)
    await device.whenIdle()
  })

  it("a thenable that is no Promise, from a backing in plain JavaScript, is awaited as well", async () => {
    const calls: (() => void)[] = []
    const backing = {
      size: 4096,
      readOnly: false,
      asynchronous: true,
      pread: (buffer: Uint8Array) => ({ then: (resolve: (value: unknown) => void) => void calls.push(() => resolve(buffer.fill(0x33))) }),
      pwrite() {},
      close() {},
    }
    const guest = new RingGuest({ backing: backing as unknown as VirtioBacking })
    const { placed } = send(guest, reads(1))
    await settled()
    expect(guest.takeUsed()).toEqual([])
    calls.forEach((call) => call())
    await settled()
    expect(guest.reply(placed[0] as Placed, 0)).toMatchObject({ status: OK, data: new Uint8Array(512).fill(0x33) })
  })
})
