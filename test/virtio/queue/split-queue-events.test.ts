/** Who tells whom, and when: interrupts, kicks, the order of stores, and what a queue does when it is reset. */
import { afterEach, describe, expect, it, vi } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { needsEvent } from "../../../src/virtio/queue/ring-word.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { pattern } from "../../harness/requests.ts"
import { F, mask, OK, T, UNTOUCHED, UP } from "../../harness/words.ts"

function guest(options: Partial<RingGuestOptions> = {}): RingGuest {
  return new RingGuest({ backing: new MemoryBacking({ size: 1 << 20 }), machine: { ramSize: 4 << 20 }, ...options })
}

/** One chain that can be published any number of times at once: FLUSH, header and status. */
function flushChain(one: RingGuest): number {
  return one.chain(one.place({ type: T.FLUSH }).pieces, { indirect: true })
}

function batch(one: RingGuest, head: number, count: number): void {
  one.publish(Array.from({ length: count }, () => head))
  one.kick()
}

/** The rule of [VIRTIO] 2.7.7.2 in its plainest words: was the entry with index `event` among those just written? */
function passes(event: number, old: number, now: number): boolean {
  for (let index = old; index !== now; index = (index + 1) % 65536) if (index === event) return true
  return false
}

describe("used buffer notifications", () => {
  it("VQ-24 without EVENT_IDX avail.flags 0 ask for an interrupt with each batch, and 1 for none", () => {
    const one = guest({ features: [F.INDIRECT_DESC] })
    const head = flushChain(one)
    for (const [flags, irqs] of [[0, 1], [1, 0], [0, 1], [1, 0], [0, 1]] as const) {
      one.ring.availFlags = flags
      batch(one, head, 3)
      expect(one.queueIrqs()).toBe(irqs)
    }
    // Only bit 0 says no.
    one.ring.availFlags = 0xfffe
    batch(one, head, 1)
    expect(one.queueIrqs()).toBe(1)
  })

  it("VQ-05 without EVENT_IDX used_event is ignored", () => {
    const one = guest({ features: [F.INDIRECT_DESC] })
    const head = flushChain(one)
    for (const event of [0, 1, 2, 3, 0x7fff, 0x8000, 0xffff]) {
      for (const flags of [0, 1]) {
        one.ring.usedEvent = event
        one.ring.availFlags = flags
        batch(one, head, 1)
        expect(one.queueIrqs()).toBe(1 - flags)
      }
    }
  })

  it("VQ-25 with EVENT_IDX and used_event 0 the 1st and the 65537th buffer interrupt, and none between, whatever the flags are", () => {
    const one = guest({ features: [F.INDIRECT_DESC, F.EVENT_IDX] })
    const head = flushChain(one)
    const interrupted: number[] = []
    for (let done = 0; done < 65536 + 512; done++) {
      one.ring.availFlags = done % 2
      batch(one, head, 1)
      if (one.queueIrqs() > 0) interrupted.push(done + 1)
    }
    expect(interrupted).toEqual([1, 65537])
  })

  it("VQ-26 interrupts agree with a walk over the entries for random batches and used_events, over several wraps", () => {
    const rng = new Rng(seedFromEnvironment(20260802))
    const one = guest({ features: [F.INDIRECT_DESC, F.EVENT_IDX], ringSize: 256 })
    const head = flushChain(one)
    const counts = { irqs: 0, silences: 0 }
    for (let old = 0, wraps = 0; wraps < 4; ) {
      const count = rng.pick([1, 2, 3, rng.between(1, 256)])
      const now = (old + count) % 65536
      // Near the batch, where the rule has its edges; and anywhere.
      const event = rng.chance(0.9) ? (rng.pick([old, now]) + rng.between(-3, 3) + 65536) % 65536 : rng.below(65536)
      one.ring.usedEvent = event
      batch(one, head, count)
      const expected = passes(event, old, now)
      if (one.queueIrqs() !== (expected ? 1 : 0)) {
        throw new Error(`used_event ${event}, from ${old} to ${now}: expected ${expected ? "an interrupt" : "none"}`)
      }
      counts[expected ? "irqs" : "silences"]++
      if (now < old) wraps++
      old = now
    }
    expect(counts.irqs).toBeGreaterThan(500)
    expect(counts.silences).toBeGreaterThan(500)
  })

  it("VQ-26 the arithmetic agrees with the same walk near 0, 32768 and 65536", () => {
    const near = [0, 0x7fff, 0x8000, 0xffff].flatMap((edge) => [-2, -1, 0, 1, 2].map((step) => (edge + step + 65536) % 65536))
    for (const old of near) {
      for (const now of [0, 1, 2, 255, 32768].map((step) => (old + step) % 65536)) {
        for (const event of near) expect([old, now, event, needsEvent(event, now, old)]).toEqual([old, now, event, passes(event, old, now)])
      }
    }
  })

  it("VQ-27 after a reset the position is 0 again: with used_event 0 the first completion interrupts", () => {
    const one = guest({ features: [F.INDIRECT_DESC, F.EVENT_IDX] })
    const old = flushChain(one)
    for (let done = 0; done < 500; done++) batch(one, old, 1)
    one.start([F.INDIRECT_DESC, F.EVENT_IDX])
    batch(one, flushChain(one), 1)
    expect([one.queueIrqs(), one.usedIdx()]).toEqual([1, 1])
  })

  it("with NOTIFY_ON_EMPTY an empty ring interrupts even if interrupts are suppressed, but not while requests are left", async () => {
    const disk = new FakeDisk()
    const one = new RingGuest({ backing: disk, legacy: true, features: [F.NOTIFY_ON_EMPTY, F.INDIRECT_DESC] })
    one.ring.availFlags = 1
    one.registers.readIsr()
    const placed = one.place({ type: T.IN, in: 512 })
    batch(one, one.chain(placed.pieces), 1)
    expect(one.registers.readIsr()).toBe(1)
    disk.waits = ({ name }) => name === "read"
    one.publish([one.chain(placed.pieces), one.chain(placed.pieces)])
    one.publish([one.chain(one.place({ type: T.FLUSH }).pieces)])
    one.kick()
    expect([one.takeUsed().length, one.registers.readIsr()]).toEqual([2, 0])
    disk.next().finish()
    await settled()
    disk.waiting.splice(0).forEach((waiting) => waiting.finish())
    await settled()
    expect(one.registers.readIsr()).toBe(1)
  })
})

describe("available buffer notifications", () => {
  it("VQ-28 used.flags stay 0, and with EVENT_IDX avail_event is the next index", () => {
    for (const features of [[F.INDIRECT_DESC], [F.INDIRECT_DESC, F.EVENT_IDX]]) {
      const one = guest({ features })
      const head = flushChain(one)
      for (let done = 0; done < 10; done++) {
        batch(one, head, 1 + done)
        expect(one.ring.usedFlags).toBe(0)
        expect(one.ring.availEvent).toBe(features.length === 2 ? one.ring.availIdx : 0)
      }
    }
  })

  it("VQ-28 a driver that kicks only when avail_event is passed gets all buffers back", () => {
    const rng = new Rng(seedFromEnvironment(20260803))
    const one = guest({ features: [F.INDIRECT_DESC, F.EVENT_IDX], ringSize: 64 })
    const head = flushChain(one)
    let kicks = 0
    for (let round = 0; round < 20_000; round++) {
      const old = one.ring.availIdx
      one.publish(Array.from({ length: rng.between(1, 8) }, () => head))
      if (passes(one.ring.availEvent, old, one.ring.availIdx)) {
        kicks++
        one.kick()
      }
      if (one.usedIdx() !== one.ring.availIdx) {
        throw new Error(`round ${round}: used.idx ${one.usedIdx()}, avail.idx ${one.ring.availIdx}, avail_event ${one.ring.availEvent}`)
      }
    }
    expect(kicks).toBe(20_000)
  })

  it.each(
    [[F.EVENT_IDX, "on"], [F.INDIRECT_DESC, "off"]] as const,
  )("VQ-28 used.flags is 0 once a queue starts, whatever was there: kicks are wanted (feature %i, so EVENT_IDX is %s)", (feature, _) => {
    for (const memory of [new ArrayBuffer(1 << 20), new SharedArrayBuffer(1 << 20)]) {
      const announced: number[] = []
      const one = guest({ features: [feature], ringSize: 8, machine: { memory, written: (address) => void announced.push(address) } })
      one.status = 0
      one.registers.negotiate(mask(feature, F.VERSION_1))
      const ring = one.openRing(0)
      ring.ram.setUint16(ring.used, 0xffff, true)
      announced.length = 0
      one.status = UP
      expect([ring.usedFlags, announced.includes(ring.used), one.disk.device.brokenBy]).toEqual([0, true, undefined])
      one.ring = ring
      expect(one.read(0, 1).status).toBe(OK)
      expect(ring.usedFlags).toBe(0)
    }
  })

  describe("while another thread acts between two instructions", () => {
    /** Atomics are for RAM that other threads can reach; there they are the seams that a test can get at. */
    const SHARED = { machine: { memory: new SharedArrayBuffer(4 << 20) } }
    afterEach(() => void vi.restoreAllMocks())

    it("VQ-29 a buffer that is published after the last read of avail.idx and before avail_event moves is found without a kick", () => {
      const one = guest({ features: [F.INDIRECT_DESC, F.EVENT_IDX], ...SHARED })
      const head = flushChain(one)
      const availEvent = one.ring.used + 4 + 8 * one.ring.size
      const { store } = Atomics
      const { setUint16 } = DataView.prototype
      let published = 0
      const race = (address: number): void => {
        if (address === availEvent && published++ < 3) one.publish([head])
      }
      vi.spyOn(Atomics, "store").mockImplementation(((array: Uint16Array, index: number, value: number) => {
        race(array.byteOffset + 2 * index)
        return store(array, index, value)
      }) as typeof Atomics.store)
      // A store that a later one of Atomics makes visible.
      vi.spyOn(DataView.prototype, "setUint16").mockImplementation(function (this: DataView, at, value, little) {
        race(this.byteOffset + at)
        setUint16.call(this, at, value, little)
      })
      batch(one, head, 1)
      vi.restoreAllMocks()
      expect([one.ring.availIdx, one.usedIdx(), one.ring.availEvent]).toEqual([4, 4, 4])
    })

    it("VQ-29 VQ-24 a buffer that is published while the device decides about the interrupt is found without a kick", () => {
      for (const features of [[F.INDIRECT_DESC], [F.INDIRECT_DESC, F.EVENT_IDX]]) {
        const one = guest({ features, ...SHARED })
        const head = flushChain(one)
        const usedIdx = one.ring.used + 2
        const { store } = Atomics
        let published = 0
        vi.spyOn(Atomics, "store").mockImplementation(((array: Uint16Array, index: number, value: number) => {
          if (array.byteOffset + 2 * index === usedIdx && published++ < 3) one.publish([head])
          return store(array, index, value)
        }) as typeof Atomics.store)
        batch(one, head, 1)
        vi.restoreAllMocks()
        expect([one.ring.availIdx, one.usedIdx()]).toEqual([4, 4])
      }
    })

    it("VQ-29 avail_event is stored for a request that the disk answers later, also 65536 requests after the same value", async () => {
      const disk = { asynchronous: false, size: 512, readOnly: false, close() {}, pread, preadInto: pread, pwrite() {}, pwriteFrom() {} }
      function pread(): void {
        return disk.asynchronous ? (Promise.resolve() as unknown as void) : undefined
      }
      const one = new RingGuest({ backing: disk, features: [F.INDIRECT_DESC, F.EVENT_IDX], ...SHARED })
      const head = one.chain(one.place({ type: T.IN, in: 512 }).pieces, { indirect: true })
      batch(one, head, 1)
      disk.asynchronous = true
      batch(one, head, 1)
      await settled()
      disk.asynchronous = false
      for (let count = 0; count < 65535; count++) batch(one, head, 1)
      expect([one.ring.availIdx, one.usedIdx(), one.ring.availEvent]).toEqual([1, 1, 1])
      disk.asynchronous = true
      batch(one, head, 1)
      expect(one.ring.availEvent).toBe(2)
      await settled()
    })

    it("VQ-20 VQ-31 BLK-12 data, status, used element and used.idx are stored in this order before the driver's flags are read", () => {
      for (const features of [[F.INDIRECT_DESC], [F.INDIRECT_DESC, F.EVENT_IDX]]) {
        const trace: string[] = []
        const disk = new FakeDisk()
        const one = new RingGuest({ backing: disk, features, ...SHARED })
        const first = one.place({ type: T.IN, sector: 1, in: 512 })
        const second = one.place({ type: T.IN, sector: 2000, in: 512 })
        const heads = [one.chain(first.pieces), one.chain(second.pieces)]
        one.publish(heads)
        const { avail, used, size } = one.ring
        const names = new Map([
          [avail, "avail.flags"],
          [avail + 2, "avail.idx"],
          [avail + 4, "slot 1"],
          [avail + 6, "slot 2"],
          [avail + 4 + 2 * size, "used_event"],
          [first.status, "status 1"],
          [second.status, "status 2"],
          [used + 2, "used.idx"],
          [used + 4, "id 1"],
          [used + 8, "len 1"],
          [used + 12, "id 2"],
          [used + 16, "len 2"],
          [used + 4 + 8 * size, "avail_event"],
        ])
        const note = (what: string, address: number) => names.has(address) && trace.push(`${what} ${names.get(address)}`)
        disk.failing = ({ offset }) => void trace.push(`data ${offset === 512 ? 1 : 2}`)
        const { setUint8, setUint16, setUint32, getUint16 } = DataView.prototype
        const { store, load } = Atomics
        vi.spyOn(DataView.prototype, "setUint8").mockImplementation(function (this: DataView, at, value) {
          note("store", this.byteOffset + at)
          setUint8.call(this, at, value)
        })
        vi.spyOn(DataView.prototype, "setUint16").mockImplementation(function (this: DataView, at, value, little) {
          note("store", this.byteOffset + at)
          setUint16.call(this, at, value, little)
        })
        vi.spyOn(DataView.prototype, "setUint32").mockImplementation(function (this: DataView, at, value, little) {
          note("store", this.byteOffset + at)
          setUint32.call(this, at, value, little)
        })
        vi.spyOn(DataView.prototype, "getUint16").mockImplementation(function (this: DataView, at, little) {
          note("load", this.byteOffset + at)
          return getUint16.call(this, at, little)
        })
        vi.spyOn(Atomics, "store").mockImplementation(((array: Uint16Array, index: number, value: number) => {
          note("atomic store", array.byteOffset + 2 * index)
          return store(array, index, value)
        }) as typeof Atomics.store)
        vi.spyOn(Atomics, "load").mockImplementation(((array: Uint16Array, index: number) => {
          note("atomic load", array.byteOffset + 2 * index)
          return load(array, index)
        }) as typeof Atomics.load)
        one.kick()
        vi.restoreAllMocks()
        const order = (...steps: string[]) => {
          const places = steps.map((step) => trace.indexOf(step))
          expect([steps, places.includes(-1), places.toSorted((a, b) => a - b)]).toEqual([steps, false, places])
        }
        order("atomic load avail.idx", "load slot 1", "load slot 2", "data 1", "store status 1", "store id 1", "atomic store used.idx")
        order(
          "data 2",
          "store status 2",
          "store len 2",
          "atomic store used.idx",
          features.length === 2 ? "atomic load used_event" : "atomic load avail.flags",
        )
        order("store len 1", "atomic store used.idx")
        order("store id 2", "atomic store used.idx")
        expect(trace.filter((step) => step === "atomic store used.idx")).toHaveLength(1)
        // Kicks are asked for again, and avail.idx is read once more after that, with an atomic store in between.
        if (features.length === 2) {
          order("store avail_event", "atomic store used.idx")
          expect(trace.lastIndexOf("atomic load avail.idx")).toBeGreaterThan(trace.indexOf("atomic store used.idx"))
        }
        expect(one.takeUsed().map(({ id }) => id)).toEqual(heads)
      }
    })
  })
})

describe("a queue that is reset", () => {
  it("VQ-32 a reset queue at once returns no request and raises no interrupt, and starts anew with another size and place", async () => {
    const disk = new FakeDisk()
    disk.cache.set(pattern(0, 4))
    const one = new RingGuest({ backing: disk, features: [F.RING_RESET, F.INDIRECT_DESC], ringSize: 16 })
    expect(one.read(0, 1).status).toBe(OK)
    disk.waits = ({ name }) => name === "read"
    const placed = [0, 2, 900].map((sector) => one.place({ type: T.IN, sector, in: 512 }))
    one.publish(placed.map(({ pieces }) => one.chain(pieces)))
    one.kick()
    expect(disk.waiting).toHaveLength(3)
    one.irqs()
    one.modern.common.write(0x16, 2, 0)
    one.modern.common.write(0x3a, 2, 1)
    expect([one.modern.common.read(0x3a, 2), one.modern.common.read(0x1c, 2), one.modern.common.read(0x18, 2)]).toEqual([0, 0, 256])
    one.kick()
    const { used, size, avail } = one.ring
    const rings = one.bytes(used, 6 + 8 * size)
    disk.next().finish()
    disk.next().fail(eio())
    await settled()
    disk.next().finish()
    await settled()
    expect([
      one.modern.common.read(0x20, 4),
      one.modern.common.read(0x28, 4),
      one.modern.common.read(0x30, 4),
      one.modern.common.read(0x1a, 2),
    ]).toEqual([0, 0, 0, 0xffff])
    expect([one.bytes(used, 6 + 8 * size), one.irqs()]).toEqual([rings, []])
    expect(placed.map(({ status }) => one.bytes(status, 1)[0])).toEqual([UNTOUCHED, UNTOUCHED, UNTOUCHED])
    // The memory is the driver's again.
    one.fill(avail, 16, 0xff)
    disk.waits = () => false
    one.ring = one.openRing(0, 4)
    expect([one.modern.common.read(0x1c, 2), one.modern.common.read(0x3a, 2), one.modern.common.read(0x18, 2)]).toEqual([1, 0, 4])
    one.irqs()
    expect(one.read(1, 1)).toEqual({ status: OK, length: 513, data: pattern(1, 1) })
    expect([one.usedIdx(), one.queueIrqs(), one.status]).toEqual([1, 1, 0x0f])
  })

  it("VQ-32 a reset does not stop other queues while a read of the old life is in flight, nor afterwards", async () => {
    const disk = new FakeDisk()
    const one = new RingGuest({ backing: disk, features: [F.RING_RESET, F.MQ], queues: 2, disk: { queues: 2 } })
    const [first, second] = one.rings
    if (first === undefined || second === undefined) throw new Error("no rings")
    disk.waits = ({ offset }) => offset === 0
    one.publish([one.chain(one.place({ type: T.IN, sector: 0, in: 512 }).pieces, {}, first)], first)
    one.kick(first)
    one.modern.common.write(0x16, 2, 0)
    one.modern.common.write(0x3a, 2, 1)
    expect(one.run({ type: T.IN, sector: 1, in: 512 }, {}, second).status).toBe(OK)
    disk.next().finish()
    await settled()
    expect(one.run({ type: T.IN, sector: 1, in: 512 }, {}, second).status).toBe(OK)
  })
})
