/**
 * Split rings: layout, indices, and every shape of chain that the specification allows. What it forbids is in split-queue-broken.test.ts.
 */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { header, pattern, ranges } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { F, IOERR, NEXT, OK, T, UNTOUCHED, WRITE } from "../../harness/words.ts"

const SECTORS = 2048
const CONTENT = pattern(0, SECTORS)

function guest(options: Partial<RingGuestOptions> = {}): RingGuest {
  const backing = new MemoryBacking({ size: 512 * SECTORS })
  backing.pwrite(CONTENT, 0)
  return new RingGuest({ backing, ...options })
}

/** Cuts a stretch of RAM into pieces of these lengths; the last takes what is left. Pieces that touch are as good as others. */
function cut(address: number, length: number, lengths: readonly number[], writable: boolean): Piece[] {
  const pieces: Piece[] = []
  let done = 0
  for (const part of [...lengths, Infinity]) {
    const size = Math.min(part, length - done)
    if (part === Infinity && size === 0) break
    pieces.push({ address: address + done, length: size, writable })
    done += size
  }
  return pieces
}

describe("the parts of a split ring", () => {
  it("VQ-01 the parts may have their least alignment, in distant pages, and the device writes nowhere else", () => {
    const place = { desc: 0x1_0010, avail: 0x5_0002, used: 0x9_0004 }
    const one = guest({ ringSize: 8, place })
    const edges = [place.desc - 1, place.desc + 16 * 8, place.avail - 1, place.avail + 6 + 2 * 8, place.used - 1, place.used + 6 + 8 * 8]
    for (const edge of edges) one.fill(edge, 1, 0x5c)
    for (let sector = 0; sector < 20; sector++) expect(one.read(sector, 2)).toEqual({ status: OK, length: 1025, data: pattern(sector, 2) })
    expect(edges.map((edge) => one.bytes(edge, 1)[0])).toEqual(edges.map(() => 0x5c))
    expect(one.usedIdx()).toBe(20)
  })

  it("VQ-01 the parts may end with the last byte of RAM, but not behind it", () => {
    const ramSize = 1 << 20
    const at = (used: number) => guest({ ringSize: 8, machine: { ramSize }, place: { desc: 0x1_0000, avail: 0x2_0000, used } })
    expect(at(ramSize - 72).read(1, 1).status).toBe(OK)
    const used = 6 + 8 * 8
    const beyond = at(ramSize - 72)
    beyond.status = 0
    for (const status of [1, 3]) beyond.status = status
    beyond.registers.accept(1n << 32n)
    beyond.status = 0x0b
    beyond.modern.common.write(0x18, 2, 8)
    for (const [register, address] of [[0x20, 0x1_0000], [0x28, 0x2_0000], [0x30, ramSize - used + 2]] as const) {
      beyond.modern.common.write(register, 4, address)
    }
    beyond.modern.common.write(0x1c, 2, 1)
    beyond.status = 0x0f
    beyond.kick()
    expect(beyond.disk.device.brokenBy?.message).toMatch(/used ring/)
  })

  it.each([1, 2, 4, 256, 32768])("VQ-02 VQ-13 a ring of %i descriptors can be filled to the last, twice", async (size) => {
    const one = guest({ ringSize: size, disk: { queueSize: Math.max(size, 256) } })
    // One table for all: only heads differ.
    const { pieces, status } = one.place({ type: T.FLUSH })
    const table = one.table(pieces)
    for (let index = 0; index < size; index++) one.desc(index, table, 32, 4)
    const heads = Array.from({ length: size }, (_, index) => (index * 5 + 3) % size)
    for (const order of [heads, heads.toReversed()]) {
      one.fill(status, 1, UNTOUCHED)
      one.publish(order)
      one.kick()
      await one.served()
      // As text: to print how two lists of 32768 objects differ takes minutes.
      expect(JSON.stringify(one.takeUsed()) === JSON.stringify(order.map((id) => ({ id, length: 1 })))).toBe(true)
      expect(one.bytes(status, 1)).toEqual(Uint8Array.of(OK))
    }
  })

  it("VQ-03 BLK-01 a request and its rings have the bytes of the specification", () => {
    const one = guest({ ringSize: 4, place: { desc: 0x2000, avail: 0x3000, used: 0x4000 } })
    one.store(0x2000, Uint8Array.of(
      0x00, 0x50, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 2, 0, // 0: 0x5000, 16 bytes, NEXT, 2
      0xff, 0x70, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0xff, 0xff, // 1: 0x70ff, 1 byte, WRITE
      0x00, 0x60, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 3, 0, 1, 0, // 2: 0x6000, 512 bytes, NEXT and WRITE, 1
    ))
    one.store(0x5000, Uint8Array.of(0, 0, 0, 0, 0xab, 0xcd, 0xef, 0x01, 5, 0, 0, 0, 0, 0, 0, 0)) // IN, junk, sector 5
    one.fill(0x70fe, 3, UNTOUCHED)
    one.store(0x3000, Uint8Array.of(0, 0, 1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 0, 0)) // flags 0, idx 1, ring[0] = 0
    one.kick()
    // idx 1, {0, 513}
    expect(one.bytes(0x4000, 6 + 8 * 4)).toEqual(Uint8Array.of(0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 0, 0, ...new Uint8Array(26)))
    expect(one.bytes(0x6000, 512)).toEqual(pattern(5, 1))
    expect(one.bytes(0x70fe, 3)).toEqual(Uint8Array.of(UNTOUCHED, OK, UNTOUCHED))
  })

  it("VQ-03 VQ-28 avail_event lies behind the used ring, and used_event behind the available one", () => {
    const one = guest({ ringSize: 4, features: [F.EVENT_IDX, F.INDIRECT_DESC], place: { desc: 0x2000, avail: 0x3000, used: 0x4000 } })
    one.ring.usedEvent = 1
    expect(one.read(0, 1, { indirect: true }).status).toBe(OK)
    expect([one.queueIrqs(), one.bytes(0x4000 + 4 + 8 * 4, 2)]).toEqual([0, Uint8Array.of(1, 0)])
    one.store(0x3000 + 4 + 2 * 4, Uint8Array.of(1, 0))
    expect(one.read(0, 1, { indirect: true }).status).toBe(OK)
    expect([one.queueIrqs(), one.bytes(0x4000 + 4 + 8 * 4, 2)]).toEqual([1, Uint8Array.of(2, 0)])
  })

  it("VQ-04 indices run past 65535: 70,000 requests pass a ring of 4", () => {
    const one = guest({ ringSize: 4 })
    const placed = one.place({ type: T.IN, sector: 7, in: 512 })
    one.chain(placed.pieces)
    for (let done = 1; done <= 70_000; done++) {
      one.publish([0])
      one.kick()
      if (one.usedIdx() !== done % 65536 || one.ring.usedEntry(done - 1).length !== 513) {
        throw new Error(`request ${done}: used.idx is ${one.usedIdx()}`)
      }
      one.data.setUint32(one.ring.used + 4 + 8 * ((done - 1) % 4) + 4, 0xbad, true)
    }
    expect(one.usedIdx()).toBe(70_000 % 65536)
    expect(one.reply(placed, 513)).toEqual({ status: OK, length: 513, data: pattern(7, 1) })
  })
})

describe("chains", () => {
  it("VQ-06 only used ring, status and device-writable data change, and old content of writable buffers does not matter", () => {
    const one = guest({
      features: [F.EVENT_IDX, F.INDIRECT_DESC, F.FLUSH, F.DISCARD, F.WRITE_ZEROES],
      ringSize: 16,
      machine: { ramSize: 1 << 17 },
    })
    const requests = [
      { type: T.IN, sector: 3, in: 1024 },
      { type: T.OUT, sector: 9, out: pattern(0, 3) },
      { type: T.FLUSH },
      { type: T.GET_ID, in: 20 },
      { type: T.WRITE_ZEROES, out: ranges({ sector: 20, sectors: 2 }) },
      { type: T.DISCARD, out: ranges({ sector: 30, sectors: 2 }) },
      { type: 99, in: 64, out: pattern(1, 1) },
      { type: T.IN, sector: SECTORS, in: 512 },
    ]
    for (const request of requests) {
      for (const layout of [{}, { indirect: true }, { indirect: true, direct: 1 }]) {
        const placed = one.place(request)
        const head = one.chain(placed.pieces, layout)
        one.publish([head])
        const before = one.machine.ram.slice()
        one.kick()
        const after = one.machine.ram.slice()
        const expected = before.slice()
        const { used, size } = one.ring
        for (const [address, length] of [[used, 6 + 8 * size], [placed.status, 1], [placed.in, placed.inLength]] as const) {
          expected.set(after.subarray(address, address + length), address)
        }
        expect(Buffer.compare(after, expected)).toBe(0)
        expect(one.takeUsed()).toHaveLength(1)
      }
    }
  })

  it("VQ-08 BLK-01 a chain may have the header in 16 pieces, parts that share a descriptor, and one byte a descriptor", () => {
    const one = guest({ ringSize: 256, disk: { queueSize: 2048 } })
    const out = Uint8Array.from([...header({ type: T.OUT, sector: 11 }), ...pattern(40, 1)])
    const readable = one.alloc(out.length)
    const writable = one.alloc(513)
    const write = (lengths: readonly number[]) => {
      one.fill(writable, 1, UNTOUCHED)
      one.store(readable, out)
      expect(
        one.runPieces([...cut(readable, out.length, lengths, false), { address: writable, length: 1, writable: true }], { indirect: true }),
      ).toBe(1)
      expect(one.read(11, 1).data).toEqual(pattern(40, 1))
      expect(one.write(11, new Uint8Array(512)).status).toBe(OK)
    }
    const read = (headerLengths: readonly number[], lengths: readonly number[]) => {
      one.fill(writable, 513, 0xa5)
      one.store(readable, header({ type: T.IN, sector: 12 }))
      expect(
        one.runPieces([...cut(readable, 16, headerLengths, false), ...cut(writable, 513, lengths, true)], { indirect: true }),
      ).toBe(513)
      expect(one.bytes(writable, 513)).toEqual(Uint8Array.from([...pattern(12, 1), OK]))
    }
    const ones = (count: number) => Array.from({ length: count }, () => 1)
    for (const lengths of [ones(16), [], [15, 2], [17], [16], [8, 8, 1], ones(528)]) write(lengths)
    for (const [head, data] of [
      [ones(16), [512]], [[], []], [[4, 12], [511]], [[1], [1, 510]], [[15], ones(512)], [[8], [256, 256]],
    ] as const) {
      read(head, data)
    }
  })

  it("VQ-08 VQ-12 VQ-16 a request may be split anywhere into descriptors, empty ones among them, direct, indirect and both", () => {
    const rng = new Rng(seedFromEnvironment(20260801))
    const one = guest({ ringSize: 64 })
    const lengths = (total: number) => {
      const parts: number[] = []
      for (let left = total; left > 0 && parts.length < 12; left -= parts.at(-1) ?? 0) {
        parts.push(rng.chance(0.15) ? 0 : rng.between(1, Math.min(left, rng.pick([3, 40, 600]))))
      }
      return parts
    }
    const readable = one.alloc(16 + 1024)
    const writable = one.alloc(1025)
    for (let round = 0; round < 2000; round++) {
      const sector = rng.below(SECTORS - 2)
      const isRead = rng.chance(0.5)
      const data = rng.bytes(1024)
      one.store(readable, header({ type: isRead ? T.IN : T.OUT, sector, reserved: rng.u32() }))
      one.store(readable + 16, data)
      one.fill(writable, 1025, 0xa5)
      const pieces = [
        ...cut(readable, isRead ? 16 : 1040, lengths(isRead ? 16 : 1040), false),
        ...cut(writable, isRead ? 1025 : 1, lengths(isRead ? 1025 : 1), true)
      ]
      const layout = rng.pick([{}, { indirect: true }, { indirect: true, direct: rng.below(pieces.length) }])
      const length = one.runPieces(pieces, layout)
      expect([length, one.bytes(writable + (isRead ? 1024 : 0), 1)[0]]).toEqual([isRead ? 1025 : 1, OK])
      if (isRead) expect(Buffer.compare(one.bytes(writable, 1024), one.read(sector, 2).data)).toBe(0)
      else expect(Buffer.compare(data, one.read(sector, 2).data)).toBe(0)
      one.top = writable + 1100
    }
  })

  it("VQ-09 next is ignored without NEXT", () => {
    const one = guest()
    const { header: at, in: data, status, pieces } = one.place({ type: T.IN, sector: 2, in: 512 })
    for (const next of [0, 1, 2, 255, 256, 0xffff]) {
      one.desc(0, at, 16, NEXT, 1)
      one.desc(1, data, 512, NEXT | WRITE, 2)
      one.desc(2, status, 1, WRITE, next)
      one.publish([0])
      one.kick()
      expect(one.takeUsed()).toEqual([{ id: 0, length: 513 }])
      const table = one.table(pieces)
      one.writeEntry(table, 2, status, 1, WRITE, next)
      one.desc(7, table, 48, 4, next)
      one.publish([7])
      one.kick()
      expect(one.takeUsed()).toEqual([{ id: 7, length: 513 }])
    }
  })

  it("VQ-12 a chain may have descriptors without a byte anywhere, with any address", () => {
    const one = guest()
    const placed = one.place({ type: T.IN, sector: 8, in: 1024 })
    const nothing = (writable: boolean): Piece => ({ address: 0xffff_ffff_ffff_ffffn, length: 0, writable })
    const [head, data, status] = placed.pieces as [Piece, Piece, Piece]
    const chains = [
      [nothing(false), head, data, status],
      [head, nothing(false), data, status],
      [head, nothing(true), data, status],
      [head, data, nothing(true), status],
      [head, data, status, nothing(true)],
      [nothing(false), nothing(false), head, nothing(true), data, nothing(true), nothing(true), status, nothing(true)],
    ]
    for (const pieces of chains) {
      for (const layout of [{}, { indirect: true }, { indirect: true, direct: 2 }]) {
        one.fill(placed.in, 1024, 0xa5)
        one.fill(placed.status, 1, UNTOUCHED)
        expect(one.reply(placed, one.runPieces(pieces, layout))).toEqual({ status: OK, length: 1025, data: pattern(8, 2) })
      }
    }
  })

  it("VQ-13 a chain may have as many direct descriptors as the ring", () => {
    for (const size of [4, 16, 256, 2048]) {
      const one = guest({ ringSize: size, disk: { queueSize: 2048 } })
      const sectors = Math.min(size - 2, 1000)
      const data = one.alloc(512 * sectors)
      const head = one.alloc(16)
      const status = one.alloc(1)
      one.store(head, header({ type: T.IN, sector: 1 }))
      // Sectors in the opposite order in RAM, so that nothing is joined; what is left of the descriptors has no bytes.
      const pieces: Piece[] = [{ address: head, length: 16, writable: false }]
      for (let at = 0; at < size - 2; at++) {
        pieces.push({ address: data + 512 * (sectors - 1 - at), length: at < sectors ? 512 : 0, writable: true })
      }
      pieces.push({ address: status, length: 1, writable: true })
      expect(one.runPieces(pieces)).toBe(512 * sectors + 1)
      for (const at of [0, 1, sectors - 1]) expect(one.bytes(data + 512 * (sectors - 1 - at), 512)).toEqual(pattern(1 + at, 1))
    }
  })

  it("VQ-13 a chain may have 2^32 bytes: the length is summed without a wrap, and the disk is too small", () => {
    const one = guest({ ringSize: 1024, disk: { queueSize: 1024 }, machine: { ramSize: 40 << 20 } })
    const placed = one.place({ type: T.IN, in: 0 })
    const buffer = one.alloc(8 << 20)
    const pieces: Piece[] = [{ address: placed.header, length: 16, writable: false }]
    for (let at = 0; at < 511; at++) pieces.push({ address: buffer, length: 8 << 20, writable: true })
    pieces.push({ address: buffer, length: (8 << 20) - 17, writable: true }, { address: placed.status, length: 1, writable: true })
    expect(pieces.reduce((sum, { length }) => sum + length, 0)).toBe(2 ** 32)
    expect(one.runPieces(pieces)).toBe(0)
    expect(one.reply(placed, 0).status).toBe(IOERR)
  })

  it("VQ-14 VQ-18 an indirect table is followed by next from index 0, and the id of the head is returned", () => {
    const one = guest({ ringSize: 8 })
    const placed = one.place({ type: T.IN, sector: 77, in: 512 })
    const table = one.alloc(16 * 9, 16)
    one.fill(table, 16 * 9, 0xff)
    one.writeEntry(table, 0, placed.header, 16, NEXT, 7)
    one.writeEntry(table, 7, placed.in, 512, NEXT | WRITE, 3)
    one.writeEntry(table, 3, placed.status, 1, WRITE, 99)
    one.desc(5, table, 16 * 9, 4)
    one.publish([5])
    one.kick()
    expect(one.takeUsed()).toEqual([{ id: 5, length: 513 }])
    expect(one.reply(placed, 513)).toEqual({ status: OK, length: 513, data: pattern(77, 1) })
  })

  it("VQ-14 an indirect table may lie at any address, odd ones included", () => {
    const one = guest({ ringSize: 8 })
    const placed = one.place({ type: T.IN, sector: 78, in: 512 })
    const table = one.alloc(64, 16) + 3
    for (const [at, piece] of placed.pieces.entries()) {
      one.writeEntry(table, at, piece.address, piece.length, (piece.writable ? WRITE : 0) | (at < 2 ? NEXT : 0), at + 1)
    }
    one.desc(0, table, 48, 4)
    one.publish([0])
    one.kick()
    expect(one.reply(placed, one.takeUsed()[0]?.length ?? -1)).toEqual({ status: OK, length: 513, data: pattern(78, 1) })
  })

  it("VQ-15 WRITE on the descriptor of an indirect table is ignored", () => {
    const one = guest({ ringSize: 8 })
    const placed = one.place({ type: T.OUT, sector: 4, out: pattern(60, 1) })
    one.desc(3, one.table(placed.pieces), 48, 4 + 2)
    one.publish([3])
    one.kick()
    expect(one.takeUsed()).toEqual([{ id: 3, length: 1 }])
    expect(one.read(4, 1).data).toEqual(pattern(60, 1))
    // Behind a readable descriptor too, where it would break the order if it counted.
    const late = one.place({ type: T.OUT, sector: 5, out: pattern(61, 1) })
    one.desc(0, late.header, 16, NEXT, 1)
    one.desc(1, one.table(late.pieces.slice(1)), 32, 4 + 2)
    one.publish([0])
    one.kick()
    expect(one.takeUsed()).toEqual([{ id: 0, length: 1 }])
    expect(one.read(5, 1).data).toEqual(pattern(61, 1))
  })

  it("VQ-16 direct descriptors may precede an indirect one: the header, or header and data, or all but the status", () => {
    const one = guest({ ringSize: 8 })
    for (const direct of [0, 1, 2, 3]) {
      expect(
        one.run({ type: T.OUT, sector: 30 + direct, out: pattern(direct, 2) }, { indirect: true, direct: Math.min(direct, 2) }),
      ).toMatchObject({ status: OK, length: 1 })
      expect(
        one.read(30 + direct, 2, { indirect: true, direct: Math.min(direct, 2) }),
      ).toEqual({ status: OK, length: 1025, data: pattern(direct, 2) })
    }
  })

  it.each([
    [4, 1024],
    [256, 1024],
    [2048, 2048],
  ])("VQ-19 BC-11 a chain in a ring of %i may have a table of up to %i entries", (size, limit) => {
    const one = guest({ ringSize: size, disk: { queueSize: Math.max(size, 256) } })
    const placed = one.place({ type: T.FLUSH })
    const filler = one.alloc(1)
    const chain = (count: number): Piece[] => [
      { address: placed.header, length: 16, writable: false },
      ...Array.from({ length: count - 2 }, () => ({ address: filler, length: 1, writable: false })),
      { address: placed.status, length: 1, writable: true },
    ]
    for (const count of [size + 1, limit - 1, limit].filter((count) => count <= limit)) {
      one.fill(placed.status, 1, UNTOUCHED)
      expect(one.runPieces(chain(count), { indirect: true })).toBe(1)
      expect(one.bytes(placed.status, 1)).toEqual(Uint8Array.of(OK))
    }
    one.publish([one.chain(chain(limit + 1), { indirect: true })])
    one.kick()
    expect(one.disk.device.brokenBy?.message).toMatch(new RegExp(`longer than ${limit} descriptors`))
  })

  it("VQ-21 BLK-11 the used length counts the bytes written from the first writable one on, and never more", () => {
    const one = guest({ disk: { serial: "vioblk" } })
    const lengths = (request: Parameters<RingGuest["run"]>[0]) => one.run(request).length
    expect(lengths({ type: T.IN, in: 4096 })).toBe(4097)
    expect(lengths({ type: T.IN, in: 0 })).toBe(1)
    expect(lengths({ type: T.OUT, out: pattern(0, 8) })).toBe(1)
    expect(lengths({ type: T.FLUSH })).toBe(1)
    expect(lengths({ type: T.GET_ID, in: 20 })).toBe(21)
    expect(lengths({ type: T.DISCARD, out: ranges({ sector: 0, sectors: 1 }) })).toBe(1)
    expect(lengths({ type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 1 }) })).toBe(1)
    // Nothing was written before the status byte: a length that reaches it would claim the data as well.
    expect(lengths({ type: T.IN, sector: SECTORS, in: 512 })).toBe(0)
    expect(lengths({ type: 77, in: 64 })).toBe(0)
    expect(lengths({ type: T.OUT, out: pattern(0, 1), in: 5 })).toBe(0)
    expect(lengths({ type: T.GET_ID, in: 64 })).toBe(20)
    expect(lengths({ type: 77 })).toBe(1)
    expect(lengths({ type: T.OUT, sector: SECTORS, out: pattern(0, 1) })).toBe(1)
  })

  it("VQ-30 needless kicks do no harm: idle, repeated, of missing queues or of those not enabled", () => {
    const one = guest({ disk: { queues: 3 } })
    const before = one.machine.ram.slice()
    for (let count = 0; count < 1000; count++) one.kick()
    for (const index of [1, 2, 3, 4, 200]) one.modern.notify.write(index * one.modern.multiplier, 2, index)
    expect(Buffer.compare(one.machine.ram, before)).toBe(0)
    expect([one.irqs(), one.status]).toEqual([[], 0x0f])
    expect(one.read(5, 1).status).toBe(OK)
    expect(one.irqs()).toEqual([1])
    // After a reset.
    one.status = 0
    one.kick()
    expect([one.irqs(), one.status]).toEqual([[], 0])
  })

  it("VQ-23 VQ-33 IN_ORDER, NOTIFICATION_DATA and packed rings are not offered by default", () => {
    const one = guest()
    for (const bit of [F.IN_ORDER, F.NOTIFICATION_DATA, F.RING_PACKED]) {
      expect(one.offers(bit)).toBe(false)
      for (const status of [0, 1, 3]) one.status = status
      one.registers.accept((1n << BigInt(F.VERSION_1)) | (1n << BigInt(bit)))
      one.status = 0x0b
      expect(one.status & 0x08).toBe(0)
    }
    one.start()
    // The address of a kick says which queue it is for; what is written there is nobody's business.
    const placed = one.place({ type: T.IN, sector: 1, in: 512 })
    one.publish([one.chain(placed.pieces), one.chain(placed.pieces)])
    one.kick()
    expect(one.takeUsed()).toHaveLength(2)
  })
})
