/** Requests whose descriptors have other shapes than those of the usual request, alone and among usual ones. */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { FakeDisk } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { header, pattern } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { F, IOERR, OK, T } from "../../harness/words.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

interface Placed {
  readonly kind: "read" | "write" | "flush"
  readonly head: number
  readonly status: number
  /** Of a read: where its data are, and what they shall be. */
  readonly data: number
  readonly expected: Uint8Array
  readonly outcome: number
  /** Bytes that the device says it has written. */
  readonly length: number
}

const SECTORS = 64
const SHAPES = ["usual", "status behind data", "split header", "empty buffer", "data behind header", "flush", "beyond the end"] as const

function pair(): { disk: FakeDisk; guest: RingGuest } {
  const disk = new FakeDisk({ size: 1 << 20 })
  disk.cache.set(pattern(0, 2048))
  return { disk, guest: new RingGuest({ backing: disk, features: [F.INDIRECT_DESC, F.FLUSH], machine: { ramSize: 64 << 20 } }) }
}

/** One of two sectors, as `shape` has it. A write stores what is there already. */
function place(guest: RingGuest, shape: (typeof SHAPES)[number], sector: number): Placed {
  const at = guest.alloc(2048)
  const [data, status] = [at + 16, at + 16 + 1024]
  const type = shape === "flush" ? T.FLUSH : shape === "data behind header" ? T.OUT : T.IN
  guest.store(at, header({ type, sector: shape === "beyond the end" ? 2047 : sector }))
  if (type === T.OUT) guest.store(data, pattern(sector, 2))
  guest.fill(status, 1, 0xff)
  const [head, last]: Piece[] = [{ address: at, length: 16, writable: false }, { address: status, length: 1, writable: true }]
  const read = { address: data, length: 1024, writable: true }
  const pieces = (): Piece[] => {
    if (head === undefined || last === undefined) return []
    switch (shape) {
      case "status behind data":
        return [head, { address: data, length: 1025, writable: true }]
      case "split header":
        return [{ address: at, length: 5, writable: false }, { address: at + 5, length: 11, writable: false }, read, last]
      case "empty buffer":
        return [head, read, { address: data, length: 0, writable: true }, last]
      case "data behind header":
        return [{ address: at, length: 16 + 1024, writable: false }, last]
      case "flush":
        return [head, last]
      default:
        return [head, read, last]
    }
  }
  const outcome = shape === "beyond the end" ? IOERR : OK
  const isRead = type === T.IN && outcome === OK
  const expected = isRead ? pattern(sector, 2) : new Uint8Array(0)
  const kind = type === T.IN ? "read" : type === T.OUT ? "write" : "flush"
  const length = isRead ? 1025 : type === T.IN ? 0 : 1
  return { kind, head: guest.chain(pieces(), { indirect: true }), status, data, expected, outcome, length }
}

const seed = seedFromEnvironment(20261126)

describe("requests of many shapes", () => {
  it(`VQ-11 BLK-01 each request gets its own answer, whatever came before; seed ${seed}`, () => {
    const rng = new Rng(seed)
    const { disk, guest } = pair()
    const counts = { read: 0, write: 0, flush: 0, errors: 0 }
    // As runs: the device tries what the last ones needed first.
    for (let run = 0; run < 60; run++) {
      const shapes = rng.chance(0.7) ? [rng.pick(SHAPES)] : SHAPES
      const most = rng.pick([1, 1, 3, 8])
      for (let kick = rng.below(12); kick >= 0; kick--) {
        const requests = Array.from({ length: 1 + rng.below(most) }, () => place(guest, rng.pick(shapes), rng.below(SECTORS)))
        guest.publish(requests.map(({ head }) => head))
        guest.kick()
        const used = guest.takeUsed()
        expect(used).toEqual(requests.map(({ head, length }) => ({ id: head, length })))
        for (const { status, data, expected, outcome, kind } of requests) {
          counts[kind]++
          if (outcome !== OK) counts.errors++
          expect(guest.machine.ram[status]).toBe(outcome)
          expect(Buffer.compare(guest.bytes(data, expected.length), expected)).toBe(0)
        }
      }
    }
    const { read, write, flush } = guest.disk.device.statistics
    expect(counts).toEqual({ read: read.requests, write: write.requests, flush: flush.requests, errors: read.errors })
    expect([read.bytes, write.bytes]).toEqual([1024 * (counts.read - counts.errors), 1024 * counts.write])
    expect(Buffer.compare(disk.cache.subarray(0, 512 * SECTORS), pattern(0, SECTORS))).toBe(0)
  })
})
