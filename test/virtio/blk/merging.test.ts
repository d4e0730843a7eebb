/** Which requests go to the backing in one call, and what is counted. */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { eio, FakeDisk } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest } from "../../harness/guest.ts"
import { header, pattern, ranges, type Request } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { F, OK, T, UNSUPP } from "../../harness/words.ts"

function pair(size = 1 << 20): { disk: FakeDisk; guest: RingGuest } {
  const disk = new FakeDisk({ size })
  disk.cache.set(pattern(0, Math.min(size / 512, 4096)))
  return { disk, guest: new RingGuest({ backing: disk, features: [F.INDIRECT_DESC, F.DISCARD, F.WRITE_ZEROES, F.FLUSH] }) }
}

function send(guest: RingGuest, requests: readonly Request[]): Placed[] {
  const placed = requests.map((request) => guest.place(request))
  guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
  guest.kick()
  expect(guest.takeUsed()).toHaveLength(requests.length)
  return placed
}

const read = (sector: number, count = 1): Request => ({ type: T.IN, sector, in: 512 * count })
const write = (sector: number, count = 1): Request => ({ type: T.OUT, sector, out: pattern(sector + 1, count) })
const calls = (disk: FakeDisk) => disk.log.splice(0).map(({ name, offset, length }) => [name, offset / 512, length / 512])

describe("merging", () => {
  it("reads of neighbouring sectors in one batch are one call, and so are writes; each gets its own data", () => {
    const { disk, guest } = pair()
    const placed = send(guest, [read(4), read(5, 3), read(8), write(20), write(21)])
    expect(calls(disk)).toEqual([["read", 4, 5], ["write", 20, 2]])
    expect(placed.slice(0, 3).map((one) => guest.reply(one, 0).data)).toEqual([pattern(4, 1), pattern(5, 3), pattern(8, 1)])
    expect(disk.cache.subarray(20 * 512, 22 * 512)).toEqual(pattern(21, 2))
    expect(guest.disk.device.statistics.merged).toBe(3)
  })

  it("no merge crosses a gap, another type, a refused request or an empty one, or goes backwards", () => {
    const { disk, guest } = pair()
    send(guest, [read(4), read(6)])
    expect(calls(disk)).toEqual([["read", 4, 1], ["read", 6, 1]])
    send(guest, [read(5), read(4)])
    expect(calls(disk)).toEqual([["read", 5, 1], ["read", 4, 1]])
    send(guest, [read(4), read(4)])
    expect(calls(disk)).toEqual([["read", 4, 1], ["read", 4, 1]])
    send(guest, [read(4), write(5), read(5)])
    expect(calls(disk)).toEqual([["read", 4, 1], ["write", 5, 1], ["read", 5, 1]])
    send(guest, [write(4), { type: T.FLUSH }, write(5)])
    expect(calls(disk)).toEqual([["write", 4, 1], ["flush", 0, 0], ["write", 5, 1]])
    send(guest, [read(4), { type: T.IN, sector: 5, in: 0 }, read(5)])
    expect(calls(disk)).toEqual([["read", 4, 1], ["read", 5, 1]])
    send(guest, [read(2047), read(2048)])
    expect(calls(disk)).toEqual([["read", 2047, 1]])
    expect(guest.disk.device.statistics.merged).toBe(0)
  })

  it("a write and a read of the same sectors keep their order among any other requests", () => {
    const { guest } = pair()
    const placed = send(guest, [
      read(4),
      read(5),
      write(4, 2),
      read(4),
      read(5),
      { type: T.WRITE_ZEROES, out: ranges({ sector: 5, sectors: 1 }) },
      read(4),
      read(5),
    ])
    const data = (at: number) => guest.reply(placed[at] as Placed, 0).data
    expect([data(0), data(1), data(3), data(4), data(6), data(7)]).toEqual([
      pattern(4, 1), pattern(5, 1), pattern(5, 1), pattern(6, 1), pattern(5, 1), new Uint8Array(512),
    ])
  })

  it("a call has at most 1 MiB and 1024 buffers, and a longer request takes several calls", () => {
    const { disk, guest } = pair(8 << 20)
    send(guest, Array.from({ length: 12 }, (_, at) => read(512 * at, 512)))
    for (const [, , sectors] of calls(disk)) expect(sectors).toBeLessThanOrEqual(2048)
    send(guest, [read(0, 8192)])
    expect(calls(disk)).toEqual([0, 1, 2, 3].map((at) => ["read", 2048 * at, 2048]))
    const scattered = (sector: number, count: number): Piece[] => {
      const at = guest.alloc(16)
      guest.store(at, header({ type: T.IN, sector }))
      const data = guest.alloc(516 * count)
      const pieces = Array.from({ length: count }, (_, index) => ({ address: data + 516 * index, length: 512, writable: true }))
      return [{ address: at, length: 16, writable: false }, ...pieces, { address: guest.alloc(1), length: 1, writable: true }]
    }
    guest.publish([0, 1, 2].map((at) => guest.chain(scattered(600 * at, 600), { indirect: true })))
    guest.kick()
    for (const { buffers } of disk.log) expect(buffers).toBeLessThanOrEqual(1024)
    expect(disk.log.reduce((sum, { length }) => sum + length, 0)).toBe(3 * 600 * 512)
  })

  it("buffers that touch in RAM are joined, also of different requests, and the bytes arrive right", () => {
    const { disk, guest } = pair()
    const data = guest.alloc(4096)
    const chains = [0, 1, 2].map((index) => {
      const at = guest.alloc(16)
      guest.store(at, header({ type: T.IN, sector: 10 + 2 * index }))
      const piece = (offset: number): Piece => ({ address: data + 1024 * index + offset, length: 512, writable: true })
      return [{ address: at, length: 16, writable: false }, piece(0), piece(512), { address: guest.alloc(1), length: 1, writable: true }]
    })
    guest.publish(chains.map((pieces) => guest.chain(pieces, { indirect: true })))
    guest.kick()
    expect(disk.log.map(({ length, buffers }) => [length, buffers])).toEqual([[3072, 1]])
    expect(guest.bytes(data, 3072)).toEqual(pattern(10, 6))
  })

  it("more requests than fit into one batch are answered in several calls", () => {
    const backing = new MemoryBacking({ size: 2 << 20 })
    const guest = new RingGuest({ backing, ringSize: 2048, disk: { queueSize: 2048 } })
    const placed = send(guest, Array.from({ length: 2000 }, (_, at) => write(at)))
    expect(placed.every((one) => guest.reply(one, 0).status === OK)).toBe(true)
    for (const sector of [0, 255, 256, 1999]) expect(guest.read(sector, 1).data).toEqual(pattern(sector + 1, 1))
  })
})

describe("statistics", () => {
  it("count requests, bytes, errors and merges by type", () => {
    const { disk, guest } = pair()
    send(guest, [read(0, 2), read(2), write(8, 4), { type: T.FLUSH }, { type: T.GET_ID, in: 20 }])
    const wrong = [read(2048), { type: T.OUT, sector: 0, out: new Uint8Array(100) }, { type: 99 }, {
      type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 1, flags: 2 }),
    }]
    send(guest, [...wrong, { type: T.DISCARD, out: ranges({ sector: 0, sectors: 1 }) }])
    disk.failing = () => eio()
    send(guest, [read(0), write(0), { type: T.FLUSH }])
    expect(guest.disk.device.statistics).toEqual({
      read: { requests: 4, bytes: 1536, errors: 2 },
      write: { requests: 3, bytes: 2048, errors: 2 },
      flush: { requests: 2, bytes: 0, errors: 1 },
      getId: { requests: 1, bytes: 0, errors: 0 },
      discard: { requests: 1, bytes: 0, errors: 0 },
      writeZeroes: { requests: 1, bytes: 0, errors: 1 },
      secureErase: { requests: 0, bytes: 0, errors: 0 },
      getLifetime: { requests: 0, bytes: 0, errors: 0 },
      zoneAppend: { requests: 0, bytes: 0, errors: 0 },
      zoneReport: { requests: 0, bytes: 0, errors: 0 },
      zoneManagement: { requests: 0, bytes: 0, errors: 0 },
      unknown: { requests: 1, bytes: 0, errors: 1 },
      merged: 1,
    })
  })

  it("are kept over a reset, since they are the embedder's", () => {
    const { guest } = pair()
    guest.read(0, 1)
    guest.start()
    guest.read(0, 1)
    expect([guest.disk.device.statistics.read.requests, guest.run({ type: 77 }).status]).toEqual([2, UNSUPP])
  })
})
