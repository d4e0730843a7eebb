/** Packed rings that a driver must not make: the device says DEVICE_NEEDS_RESET, touches nothing outside, and hangs never. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { expectBroken, expectSound } from "../../harness/expect-broken.ts"
import { FakeDisk, settled } from "../../harness/fake-disk.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { header, pattern } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { AVAIL, F, INDIRECT, NEXT, OK, T, USED, WRITE } from "../../harness/words.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const RAM = 1 << 20

function guest(options: Partial<RingGuestOptions> = {}): RingGuest {
  const backing = new MemoryBacking({ size: 1 << 20 })
  return new RingGuest({ backing, packed: true, ringSize: 8, machine: { ramSize: RAM }, ...options })
}

/** A good request, then the chain whose id `write` returns, in one batch: the good one comes back, the other never. */
function breaks(reason: RegExp, write: (guest: RingGuest) => number, options: Partial<RingGuestOptions> = {}): void {
  const one = guest(options)
  const good = one.place({ type: T.OUT, sector: 3, out: pattern(9, 1) })
  // A disk without indirect tables takes it directly.
  const first = one.chain(good.pieces, { indirect: options.features === undefined })
  const broken = write(one)
  one.publish([first, broken])
  expectBroken(one, reason, [first])
  // The good request was the last thing that was done.
  expect(one.read(3, 1).data).toEqual(pattern(9, 1))
}

const readable = (address: number | bigint, length: number): Piece => ({ address, length, writable: false })
const writable = (address: number | bigint, length: number): Piece => ({ address, length, writable: true })

describe("invalid chains make the device need a reset:", () => {
  it("PK-22 a chain that does not end within the ring, with and without bytes", () => {
    for (const length of [16, 0]) {
      breaks(/does not end within the 7 descriptors|runs into slot/, (one) => {
        const { header: at } = one.place({ type: T.FLUSH })
        return one.packedRing.put(Array.from({ length: 7 }, () => ({ address: at, length, flags: NEXT })))
      })
    }
    for (const size of [1, 2, 8]) {
      const one = guest({ ringSize: size })
      const { header: at } = one.place({ type: T.FLUSH })
      for (let slot = 0; slot < size; slot++) one.desc(slot, at, 16, NEXT | AVAIL, 1)
      expectBroken(one, new RegExp(`does not end within the ${size} descriptors`))
    }
  })

  it("PK-22 a chain that runs into a slot that is not available: not yet, of the lap before, or used", () => {
    for (const flags of [0, USED, AVAIL | USED, NEXT, WRITE | USED]) {
      breaks(/the chain in slot 1 runs into slot 2, which is not available/, (one) => {
        const { header: at, status } = one.place({ type: T.FLUSH })
        const id = one.chain([readable(at, 16), writable(status, 1)])
        one.desc(2, status, 1, WRITE | flags, id)
        return id
      })
    }
  })

  it("PK-22 PK-05 a chain over the end of the ring without inverted AVAIL and USED", () => {
    for (const [flags, isSound] of [[USED, true], [AVAIL, false]] as const) {
      const one = guest()
      for (let done = 0; done < 7; done++) expect(one.read(0, 1, { indirect: true }).status).toBe(OK)
      const { header: at, status } = one.place({ type: T.FLUSH })
      const id = one.chain([readable(at, 16), writable(status, 1)])
      one.desc(0, status, 1, WRITE | flags, id)
      one.publish([id])
      if (isSound) {
        one.kick()
        expect(one.takeUsed()).toEqual([{ id, length: 1 }])
      } else expectBroken(one, /slot 7 runs into slot 0/)
    }
  })

  it("PK-16 an indirect descriptor in a list: first with NEXT, last behind a direct one, in the middle", () => {
    const table = (one: RingGuest) => ({ address: one.table(one.place({ type: T.FLUSH }).pieces), length: 32 })
    const direct = (one: RingGuest, flags: number) => ({ address: one.place({ type: T.FLUSH }).header, length: 16, flags })
    const status = (one: RingGuest) => ({ address: one.place({ type: T.FLUSH }).status, length: 1, flags: WRITE })
    const reason = /indirect descriptor in a list with others, chain in slot 1/
    breaks(reason, (one) => one.packedRing.put([{ ...table(one), flags: INDIRECT | NEXT }, status(one)]))
    breaks(reason, (one) => one.packedRing.put([{ ...table(one), flags: INDIRECT | NEXT }]))
    breaks(reason, (one) => one.packedRing.put([direct(one, NEXT), { ...table(one), flags: INDIRECT }]))
    breaks(reason, (one) => one.packedRing.put([direct(one, NEXT), { ...table(one), flags: INDIRECT | NEXT }, status(one)]))
  })

  it("PK-15 VQ-14 tables of no bytes, of a part of an entry, too long, not in RAM, or not negotiated", () => {
    const put = (one: RingGuest, address: number | bigint, length: number) => one.packedRing.put([{ address, length, flags: INDIRECT }])
    for (const length of [0, 1, 15, 17, 33, 0xffff_ffff]) {
      breaks(/indirect table of \d+ bytes/, (one) => put(one, one.table(one.place({ type: T.FLUSH }).pieces), length))
    }
    breaks(/indirect table of 1025 descriptors/, (one) => put(one, 0x1000, 16 * 1025))
    for (const address of [RAM - 31, RAM, 0xfee0_0000, 0xffff_ffff_ffff_ffe0n, 0x8000_0000_0000_0000n]) {
      breaks(/not in one piece of RAM/, (one) => put(one, address, 32))
    }
    breaks(/INDIRECT_DESC was not negotiated/, (one) => put(one, 0x1000, 32), { features: [] })
  })

  it("VQ-07 VQ-08 readable behind writable, no header, no status, outside of RAM, more than 2^32 bytes", () => {
    for (const indirect of [false, true]) {
      const chain = (one: RingGuest, pieces: readonly Piece[]) => one.chain(pieces, { indirect })
      breaks(/readable descriptor behind a writable one/, (one) => {
        const { header: at, status } = one.place({ type: T.FLUSH })
        return chain(one, [readable(at, 16), writable(status, 1), readable(at, 16)])
      })
      breaks(/15 readable bytes/, (one) => chain(one, [readable(one.place({ type: T.FLUSH }).header, 15), writable(0x3000, 1)]))
      breaks(/no writable byte/, (one) => chain(one, [readable(one.place({ type: T.FLUSH }).header, 16)]))
      for (const address of [RAM - 15, RAM, 0xffff_ffff_ffff_fff0n]) {
        breaks(/is not RAM, chain in slot 1/, (one) => chain(one, [readable(address, 16), writable(0x3000, 1)]))
      }
    }
  })

  it("PK-22 a head that becomes available while its chain is walked, without a hang", () => {
    const one = guest()
    one.packedRing.put([{ address: RAM - 4, length: 16, flags: NEXT }], 5)
    one.packedRing.setFlags(0, NEXT | AVAIL)
    expectBroken(one, /is not RAM, chain in slot 0/)
  })
})

describe("a driver that does not wait", () => {
  it("PK-22 descriptors may be made available again while they are in flight: at most N are", async () => {
    const disk = new FakeDisk()
    disk.waits = () => true
    const one = guest({ backing: disk, ringSize: 4 })
    const table = one.table(one.place({ type: T.IN, in: 512 }).pieces)
    for (let slot = 0; slot < 4; slot++) one.desc(slot, table, 48, INDIRECT | AVAIL, slot)
    one.kick()
    expect(disk.waiting).toHaveLength(4)
    one.desc(0, table, 48, INDIRECT | USED, 9)
    one.kick()
    expect(one.disk.device.brokenBy?.message).toMatch(/more than 4 descriptors in flight/)
    for (const waiting of disk.waiting.splice(0)) waiting.finish()
    await settled()
    disk.waits = () => false
    expectSound(one)
  })

  it("PK-22 a chain of more descriptors than are free makes the device need a reset", () => {
    const disk = new FakeDisk()
    disk.waits = () => true
    const one = guest({ backing: disk, ringSize: 4 })
    const { pieces } = one.place({ type: T.IN, in: 512 })
    const table = one.table(pieces)
    for (let slot = 0; slot < 3; slot++) one.desc(slot, table, 48, INDIRECT | AVAIL, slot)
    one.kick()
    // Slot 3 leads into slots 0 and 1, which the driver has made available again, though they are in flight.
    one.desc(3, pieces[0]?.address ?? 0, 16, NEXT | AVAIL, 7)
    one.desc(0, pieces[1]?.address ?? 0, 512, NEXT | WRITE | USED, 7)
    one.desc(1, pieces[2]?.address ?? 0, 1, WRITE | USED, 7)
    one.kick()
    expect(one.disk.device.brokenBy?.message).toMatch(/slot 3 does not end within the 1 descriptors/)
  })

  it("ring and buffers may overlap: the device overwrites its own ring without a hang", () => {
    const rng = new Rng(seedFromEnvironment(20261104))
    for (let round = 0; round < 300; round++) {
      const one = round % 50 === 0 ? guest() : last ?? guest()
      last = one
      one.start()
      const { desc, size } = one.ring
      const at = one.alloc(16)
      one.store(at, header({ type: T.IN, sector: rng.below(8) }))
      for (let slot = 0; slot < size; slot++) {
        const address = rng.pick([at, desc + rng.below(16 * size), one.ring.used, one.ring.avail])
        const flags = rng.below(8) | rng.pick([AVAIL, USED, 0, AVAIL])
        one.desc(slot, address, rng.pick([1, 16, 512, 32]), flags, rng.below(0x1_0000))
      }
      one.kick()
      one.kick()
      expectSound(one)
    }
  })

  let last: RingGuest | undefined
})

describe("packed rings", () => {
  it("PK-01 FT-12 packed rings are offered on request only, and never through a legacy interface", () => {
    const backing = () => new MemoryBacking({ size: 1 << 20 })
    expect(new RingGuest({ backing: backing() }).offers(F.RING_PACKED)).toBe(false)
    expect(new RingGuest({ backing: backing(), disk: { withFeatures: ["RING_PACKED"] } }).offers(F.RING_PACKED)).toBe(true)
    expect(new RingGuest({ backing: backing(), disk: { withFeatures: ["RING_PACKED"] }, legacy: true }).offers(F.RING_PACKED)).toBe(false)
  })
})
