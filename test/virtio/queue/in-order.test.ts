/** IN_ORDER on both kinds of ring: whatever the disk does, chains come back in the order in which they were made available. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { zonedDisk } from "../../../src/backing/zoned/zoned-disk.ts"
import { Throttle } from "../../../src/virtio/blk/throttling/throttle.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { pattern, type Request } from "../../harness/requests.ts"
import { F, IOERR, mask, OK, T, VERSION_1, ZONE } from "../../harness/words.ts"
import { ManualClock } from "../blk/throttling/manual-clock.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const SECTORS = 2048
const SEED = seedFromEnvironment(20_261_126)
const RINGS = [{ ring: "split", packed: false }, { ring: "packed", packed: true }] as const

/** A guest whose disk answers when the test says so. */
function pair(packed: boolean, options: Partial<RingGuestOptions> = {}): { one: RingGuest; disk: FakeDisk } {
  const disk = new FakeDisk({ content: pattern(0, SECTORS) })
  disk.waits = () => true
  const features = [F.IN_ORDER, F.INDIRECT_DESC, F.FLUSH, F.DISCARD]
  const withFeatures = [...(packed ? (["RING_PACKED"] as const) : []), "IN_ORDER"] as const
  const one = new RingGuest({ backing: disk, packed, features, disk: { withFeatures }, machine: { ramSize: 4 << 20 }, ...options })
  return { one, disk }
}

const read = (sector: number, sectors = 1) => ({ type: T.IN, sector, in: 512 * sectors })

function send(one: RingGuest, placed: readonly Placed[]): number[] {
  const ids = placed.map(({ pieces }) => {
    const id = one.chain(pieces, { indirect: true })
    one.publish([id])
    return id
  })
  one.kick()
  return ids
}

/** Answers the calls of the disk that wait, in the order that `order` makes of them. */
async function answer(disk: FakeDisk, order: <T>(calls: T[]) => T[]): Promise<void> {
  for (const call of order(disk.waiting.splice(0))) {
    call.finish()
    await settled()
  }
}

describe.each(RINGS)("a $ring ring in order", ({ packed }) => {
  it("FT-15 IN_ORDER is offered on request only", () => {
    const { one } = pair(packed)
    expect(one.offers(F.IN_ORDER)).toBe(true)
    expect(new RingGuest({ backing: new FakeDisk(), packed }).offers(F.IN_ORDER)).toBe(false)
  })

  it("FT-15 VQ-22 VQ-23 PK-21 requests return in their order, an element for each, when the disk answers backwards", async () => {
    const { one, disk } = pair(packed)
    const placed = [1, 5, 9, 13].map((sector) => one.place(read(sector)))
    const ids = send(one, placed)
    const [first, ...later] = disk.waiting.splice(0)
    for (const call of later.toReversed()) call.finish()
    await settled()
    expect([one.takeUsed(), one.irqs()]).toEqual([[], []])
    first?.finish()
    await settled()
    expect(one.takeUsed()).toEqual(ids.map((id) => ({ id, length: 513 })))
    expect(one.irqs()).toEqual([1])
    expect(placed.map((each) => [one.reply(each, 513).status, one.reply(each, 513).data[0]])).toEqual(
      [1, 5, 9, 13].map((sector) => [OK, pattern(sector, 1)[0]]),
    )
  })

  it("FT-15 requests that the device answers itself, and refused ones, wait until earlier ones complete", async () => {
    const { one, disk } = pair(packed)
    const ids = send(one, [
      one.place(read(1)),
      one.place({ type: T.GET_ID, in: 20 }),
      one.place(read(SECTORS)),
      one.place({ type: T.FLUSH }),
    ])
    await settled()
    expect(one.takeUsed()).toEqual([])
    disk.next("read").fail(eio())
    await answer(disk, (calls) => calls)
    expect(one.takeUsed().map(({ id }) => id)).toEqual(ids)
  })

  it(`FT-15 seed ${SEED}: hundreds of requests of every kind return in order, over many laps, however they are answered`, async () => {
    const rng = new Rng(SEED)
    const { one, disk } = pair(packed, { ringSize: 16 })
    const expected: number[] = []
    for (let round = 0; round < 150; round++) {
      one.top = 0x2_0000
      const count = rng.between(1, 8)
      const requests = Array.from({ length: count }, () => {
        const sector = rng.below(SECTORS - 4)
        return one.place(
          [read(sector, 2), { type: T.OUT, sector, out: pattern(sector, 1) }, { type: T.FLUSH }, read(SECTORS)][rng.below(4)] ?? read(0),
        )
      })
      expected.push(...send(one, requests))
      const back: number[] = []
      while (back.length < count) {
        await answer(disk, (calls) => rng.shuffle(calls))
        await settled()
        back.push(...one.takeUsed().map(({ id }) => id))
      }
      expect(back).toEqual(expected.splice(0))
    }
    expect(one.disk.device.brokenBy).toBeUndefined()
  })

  it("FT-15 done requests that wait for their turn are repeated, in order, when another disk takes over", async () => {
    const { one, disk } = pair(packed)
    const other = new FakeDisk({ content: pattern(7, SECTORS) })
    other.waits = () => true
    const placed = [1, 5, 9].map((sector) => one.place(read(sector)))
    const ids = send(one, placed)
    disk.waiting[1]?.finish()
    await settled()
    const changed = one.disk.device.changeBacking(other, { atOnce: true })
    await settled()
    await answer(other, (calls) => calls.toReversed())
    for (const call of disk.waiting.splice(0)) call.finish()
    await changed
    expect(one.takeUsed().map(({ id }) => id)).toEqual(ids)
    expect(placed.map((each) => one.reply(each, 513).data[0])).toEqual([1, 5, 9].map((sector) => pattern(7 + sector, 1)[0]))
  })

  it("FT-15 VQ-22 PK-21 all requests return once, in order, when another disk takes over inside each call", () => {
    const content = pattern(0, SECTORS)
    // Reads only, which are taken as rows; some that are not among them; one that fails.
    const mixed: readonly Request[] = [{ type: T.GET_ID, in: 20 }, read(SECTORS), { type: T.FLUSH }]
    for (const others of [[], mixed]) {
      for (const at of [-1, 0, 2, 4]) {
        const disk = new FakeDisk({ content })
        const { one } = pair(packed, { backing: disk })
        let calls = 0
        disk.failing = ({ offset }) => {
          if (calls++ === at) void one.disk.device.changeBacking(disk, { atOnce: true })
          return offset === 9 * 512 ? eio() : undefined
        }
        const requests: readonly Request[] = [read(1), read(5, 2), ...others, read(9), read(13), read(20)]
        const placed = requests.map((request) => one.place(request))
        const ids = send(one, placed)
        expect([at, ...one.takeUsed().map((used) => used.id)]).toEqual([at, ...ids])
        const statuses = requests.map(({ sector }) => (sector === 9 || sector === SECTORS ? IOERR : OK))
        expect(placed.map((each) => one.reply(each, 0).status)).toEqual(statuses)
        expect(one.reply(placed[1] ?? one.place(read(0)), 0).data).toEqual(pattern(5, 2))
      }
    }
  })

  it("ST-04 FT-15 a reset drops waiting requests, and without the bit requests overtake again", async () => {
    const { one, disk } = pair(packed)
    send(one, [one.place(read(1)), one.place(read(5))])
    disk.waiting[1]?.finish()
    await settled()
    one.start([F.INDIRECT_DESC])
    for (const call of disk.waiting.splice(0)) call.finish()
    await settled()
    expect(one.takeUsed()).toEqual([])
    const ids = send(one, [one.place(read(1)), one.place(read(5))])
    await answer(disk, (calls) => calls.toReversed())
    expect(one.takeUsed().map(({ id }) => id)).toEqual(ids.toReversed())
  })

  it("FT-15 a request that fails does not change the order", async () => {
    const { one, disk } = pair(packed)
    disk.failing = (call) => (call.offset === 5 * 512 ? eio() : undefined)
    const placed = [1, 5, 9].map((sector) => one.place(read(sector)))
    const ids = send(one, placed)
    await answer(disk, (calls) => calls.toReversed())
    expect([one.takeUsed().map(({ id }) => id), placed.map((each) => one.reply(each, 0).status)]).toEqual([ids, [OK, IOERR, OK]])
  })
})

describe("IN_ORDER", () => {
  it("FT-15 FT-07 the bit needs VERSION_1, and is not shown to legacy drivers", () => {
    const { one } = pair(false)
    expect(one.modern.negotiate(VERSION_1 | mask(F.IN_ORDER))).toBe(true)
    const legacy = new RingGuest({ backing: new FakeDisk(), legacy: true, disk: { withFeatures: ["IN_ORDER"] } })
    expect(legacy.offers(F.IN_ORDER)).toBe(false)
  })
})

describe.each(RINGS)("a $ring ring in order, saved while done requests wait for throttled ones", ({ packed }) => {
  const S = 512
  function held() {
    const clock = new ManualClock()
    const zoned = zonedDisk(new MemoryBacking({ size: 64 * S }), { zoneSize: 8 * S })
    const throttle = new Throttle({ readRequests: 1 }, { clock })
    const { one } = pair(packed, {
      backing: zoned, features: [F.IN_ORDER, F.ZONED, F.INDIRECT_DESC],
      disk: { withFeatures: [...(packed ? (["RING_PACKED"] as const) : []), "IN_ORDER"], throttle },
    })
    const append = { type: ZONE.APPEND, sector: 8, out: pattern(1, 1), in: 8 }
    const requests = [read(0), append, read(2), { type: T.OUT, sector: 16, out: pattern(2, 1) }, append, { type: T.OUT, sector: 0 }]
    const placed = [read(1), ...requests].map((request) => one.place(request))
    const ids = send(one, placed)
    const isDone = (): void => {
      expect(one.takeUsed().map(({ id }) => id)).toEqual(ids)
      expect(placed.map((each) => one.reply(each, 0).status)).toEqual(ids.map(() => OK))
      expect([8, 16].map((sector) => zoned.zones.report(sector * S, 1)[0]?.writePointer)).toEqual([10 * S, 17 * S])
    }
    return { clock, zoned, throttle, one, isDone }
  }

  it("FT-15 ZN-08 no done request is repeated on another disk", async () => {
    const { clock, zoned, one, isDone } = held()
    for (let changes = 0; changes < 3; changes++) await one.disk.device.changeBacking(zoned)
    await clock.pass(1500)
    await one.disk.device.changeBacking(zoned)
    await clock.pass(3000)
    isDone()
  })

  it("FT-15 ZN-08 no done request is repeated after a restore, and an invalid state is refused", async () => {
    const { clock, one, isDone } = held()
    await one.disk.device.pause()
    for (let moves = 0; moves < 2; moves++) {
      const state: unknown = JSON.parse(JSON.stringify(one.disk.device.virtio.saveState()))
      one.disk.device.virtio.restoreState(state)
    }
    const wrong = JSON.stringify(one.disk.device.virtio.saveState())
    expect(wrong).toContain('"held":[[1,')
    expect(() => one.disk.device.virtio.restoreState(JSON.parse(wrong.replace('"held":[[1,', '"held":[[7,')))).toThrow("index of a chain")
    one.disk.device.virtio.restoreState(JSON.parse(wrong))
    one.disk.device.resume()
    await clock.pass(5000)
    isDone()
  })

  it("FT-15 the descriptors of done requests, of which there may be 2^30, are not read after a restore", async () => {
    const { clock, one } = held()
    await one.disk.device.pause()
    interface Saved {
      readonly queues: { heads: number[]; chains?: { id: number; descriptors: number[] }[]; held: [number, number][] }[]
    }
    const state = JSON.parse(JSON.stringify(one.disk.device.virtio.saveState())) as Saved
    const { heads = [], chains = [], held: done = [] } = state.queues[0] ?? {}
    const indices = done.map(([index]) => index)
    expect(indices.length).toBeGreaterThan(1)
    for (const index of indices) {
      if (packed) (chains[index] ?? { descriptors: [] }).descriptors[3] = 1 << 16 // NEXT, and the buffer id is not read either
      else heads[index] = 0xffff
    }
    one.disk.device.virtio.restoreState(state)
    one.disk.device.resume()
    await clock.pass(8000)
    const ids = packed ? chains.map(({ id }) => id) : heads
    expect(one.disk.device.brokenBy).toBe(undefined)
    expect(one.takeUsed().map(({ id }) => id).slice(-ids.length)).toEqual(ids)
  })
})
