/** Packed rings: layout, wrap counters, chains, and the order of used descriptors. What is forbidden is in packed-queue-broken.test.ts. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { RamRegion } from "../../../src/virtio/guest-memory.ts"
import { DescriptorChain, SegmentList } from "../../../src/virtio/queue/descriptor-chain.ts"
import { PackedQueue } from "../../../src/virtio/queue/packed-queue.ts"
import { FakeDisk, settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { Cursor, PackedRing } from "../../harness/packed-ring.ts"
import { pattern } from "../../harness/requests.ts"
import { AVAIL, EVENT, F, INDIRECT, NEXT, OK, T, UNTOUCHED, USED, WRITE } from "../../harness/words.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const SECTORS = 2048
const CONTENT = pattern(0, SECTORS)

function guest(options: Partial<RingGuestOptions> = {}): RingGuest {
  const backing = new MemoryBacking({ size: 512 * SECTORS })
  backing.pwrite(CONTENT, 0)
  return new RingGuest({ backing, packed: true, machine: { ramSize: 1 << 20 }, ...options })
}

/** A guest whose disk answers when the test says so. */
function lateGuest(options: Partial<RingGuestOptions> = {}): { one: RingGuest; disk: FakeDisk } {
  const disk = new FakeDisk({ size: 512 * SECTORS })
  disk.cache.set(CONTENT)
  disk.waits = () => true
  return { one: guest({ backing: disk, ...options }), disk }
}

const read = (sector: number, sectors = 1) => ({ type: T.IN, sector, in: 512 * sectors })

function send(one: RingGuest, placed: readonly Placed[], layout = {}): number[] {
  return placed.map(({ pieces }) => {
    const id = one.chain(pieces, layout)
    one.publish([id])
    return id
  })
}

describe("the parts of a packed ring", () => {
  it.each([1, 3, 7, 100, 32768])("PK-01 FT-12 a ring of %i descriptors can be filled to the last, twice", async (size) => {
    const one = guest({ ringSize: size, disk: { queueSize: 32768 }, machine: { ramSize: 4 << 20 } })
    expect(one.ring.size).toBe(size)
    const { pieces, status } = one.place({ type: T.FLUSH })
    const table = one.table(pieces)
    for (let lap = 0; lap < 3; lap++) {
      one.fill(status, 1, UNTOUCHED)
      const ids = Array.from({ length: size }, () => one.packedRing.chainWithTable([], table, 32))
      one.publish(ids)
      one.kick()
      await one.served()
      expect(JSON.stringify(one.takeUsed()) === JSON.stringify(ids.map((id) => ({ id, length: 1 })))).toBe(true)
      expect([one.bytes(status, 1)[0], one.packedRing.device.wrap]).toEqual([OK, lap % 2 === 1])
    }
  })

  it("PK-01 a size that is no power of two is taken only with packed rings negotiated, and never above the maximum", () => {
    const sizeAfter = (packed: boolean, size: number) => {
      const one = guest({ packed, disk: { withFeatures: ["RING_PACKED"], queueSize: 256 } })
      one.registers.negotiate((1n << 32n) | (packed ? 1n << 34n : 0n))
      one.modern.setQueueRegister(0, 0x18, 2, size)
      return one.modern.queueRegister(0, 0x18, 2)
    }
    expect([1, 3, 100, 255, 256, 257, 0, 65535].map((size) => sizeAfter(true, size))).toEqual([1, 3, 100, 255, 256, 256, 256, 256])
    expect([1, 3, 100, 256].map((size) => sizeAfter(false, size))).toEqual([1, 256, 256, 256])
  })

  it("PK-01 a size that was set for a packed ring makes a device with a split one need a reset", () => {
    const one = guest({ disk: { withFeatures: ["RING_PACKED"] } })
    one.status = 0
    for (const status of [1, 3]) one.status = status
    one.registers.accept((1n << 32n) | (1n << 34n))
    one.modern.setQueueRegister(0, 0x18, 2, 5)
    one.registers.accept(1n << 32n)
    for (const [register, address] of [[0x20, 0x1_0000], [0x28, 0x2_0000], [0x30, 0x3_0000]] as const) {
      one.modern.common.write(register, 4, address)
    }
    one.modern.common.write(0x1c, 2, 1)
    for (const status of [0x0b, 0x0f]) one.status = status
    one.kick()
    expect(one.disk.device.brokenBy?.message).toMatch(/split ring of 5 descriptors, which is not a power of two/)
  })

  it("PK-02 three parts may have their least alignment, and the device writes neither beside them nor into the Driver Area", () => {
    const place = { desc: 0x1_0010, avail: 0x5_0004, used: 0x9_000c }
    const one = guest({ ringSize: 7, place, features: [F.EVENT_IDX] })
    one.packedRing.setEvents(EVENT.DESC, 0x8000)
    const before = one.bytes(place.avail, 4)
    const edges = [place.desc - 1, place.desc + 16 * 7, place.avail - 1, place.avail + 4, place.used - 1, place.used + 4]
    for (const edge of edges) one.fill(edge, 1, 0x5c)
    for (let sector = 0; sector < 20; sector++) expect(one.read(sector, 2)).toEqual({ status: OK, length: 1025, data: pattern(sector, 2) })
    expect(edges.map((edge) => one.bytes(edge, 1)[0])).toEqual(edges.map(() => 0x5c))
    expect(one.bytes(place.avail, 4)).toEqual(before)
    // 60 descriptors on: slot 4 in the ninth lap, whose wrap counter is 1.
    expect(one.packedRing.deviceEvents).toEqual({ word: 0x8004, flags: EVENT.DESC })
  })

  it("PK-02 parts may end with the last byte of RAM, but not behind it", () => {
    const ramSize = 1 << 20
    const at = (place: { desc: number; avail: number; used: number }) => {
      const one = guest({ ringSize: 4, machine: { ramSize }, place: { desc: 0x1_0000, avail: 0x2_0000, used: 0x3_0000 } })
      one.registers.negotiate((1n << 32n) | (1n << 34n))
      one.modern.enable(0, { size: 4, ...place })
      one.status = 0x0f
      one.kick()
      return one.disk.device.brokenBy?.message
    }
    const [desc, avail, used] = [0x1_0000, 0x2_0000, 0x3_0000]
    expect([
      at({ desc: ramSize - 64, avail, used }), at({ desc, avail: ramSize - 4, used }), at({ desc, avail, used: ramSize - 4 }),
    ]).toEqual([undefined, undefined, undefined])
    expect(at({ desc: ramSize - 48, avail, used })).toMatch(/descriptor ring at 0xfffd0: its 64 bytes are not in one piece of RAM/)
    expect(at({ desc, avail: ramSize - 2, used })).toMatch(/driver event suppression at 0xffffe/)
    expect(at({ desc, avail, used: ramSize })).toMatch(/device event suppression at 0x100000/)
    expect(at({ desc, avail: avail + 1, used })).toMatch(/odd address 0x20001/)
  })

  it("PK-03 PK-06 PK-12 PK-17 a request and its ring have the bytes of the specification", () => {
    const one = guest({ ringSize: 4, features: [F.EVENT_IDX], place: { desc: 0x2000, avail: 0x3000, used: 0x4000 } })
    one.store(0x2000, Uint8Array.of(
      0x00, 0x50, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0xad, 0xde, 0x81, 0x00, // 0: 0x5000, 16 bytes, junk id, NEXT and AVAIL
      0x00, 0x60, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0xad, 0xde, 0x83, 0x00, // 1: 0x6000, 512 bytes, NEXT, WRITE and AVAIL
      0xff, 0x70, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0x34, 0x12, 0x82, 0x00, // 2: 0x70ff, 1 byte, id 0x1234, WRITE and AVAIL
    ))
    one.store(0x5000, Uint8Array.of(0, 0, 0, 0, 0xab, 0xcd, 0xef, 0x01, 5, 0, 0, 0, 0, 0, 0, 0)) // IN, junk, sector 5
    one.fill(0x70fe, 3, UNTOUCHED)
    one.kick()
    // Length 513, id 0x1234, WRITE, AVAIL and USED; the rest of the ring as it was.
    expect(one.bytes(0x2008, 8)).toEqual(Uint8Array.of(1, 2, 0, 0, 0x34, 0x12, 0x82, 0x80))
    expect(one.bytes(0x2018, 8)).toEqual(Uint8Array.of(0, 2, 0, 0, 0xad, 0xde, 0x83, 0x00))
    expect(one.bytes(0x2028, 8)).toEqual(Uint8Array.of(1, 0, 0, 0, 0x34, 0x12, 0x82, 0x00))
    // The device wants to hear of slot 3 in lap 1.
    expect(one.bytes(0x4000, 4)).toEqual(Uint8Array.of(3, 0x80, 2, 0))
    expect([one.bytes(0x3000, 4), one.bytes(0x6000, 512)]).toEqual([new Uint8Array(4), pattern(5, 1)])
    expect(one.bytes(0x70fe, 3)).toEqual(Uint8Array.of(UNTOUCHED, OK, UNTOUCHED))
  })
})

describe("the kind of ring", () => {
  it("FT-14 ST-04 a reset may change the kind of ring from split to packed, past a wrap, and back", () => {
    const backing = new MemoryBacking({ size: 512 * SECTORS })
    const first = new RingGuest({ backing, machine: { ramSize: 1 << 20 }, disk: { withFeatures: ["RING_PACKED"] } })
    for (let round = 0; round < 3; round++) {
      expect(first.start()).toBe(0x0f)
      const { pieces } = first.place(read(0))
      for (let done = 0; done < 300; done++) expect(first.read(0, 1).status).toBe(OK)
      // The same with packed rings: three descriptors.
      const ring = new PackedRing(first.machine, { size: 3, place: { desc: 0x8_0000, avail: 0x8_1000, used: 0x8_1004 } }).clear()
      ring.table(pieces, 0x8_2000)
      first.registers.negotiate((1n << 32n) | (1n << 34n) | (1n << 28n))
      first.modern.enable(0, ring)
      first.status = 0x0f
      for (let done = 0; done < 4; done++) {
        const id = ring.chainWithTable([], 0x8_2000, 48)
        ring.publish(id)
        first.kick(ring)
        expect(ring.takeUsed()).toEqual([{ id, length: 513 }])
      }
    }
  })

  it("FT-07 FT-14 without VERSION_1 the ring is split, even if the driver has accepted packed ones", () => {
    const one = guest({ packed: false, disk: { withFeatures: ["RING_PACKED"] } })
    one.registers.negotiate(1n << 34n)
    const ring = one.openRing(0)
    one.status = 0x0f
    const { pieces } = one.place(read(2))
    ring.publish(ring.chain(pieces))
    one.kick(ring)
    expect(ring.takeUsed()).toEqual([{ id: 0, length: 513 }])
  })
})

describe("wrap counters", () => {
  it("PK-04 PK-05 a zeroed ring holds nothing; AVAIL without USED is available in lap 1, and USED without AVAIL in lap 2", () => {
    const one = guest({ ringSize: 1 })
    const table = one.table(one.place(read(3)).pieces)
    const seen: boolean[] = []
    for (const flags of [0, USED, AVAIL | USED, AVAIL, AVAIL, AVAIL | USED, 0, USED, USED, 0, AVAIL]) {
      one.desc(0, table, 48, flags | INDIRECT, 7)
      one.kick()
      const used = one.packedRing.descriptor(0)
      seen.push(used.flags !== (flags | INDIRECT))
      if (seen.at(-1) === true) expect(used).toMatchObject({ id: 7, length: 513, flags: WRITE | (flags === AVAIL ? AVAIL | USED : 0) })
    }
    expect(seen).toEqual([false, false, false, true, false, false, false, true, false, false, true])
    expect(one.disk.device.brokenBy).toBeUndefined()
  })

  it("PK-05 a descriptor of the lap before is not taken: AVAIL different from USED is not enough", () => {
    const one = guest({ ringSize: 4 })
    // Four chains of one descriptor; the used descriptors of lap 1 are made to look as if the driver had just written them.
    const table = one.table(one.place(read(3)).pieces)
    for (let lap = 0; lap < 2; lap++) {
      for (let slot = 0; slot < 4; slot++) one.publish([one.packedRing.chainWithTable([], table, 48)])
      one.kick()
      expect(one.takeUsed()).toHaveLength(4)
      const stale = lap === 0 ? AVAIL : USED
      for (let slot = 0; slot < 4; slot++) one.desc(slot, table, 48, INDIRECT | stale, slot)
      const before = one.bytes(one.ring.desc, 64)
      one.kick()
      expect(one.bytes(one.ring.desc, 64)).toEqual(before)
    }
  })

  it("PK-05 a list is available when its head is: the device ignores its tail alone", () => {
    const one = guest({ ringSize: 8 })
    const placed = one.place(read(9))
    const id = one.chain(placed.pieces)
    one.kick()
    expect([one.usedIdx(), one.reply(placed, 0).status]).toEqual([0, UNTOUCHED])
    one.publish([id])
    one.kick()
    expect(one.takeUsed()).toEqual([{ id, length: 513 }])
    expect(one.reply(placed, 513)).toEqual({ status: OK, length: 513, data: pattern(9, 1) })
  })

  it.each([5, 3, 4])("PK-06 PK-07 PK-09 PK-10 chains of 3 in a ring of %i: one used descriptor each, at its place", (size) => {
    const one = guest({ ringSize: size })
    const placed = one.place(read(1))
    const model = new Cursor(size)
    for (let done = 0; done < 100 * size; done++) {
      const { slot, wrap } = model
      one.fill(placed.status, 1, UNTOUCHED)
      const [id = -1] = send(one, [placed])
      const before = Array.from({ length: size }, (_, at) => one.packedRing.descriptor(at))
      one.kick()
      const used = { ...before[slot], length: 513, id, flags: WRITE | (wrap ? AVAIL | USED : 0) }
      const expected = before.map((descriptor, at) => (at === slot ? used : descriptor))
      expect(Array.from({ length: size }, (_, at) => one.packedRing.descriptor(at))).toEqual(expected)
      expect([one.takeUsed(), one.reply(placed, 0).status]).toEqual([[{ id, length: 513 }], OK])
      model.advance(3)
    }
    expect([one.packedRing.device.slot, one.packedRing.device.wrap]).toEqual([model.slot, model.wrap])
  })
})

describe("chains", () => {
  it("PK-08 PK-10 PK-24 chains of 1 to 4 descriptors, direct and indirect, may return in any order in rings of 7 and 64", async () => {
    const seed = seedFromEnvironment(20261101)
    const rng = new Rng(seed)
    for (const ringSize of [7, 64]) {
      const { one, disk } = lateGuest({ ringSize })
      const inFlight = new Map<number, { placed: Placed; slots: number; sector: number }>()
      let free = ringSize
      for (let done = 0; done < 300; ) {
        const indirect = rng.chance(0.4)
        const cuts = rng.between(1, 2)
        const slots = indirect ? 1 : 2 + cuts
        if (slots <= free && rng.chance(0.6)) {
          const sector = 3 * rng.below(600)
          const placed = one.place(read(sector))
          const [head, data, status] = placed.pieces
          if (head === undefined || data === undefined || status === undefined) throw new Error("three pieces")
          const half = [{ ...data, length: 100 }, { ...data, address: Number(data.address) + 100, length: 412 }]
          const id = rng.pick([0xffff, 0x1234, rng.below(0x1_0000), rng.below(0x1_0000)])
          if (inFlight.has(id)) continue
          const pieces = [head, ...(cuts === 1 ? [data] : half), status]
          const { packedRing } = one
          if (indirect) packedRing.chainWithTable([], one.table(pieces), 16 * pieces.length, id)
          else packedRing.chain(pieces, { id })
          one.publish([id])
          inFlight.set(id, { placed, slots, sector })
          free -= slots
          if (rng.chance(0.5)) one.kick()
          continue
        }
        one.kick()
        if (disk.waiting.length === 0) continue
        for (const waiting of rng.shuffle(disk.waiting.splice(0)).slice(0, rng.between(1, 4))) waiting.finish()
        await settled()
        for (const { id, length } of one.takeUsed()) {
          const request = inFlight.get(id)
          if (request === undefined) throw new Error(`seed ${seed}: id ${id} came back, and is not in flight`)
          expect([length, one.reply(request.placed, length)]).toEqual([513, { status: OK, length, data: pattern(request.sector, 1) }])
          inFlight.delete(id)
          free += request.slots
          done++
        }
        if (inFlight.size === 0) one.top = 0x2000
        for (const left of disk.waiting.splice(0)) left.finish()
        await settled()
      }
      expect(one.disk.device.brokenBy).toBeUndefined()
    }
  })

  it("PK-11 PK-21 each chain gets one used descriptor, in the order of completion, with its id", async () => {
    const { one, disk } = lateGuest({ ringSize: 8 })
    expect(one.offers(F.IN_ORDER)).toBe(false)
    const ids = send(one, [one.place(read(1)), one.place(read(4))], { indirect: true })
    one.kick()
    disk.waiting[1]?.finish()
    await settled()
    expect(one.packedRing.descriptor(0)).toMatchObject({ id: ids[1], length: 513, flags: WRITE | AVAIL | USED })
    // The first chain's descriptor was there; it is in flight all the same.
    disk.waiting[0]?.finish()
    await settled()
    expect(one.packedRing.descriptor(1)).toMatchObject({ id: ids[0], length: 513, flags: WRITE | AVAIL | USED })
    expect(one.takeUsed().map(({ id }) => id)).toEqual([ids[1], ids[0]])
  })

  it("PK-09 PK-24 a chain has the id of its last descriptor, which may be reused once it is back", () => {
    const one = guest({ ringSize: 4 })
    for (const id of [0xffff, 0x1234, 0, 0xffff, 0xffff, 4, 3]) {
      const placed = one.place(read(5))
      one.packedRing.chain(placed.pieces, { id })
      one.publish([id])
      one.kick()
      expect([one.takeUsed(), one.reply(placed, 513).status]).toEqual([[{ id, length: 513 }], OK])
    }
  })

  it("PK-24 two chains may have the same id at once: each comes back", () => {
    const one = guest({ ringSize: 8 })
    const placed = [one.place(read(1)), one.place(read(2))]
    for (const { pieces } of placed) one.packedRing.chain(pieces, { id: 9 })
    for (const slot of [3, 0]) one.packedRing.setFlags(slot, NEXT | AVAIL)
    one.kick()
    expect(placed.map((each) => one.reply(each, 0).status)).toEqual([OK, OK])
    expect([0, 3].map((slot) => one.packedRing.descriptor(slot))).toMatchObject([{ id: 9, flags: 0x8082 }, { id: 9, flags: 0x8082 }])
  })

  it("PK-12 PK-14 a write returns WRITE and length 1, for the status byte, without NEXT", () => {
    const one = guest({ ringSize: 8 })
    const placed = one.place({ type: T.OUT, sector: 7, out: pattern(100, 1) })
    const [id] = send(one, [placed])
    one.kick()
    expect(one.packedRing.descriptor(0)).toMatchObject({ id, length: 1, flags: WRITE | AVAIL | USED })
    expect(one.takeUsed()).toEqual([{ id, length: 1 }])
    expect(one.read(7, 1).data).toEqual(pattern(100, 1))
  })

  it("PK-15 an indirect table's WRITE counts, not the slot's own, and the id is that of the slot", () => {
    const one = guest({ ringSize: 4 })
    for (const junk of [0, NEXT, INDIRECT, AVAIL, USED, 0xfffd]) {
      for (const own of [0, WRITE]) {
        const placed = one.place(read(6))
        const table = one.table(placed.pieces)
        for (let entry = 0; entry < 3; entry++) {
          const at = table + 16 * entry + 14
          one.data.setUint16(at, one.data.getUint16(at, true) | junk, true)
        }
        const id = one.packedRing.put([{ address: table, length: 48, flags: INDIRECT | own }], 0x4321)
        one.publish([id])
        one.kick()
        expect(one.takeUsed()).toEqual([{ id: 0x4321, length: 513 }])
        expect(one.reply(placed, 513)).toEqual({ status: OK, length: 513, data: pattern(6, 1) })
      }
    }
  })

  it("PK-15 PK-16 chains may be direct and indirect in one ring, and a table may have more entries than the ring", () => {
    const one = guest({ ringSize: 5 })
    for (let round = 0; round < 9; round++) {
      expect(one.read(round, 1, { indirect: round % 2 === 0 }).data).toEqual(pattern(round, 1))
      const placed = one.place(read(round, 2))
      const [head, data, status] = placed.pieces
      if (head === undefined || data === undefined || status === undefined) throw new Error("three pieces")
      const bytes = Array.from({ length: 1022 }, (_, at) => ({ ...data, address: Number(data.address) + at, length: at < 1021 ? 1 : 3 }))
      expect(one.runPieces([head, ...bytes, status], { indirect: true })).toBe(1025)
      expect(one.reply(placed, 1025).data).toEqual(pattern(round, 2))
      one.top = 0x2000
    }
  })
})

describe("stores into RAM", () => {
  it("PK-13 id and length are stored before the flags, or with them, and the slot does not change afterwards", () => {
    const bytes = new Uint8Array(0x1000)
    const stores: string[] = []
    /** RAM that notes which numbers are stored where. */
    class Noted extends RamRegion {
      override numbers(buffer: ArrayBufferLike, byteOffset: number, length: number): DataView {
        const view = new DataView(buffer, byteOffset, length)
        for (const [name, width] of [["setUint32", 4], ["setUint16", 2]] as const) {
          const store = view[name].bind(view)
          view[name] = (at, value, isLittle) => {
            stores.push(`${width} bytes at ${byteOffset + at}`)
            store(at, value, isLittle)
          }
        }
        return view
      }
    }
    const region = new Noted(0, bytes)
    const ram = new DataView(bytes.buffer)
    for (let slot = 0; slot < 4; slot++) {
      ram.setUint32(16 * slot, 0x800, true)
      ram.setUint32(16 * slot + 8, 16, true)
      ram.setUint16(16 * slot + 12, 40 + slot, true)
      ram.setUint16(16 * slot + 14, WRITE | AVAIL, true)
    }
    const memory = { generation: 0, region: () => region }
    const areas = { size: 4, descriptorTable: 0, availRing: 0x100, usedRing: 0x200 }
    const queue = new PackedQueue(memory, areas, { indirect: false, eventIdx: false, notifyOnEmpty: false, packed: true, inOrder: false })
    const chains = [0, 1].map(() => {
      const chain = new DescriptorChain(new SegmentList())
      expect(queue.pop(chain)).toBe(true)
      return chain
    })
    expect(chains.map(({ head }) => head)).toEqual([40, 41])
    stores.length = 0
    for (const chain of chains) queue.addUsed(chain, 16)
    expect(queue.publish()).toBe(true)
    expect(stores).toEqual([0, 16].flatMap((at) => [`4 bytes at ${at + 8}`, `4 bytes at ${at + 12}`]))
  })

  it("PK-13 PK-21 chains that return as rows and one by one leave RAM the same, over the end of the ring too", () => {
    const areas = { size: 6, descriptorTable: 0, availRing: 0x100, usedRing: 0x200 }
    const features = { indirect: true, eventIdx: false, notifyOnEmpty: false, packed: true, inOrder: false }
    for (const shared of [false, true]) {
      for (const slots of [[], [1], [6], [3, 3], [2, 1], [1, 2, 3], [1, 1, 1, 1, 1, 1], [5], [3, 2]]) {
        for (let position = 0; position < 12; position++) {
          const made = [0, 1].map(() => {
            const region = new RamRegion(0, new Uint8Array(shared ? new SharedArrayBuffer(0x1000) : new ArrayBuffer(0x1000)))
            region.bytes.fill(0x5c)
            const saved = { position: (position % 6) | (position < 6 ? 0 : 0x8000), heads: [], chains: [] }
            return { region, queue: new PackedQueue({ generation: 0, region: () => region }, areas, features, saved) }
          })
          const [one, other] = made
          if (one === undefined || other === undefined) throw new Error("two queues")
          const rows = new Uint32Array(8 * slots.length)
          for (const [index, count] of slots.entries()) {
            rows.set([40 + index, count, 500 + index], 8 * index)
            const place = (position % 6) + slots.slice(0, index).reduce((sum, more) => sum + more, 0)
            one.queue.addUsed({ head: 40 + index, place, slots: count }, 500 + index)
          }
          other.queue.addUsedRows(rows, slots.length)
          const what = `chains of ${slots.join(" and ")} descriptors from ${position} on${shared ? ", shared" : ""}`
          expect(what + Buffer.from(other.region.bytes).toString("hex", 0, 0x60)).toBe(
            what + Buffer.from(one.region.bytes).toString("hex", 0, 0x60),
          )
          expect([what, other.queue.save([])]).toEqual([what, one.queue.save([])])
        }
      }
    }
  })

  it("PK-02 PK-13 every stored byte is announced, over the end of the ring too", () => {
    const announced: (readonly [number, number])[] = []
    const written = (at: number, length: number) => void announced.push([at, length])
    const one = guest({ ringSize: 5, features: [F.INDIRECT_DESC, F.EVENT_IDX], machine: { ramSize: 1 << 16, written } })
    for (let round = 0; round < 12; round++) {
      const placed = one.place(read(round))
      send(one, [placed], { indirect: round % 3 === 0 })
      const before = one.machine.ram.slice()
      announced.length = 0
      one.kick()
      const isAnnounced = (at: number) => announced.some(([start, length]) => at >= start && at < start + length)
      expect(one.machine.ram.findIndex((byte, at) => byte !== before[at] && !isAnnounced(at))).toBe(-1)
      expect(one.takeUsed()).toHaveLength(1)
    }
  })
})
