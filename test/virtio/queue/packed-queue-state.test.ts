/** The state of a packed ring, saved and restored: wrap counters, and chains in flight whose descriptors are not in the ring any more. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { Displaced } from "../../../src/virtio/queue/displaced.ts"
import type { AttachedDisk } from "../../../src/vmm/machine.ts"
import { FakeDisk, settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest } from "../../harness/guest.ts"
import { pattern } from "../../harness/requests.ts"
import { OK, T } from "../../harness/words.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const SECTORS = 2048
const CONTENT = pattern(0, SECTORS)
const DISK = { slot: 4, withFeatures: ["RING_PACKED"] } as const

interface State {
  readonly device: { readonly features: number[]; readonly queues: Record<string, unknown>[] }
}

const saved = (disk: AttachedDisk): State => JSON.parse(JSON.stringify(disk.function.saveState())) as State
const read = (sector: number) => ({ type: T.IN, sector, in: 512 })

function lateDisk(content = CONTENT): FakeDisk {
  const disk = new FakeDisk({ content: content.slice() })
  disk.waits = () => true
  return disk
}

function guest(backing: FakeDisk | MemoryBacking, ringSize = 8): RingGuest {
  return new RingGuest({ backing, packed: true, ringSize, disk: DISK, machine: { ramSize: 1 << 20 } })
}

function send(one: RingGuest, sector: number, layout = {}): { id: number; placed: Placed } {
  const placed = one.place(read(sector))
  const id = one.chain(placed.pieces, layout)
  one.publish([id])
  one.kick()
  return { id, placed }
}

/** Puts `backing` in place of the guest's disk, with the state that it had. */
function move(one: RingGuest, backing: FakeDisk | MemoryBacking, state: unknown): AttachedDisk {
  one.machine.detachDisk(4)
  const again = one.machine.attachDisk(backing, DISK)
  again.function.restoreState(state)
  again.device.resume()
  return again
}

describe("the state of a packed ring", () => {
  it("PK-04 PK-07 the state has slot and wrap counter, in every lap", async () => {
    const backing = new MemoryBacking({ size: 512 * SECTORS })
    backing.pwrite(CONTENT, 0)
    const one = guest(backing, 5)
    for (let round = 0; round < 14; round++) {
      const { id, placed } = send(one, round, { indirect: round % 2 === 0 })
      expect([one.takeUsed(), one.reply(placed, 0)]).toEqual([[{ id, length: 513 }], { status: OK, length: 0, data: pattern(round, 1) }])
      const state = saved(one.disk)
      expect(state.device.queues[0]).toMatchObject({ position: one.packedRing.device.word, heads: [], chains: [] })
      Object.assign(one, { disk: move(one, backing, state) })
      expect(saved(one.disk)).toEqual(state)
    }
  })

  it("the state of an unused queue lets any later ring begin at its start", () => {
    const one = guest(new MemoryBacking({ size: 512 * SECTORS }))
    one.status = 0
    const state = saved(one.disk)
    expect(state.device.queues[0]).toMatchObject({ position: 0, heads: [] })
    Object.assign(one, { disk: move(one, new MemoryBacking({ size: 512 * SECTORS }), state) })
    one.start()
    expect(one.read(0, 1).status).toBe(OK)
    const live = saved(one.disk)
    Object.assign(one, { disk: move(one, new MemoryBacking({ size: 512 * SECTORS }), live) })
    expect(one.read(0, 1).status).toBe(OK)
  })

  it("PK-08 PCI-36 the state has chains in flight, even if used descriptors and new chains have taken their slots", async () => {
    const disk = lateDisk()
    const one = guest(disk)
    const [a, b] = [send(one, 7), send(one, 100, { indirect: true })]
    const c = send(one, 200)
    // The second comes back first, over the head of the first; and a chain of two tables takes slot 7 and slot 0.
    disk.waiting[1]?.finish()
    await settled()
    expect(one.takeUsed().map(({ id }) => id)).toEqual([b.id])
    const d = send(one, 300, { indirect: true })
    expect(one.packedRing.driver.word).toBe(0)
    const moved = [a, c, d]
    one.registers.command = 3
    for (const waiting of disk.waiting) waiting.finish()
    await one.disk.device.pause()
    const state = saved(one.disk)
    const chains = state.device.queues[0]?.["chains"] as { id: number; descriptors: number[] }[]
    expect(chains.map(({ id, descriptors }) => [id, descriptors.length / 4])).toEqual([[a.id, 3], [c.id, 3], [d.id, 1]])
    expect(chains[0]?.descriptors[0]).toBe(a.placed.header)

    const other = lateDisk(pattern(1000, SECTORS))
    other.waits = () => false
    const again = move(one, other, state)
    expect([one.usedIdx(), saved(again)]).toEqual([1, state])
    one.registers.command = 7
    expect(one.takeUsed().map(({ id }) => id)).toEqual(moved.map(({ id }) => id))
    expect(moved.map(({ placed }) => one.reply(placed, 0).data)).toEqual([1007, 1200, 1300].map((sector) => pattern(sector, 1)))
    for (let round = 0; round < 20; round++) expect(one.read(round, 1).data).toEqual(pattern(1000 + round, 1))
  })

  it("PK-08 PK-11 a ring can be saved and restored at any point: each request ends once, with its data", async () => {
    const seed = seedFromEnvironment(20261105)
    const rng = new Rng(seed)
    const one = guest(lateDisk(), 9)
    let disk = one.disk.device.backing as FakeDisk
    const inFlight = new Map<number, { placed: Placed; sector: number; slots: number }>()
    let [free, done, moves] = [9, 0, 0]
    const settle = async (count: number) => {
      for (const waiting of rng.shuffle(disk.waiting.splice(0)).slice(0, count)) waiting.finish()
      await settled()
    }
    const take = () => {
      for (const { id, length } of one.takeUsed()) {
        const request = inFlight.get(id)
        if (request === undefined) throw new Error(`seed ${seed}: id ${id} came back, and is not in flight`)
        expect([length, one.reply(request.placed, 0).data]).toEqual([513, pattern(request.sector, 1)])
        inFlight.delete(id)
        free += request.slots
        done++
      }
    }
    while (done < 250) {
      const indirect = rng.chance(0.5)
      const slots = indirect ? 1 : 3
      if (slots <= free && rng.chance(0.7)) {
        const sector = rng.below(SECTORS)
        if (inFlight.size === 0) one.top = 0x2000
        const { id, placed } = send(one, sector, { indirect })
        inFlight.set(id, { placed, sector, slots })
        free -= slots
      } else if (rng.chance(0.4)) {
        // Nothing can be saved while a call is out: what is answered while bus mastering is off stays in flight.
        const kept = disk.waiting.splice(0)
        one.registers.command = 3
        for (const waiting of kept) waiting.finish()
        await one.disk.device.pause()
        disk = lateDisk()
        const state = saved(one.disk)
        Object.assign(one, { disk: move(one, disk, state) })
        expect(saved(one.disk)).toEqual(state)
        one.registers.command = 7
        moves++
      } else if (disk.waiting.length > 0) {
        // Those that are not answered now are answered later: never all at once.
        const all = rng.shuffle(disk.waiting.splice(0))
        const now = all.splice(0, rng.between(1, all.length))
        disk.waiting.push(...all)
        for (const waiting of now) waiting.finish()
        await settled()
      }
      take()
      expect(one.disk.device.brokenBy).toBeUndefined()
    }
    while (inFlight.size > 0) {
      await settle(99)
      take()
    }
    expect(moves).toBeGreaterThan(20)
  })

  it("PK-08 displaced descriptors are kept as long as their chain is in flight", () => {
    const displaced = new Displaced()
    const chain = (place: number, slots: number) => ({ head: 0, place, slots })
    const words = (from: number, to: number) => Array.from({ length: to - from }, (_, at) => displaced.at(from + at)?.[0])
    // Chains at 0 to 2, 3 to 4, 5 and 6 to 8 come back in the order 3, 6, 0, 5.
    displaced.pass(chain(3, 2), 0, (place) => [place])
    expect(words(0, 9)).toEqual([0, 1, ...Array<undefined>(7)])
    displaced.pass(chain(6, 3), 2, (place) => [place])
    expect(words(0, 9)).toEqual([0, 1, 2, ...Array<undefined>(6)])
    displaced.pass(chain(0, 3), 5, (place) => [place])
    expect(words(0, 9)).toEqual([undefined, undefined, undefined, undefined, undefined, 5, ...Array<undefined>(3)])
    displaced.pass(chain(5, 1), 8, (place) => [place])
    expect(words(0, 9)).toEqual(Array<undefined>(9))
  })

  it.each<[string, Record<string, unknown>, RegExp]>([
    ["a slot that the ring does not have", { position: 0x8008 }, /^saved state: slot 8 in a queue of 8$/],
    ["an invalid position", { position: 0x1_0000 }, /^saved state: queue position: 65536 is not a number from 0 to 65535$/],
    ["chains that are not a list", { chains: 7 }, /^saved state: chains: not a list$/],
    ["half a descriptor", { chains: [{ id: 1, descriptors: [1, 2, 3] }] }, /^saved state: 3 words are not the descriptors of a chain$/],
    ["a chain of nothing", { chains: [{ id: 1, descriptors: [] }] }, /^saved state: 0 words are not the descriptors of a chain$/],
    ["a buffer id of 17 bits", { chains: [{ id: 0x1_0000, descriptors: [0, 0, 0, 0] }] }, /^saved state: buffer id: 65536/],
    [
      "more descriptors in flight than there are",
      { chains: Array.from({ length: 9 }, () => ({ id: 1, descriptors: [0, 0, 0, 0] })) },
      /^saved state: 9 descriptors in flight in a queue of 8$/,
    ],
    ["a size of 0", { size: 0 }, /^saved state: queue size 0/],
  ])("is refused with %s", (_, damage, message) => {
    const one = guest(new MemoryBacking({ size: 512 * SECTORS }))
    expect(one.read(0, 1).status).toBe(OK)
    const state = saved(one.disk)
    Object.assign(state.device.queues[0] ?? {}, damage)
    expect(() => one.disk.function.restoreState(state)).toThrow(message)
  })

  it.each<[string, number[], RegExp]>([
    ["outside of RAM", [0xfff0_0000, 0, 16, 1], /is not RAM, chain in slot 0/],
    ["a chain that does not end", [0x1000, 0, 16, 0x1_0000], /does not end within the 1 descriptors/],
    ["a table outside of RAM", [0xfff0_0000, 0, 16, 0x4_0000], /indirect table at 0xfff00000/],
    ["no status", [0x1000, 0, 16, 0], /no writable byte for a status/],
  ])("a wrong chain makes the device need a reset: %s", (_, descriptors, reason) => {
    const one = guest(new MemoryBacking({ size: 512 * SECTORS }))
    expect(one.read(0, 1).status).toBe(OK)
    const state = saved(one.disk)
    Object.assign(state.device.queues[0] ?? {}, { chains: [{ id: 3, descriptors }] })
    one.disk.function.restoreState(state)
    one.disk.device.resume()
    expect(one.disk.device.brokenBy?.message).toMatch(reason)
  })

  it("is refused if the device offers no packed rings", () => {
    const one = guest(new MemoryBacking({ size: 512 * SECTORS }))
    const state = saved(one.disk)
    one.machine.detachDisk(4)
    const again = one.machine.attachDisk(new MemoryBacking({ size: 512 * SECTORS }), { slot: 4 })
    expect(() => again.function.restoreState(state)).toThrow(/uses features that this device does not offer/)
  })
})
