/** IN_ORDER on both kinds of ring: whatever the disk does, chains come back in the order in which they were made available. */
import { describe, expect, it } from "vitest"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { pattern } from "../../harness/requests.ts"
import { F, IOERR, mask, OK, T, VERSION_1 } from "../../harness/words.ts"
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
  it("FT-15 the bit is offered on request only", () => {
    const { one } = pair(packed)
    expect(one.offers(F.IN_ORDER)).toBe(true)
    expect(new RingGuest({ backing: new FakeDisk(), packed }).offers(F.IN_ORDER)).toBe(false)
  })

  it("FT-15 VQ-22 VQ-23 PK-21 the disk answers backwards: the first comes back before the others, an element for each", async () => {
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

  it("FT-15 what the device answers itself waits for the disk as well, and so does what is refused", async () => {
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

  it(`FT-15 seed ${SEED}: hundreds of requests of every kind, answered in any order, over many laps`, async () => {
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

  it("FT-15 another disk in the middle: what is done and waits is done again, in its order", async () => {
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

  it("ST-04 FT-15 a reset forgets what waits, and a driver without the bit is overtaken again", async () => {
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

  it("FT-15 a failure of one leaves the order of the others", async () => {
    const { one, disk } = pair(packed)
    disk.failing = (call) => (call.offset === 5 * 512 ? eio() : undefined)
    const placed = [1, 5, 9].map((sector) => one.place(read(sector)))
    const ids = send(one, placed)
    await answer(disk, (calls) => calls.toReversed())
    expect([one.takeUsed().map(({ id }) => id), placed.map((each) => one.reply(each, 0).status)]).toEqual([ids, [OK, IOERR, OK]])
  })
})

describe("IN_ORDER", () => {
  it("FT-15 FT-07 needs VERSION_1, and no legacy driver sees it", () => {
    const { one } = pair(false)
    expect(one.modern.negotiate(VERSION_1 | mask(F.IN_ORDER))).toBe(true)
    const legacy = new RingGuest({ backing: new FakeDisk(), legacy: true, disk: { withFeatures: ["IN_ORDER"] } })
    expect(legacy.offers(F.IN_ORDER)).toBe(false)
  })
})
