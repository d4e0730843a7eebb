/** Rings and chains that a driver must not make: the device says DEVICE_NEEDS_RESET, touches nothing outside, and hangs never. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { expectBroken, expectSound } from "../../harness/expect-broken.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { header, pattern } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { F, INDIRECT, NEEDS_RESET, NEXT, OK, T, UNTOUCHED, WRITE } from "../../harness/words.ts"

const RAM = 4 << 20

function guest(options: Partial<RingGuestOptions> = {}): RingGuest {
  return new RingGuest({ backing: new MemoryBacking({ size: 1 << 20 }), ringSize: 8, machine: { ramSize: RAM }, ...options })
}

/** A good request, then the chain whose head `write` returns, in one batch: the good one comes back, the other never. */
function breaks(reason: RegExp, write: (guest: RingGuest) => number, options: Partial<RingGuestOptions> = {}): void {
  const one = guest(options)
  const good = one.place({ type: T.OUT, sector: 3, out: pattern(9, 1) })
  const first = one.chain(good.pieces, { indirect: true })
  const broken = write(one)
  one.publish([first, broken])
  expectBroken(one, reason, [first])
  // The good request was the last thing that was done.
  expect(one.read(3, 1).data).toEqual(pattern(9, 1))
}

const readable = (address: number | bigint, length: number): Piece => ({ address, length, writable: false })
const writable = (address: number | bigint, length: number): Piece => ({ address, length, writable: true })

describe("invalid chains make the device need a reset:", () => {
  it("VQ-10 a descriptor that points to itself, without a hang", () => {
    breaks(/loops/, (one) => {
      one.desc(4, one.place({ type: T.FLUSH }).header, 16, NEXT, 4)
      return 4
    })
  })

  it("VQ-10 loops over the whole ring, of descriptors without a byte, and of writable ones", () => {
    for (const [length, flags] of [[16, NEXT], [0, NEXT], [0, NEXT | WRITE], [1, NEXT | WRITE]] as const) {
      breaks(/loops/, (one) => {
        const { header: at } = one.place({ type: T.FLUSH })
        for (let index = 0; index < 8; index++) if (index > 0) one.desc(index, at, length, flags, index === 7 ? 1 : index + 1)
        return 2
      })
    }
  })

  it("VQ-10 VQ-19 loops inside an indirect table", () => {
    for (const entries of [1, 3, 1024]) {
      breaks(/loops/, (one) => {
        const { header: at } = one.place({ type: T.FLUSH })
        const table = one.alloc(16 * entries, 16)
        for (let index = 0; index < entries; index++) one.writeEntry(table, index, at, 16, NEXT, (index + 1) % entries)
        one.desc(6, table, 16 * entries, INDIRECT)
        return 6
      })
    }
  })

  it("VQ-10 VQ-17 an indirect table whose first entry refers to the table itself", () => {
    breaks(/inside an indirect table/, (one) => {
      const table = one.alloc(16, 16)
      one.writeEntry(table, 0, table, 16, INDIRECT)
      one.desc(6, table, 16, INDIRECT)
      return 6
    })
  })

  it("VQ-11 a head or a next beyond the table", () => {
    for (const head of [8, 9, 255, 0x7fff, 0x8000, 0xffff]) breaks(/descriptor index/, () => head)
    for (const next of [8, 0x7fff, 0xffff]) {
      breaks(/descriptor index/, (one) => {
        one.desc(2, one.place({ type: T.FLUSH }).header, 16, NEXT, next)
        return 2
      })
    }
  })

  it("VQ-19 a next beyond an indirect table, even if the ring has that index", () => {
    for (const next of [3, 4, 0xffff]) {
      breaks(/descriptor index/, (one) => {
        const { pieces, header: at } = one.place({ type: T.FLUSH })
        const table = one.table([...pieces, ...pieces].slice(0, 3))
        one.writeEntry(table, 0, at, 16, NEXT, next)
        one.desc(6, table, 48, INDIRECT)
        return 6
      })
    }
  })

  it("VQ-14 an indirect table of no bytes, of a part of an entry, or larger than RAM", () => {
    for (const length of [0, 1, 15, 17, 33, 0xffff_ffff]) {
      breaks(/indirect table of/, (one) => {
        one.desc(6, one.table(one.place({ type: T.FLUSH }).pieces), length, INDIRECT)
        return 6
      })
    }
    breaks(/not in one piece of RAM/, (one) => {
      one.desc(6, one.table(one.place({ type: T.FLUSH }).pieces), 0xffff_fff0, INDIRECT)
      return 6
    })
  })

  it("VQ-14 an indirect table that is not RAM, by a little or by far", () => {
    for (const address of [RAM - 31, RAM, 0xfee0_0000, 0xffff_ffff_ffff_ffe0n, 0x8000_0000_0000_0000n]) {
      breaks(/not in one piece of RAM/, (one) => {
        one.desc(6, address, 32, INDIRECT)
        return 6
      })
    }
  })

  it("VQ-17 INDIRECT with NEXT, in the ring or behind a direct descriptor", () => {
    breaks(/indirect descriptor with NEXT/, (one) => {
      one.desc(6, one.table(one.place({ type: T.FLUSH }).pieces), 32, INDIRECT | NEXT, 5)
      return 6
    })
    breaks(/indirect descriptor with NEXT/, (one) => {
      const { pieces, header: at, status } = one.place({ type: T.FLUSH })
      one.desc(5, at, 16, NEXT, 6)
      one.desc(6, one.table(pieces.slice(1)), 16, INDIRECT | NEXT, 7)
      one.desc(7, status, 1, WRITE)
      return 5
    })
  })

  it("VQ-17 a table inside a table, even a valid one", () => {
    breaks(/inside an indirect table/, (one) => {
      const { pieces, header: at } = one.place({ type: T.FLUSH })
      const inner = one.table(pieces.slice(1))
      const outer = one.table([readable(at, 16), readable(inner, 16)])
      one.writeEntry(outer, 1, inner, 16, INDIRECT)
      one.desc(6, outer, 32, INDIRECT)
      return 6
    })
  })

  it("VQ-17 an indirect descriptor without INDIRECT_DESC", () => {
    const one = guest({ features: [] })
    one.publish([one.chain(one.place({ type: T.FLUSH }).pieces, { indirect: true })])
    expectBroken(one, /INDIRECT_DESC was not negotiated/)
  })

  it("VQ-07 a readable descriptor behind a writable one: the disk is not touched", () => {
    const one = guest()
    const { header: at, out, status } = one.place({ type: T.OUT, sector: 3, out: pattern(9, 1) })
    one.publish([one.chain([readable(at, 16), writable(status, 1), readable(out, 512)])])
    expectBroken(one, /behind a writable one/)
    expect(one.read(3, 1).data).toEqual(new Uint8Array(512))
    const two = guest()
    const placed = two.place({ type: T.OUT, sector: 3, out: pattern(9, 1) })
    two.publish([two.chain([writable(placed.status, 1), readable(placed.header, 16)], { indirect: true, direct: 1 })])
    expectBroken(two, /behind a writable one/)
  })

  it("VQ-13 more than 2^32 bytes in a chain of valid descriptors", () => {
    const one = guest({ ringSize: 1024, disk: { queueSize: 1024 }, machine: { ramSize: 40 << 20 } })
    const { header: at, status } = one.place({ type: T.IN })
    const buffer = one.alloc(8 << 20)
    one.publish([one.chain([readable(at, 16), ...Array.from({ length: 512 }, () => writable(buffer, 8 << 20)), writable(status, 1)])])
    expectBroken(one, /more than 2\^32 bytes/)
  })

  it("VQ-13 addresses and lengths whose sum wraps at 2^32 or 2^64", () => {
    const cases: readonly (readonly [number | bigint, number])[] = [
      [RAM - 511, 512],
      [RAM, 1],
      [RAM - 16, 0xffff_fff0],
      [0x1000, 0xffff_ffff],
      [0xffff_fff0, 512],
      [0x1_0000_1000, 512],
      [0xffff_ffff_ffff_fff0n, 512],
      [0x8000_0000_0000_1000n, 512],
      [(1n << 53n) + 0x1000n, 512],
      [0xb000_0000, 16],
    ]
    for (const [address, length] of cases) {
      breaks(/is not RAM/, (one) => {
        const { header: at, status } = one.place({ type: T.IN })
        return one.chain([readable(at, 16), writable(address, length), writable(status, 1)])
      })
    }
  })

  it("VQ-13 several descriptors of 2^32 - 1 bytes", () => {
    breaks(
      /is not RAM/,
      (one) => one.chain([readable(0x1000, 16), ...[1, 2, 3, 4].map(() => writable(0x1000, 0xffff_ffff))], { indirect: true }),
    )
  })

  it("BLK-13 fewer than 16 readable bytes, which are no header", () => {
    for (const length of [15, 1]) {
      breaks(/header takes 16/, (one) => {
        const { header: at, status } = one.place({ type: T.FLUSH })
        return one.chain([readable(at, length), writable(status, 1)])
      })
    }
    breaks(/header takes 16/, (one) => one.chain([writable(one.place({ type: T.FLUSH }).status, 1)]))
    breaks(/header takes 16/, (one) => one.chain([readable(0, 0)]))
  })

  it("BLK-13 no writable byte for a status, for any type of request", () => {
    for (const type of [T.IN, T.OUT, T.FLUSH, T.GET_ID, 99]) {
      breaks(/no writable byte/, (one) => one.chain([readable(one.place({ type }).header, 16)]))
      breaks(/no writable byte/, (one) => one.chain([readable(one.place({ type }).header, 16), readable(0x2000, 512), writable(0x3000, 0)]))
    }
  })
})

describe("invalid rings", () => {
  it("VQ-11 an available index more than the ring ahead makes the device need a reset, forwards and backwards", () => {
    for (const jump of [9, 10, 0x7fff, 0x8000, 0xffff]) {
      const one = guest()
      one.chain(one.place({ type: T.FLUSH }).pieces)
      one.data.setUint16(one.ring.avail + 2, jump, true)
      expectBroken(one, /available index/)
    }
    const late = guest()
    for (let count = 0; count < 5; count++) expect(late.read(0, 1).status).toBe(OK)
    late.ring.availIdx = 4
    expectBroken(late, /available index 4 is 65535 ahead of 5/)
  })

  it("VQ-11 an available index ahead by the size of the ring is a full ring", () => {
    const one = guest()
    const heads = Array.from({ length: 8 }, () => one.chain(one.place({ type: T.FLUSH }).pieces, { indirect: true }))
    one.publish(heads)
    one.kick()
    expect(one.takeUsed().map(({ id }) => id)).toEqual(heads)
  })

  it("VQ-01 rings outside RAM, or at odd addresses, make the device need a reset at the first kick", () => {
    const good = { desc: 0x1000, avail: 0x2000, used: 0x3000 }
    const bad = [
      { desc: RAM - 127 },
      { avail: RAM - 20 },
      { used: RAM - 68 },
      { desc: 2 ** 32 + 0x1000 },
      { used: 0xfff0_0000_0000_0000 },
      { avail: 0x2001 },
      { used: 0x3001 },
    ]
    for (const wrong of bad) {
      const one = guest()
      for (const status of [0, 1, 3]) one.status = status
      one.registers.accept(1n << BigInt(F.VERSION_1))
      one.status = 0x0b
      one.modern.common.write(0x16, 2, 0)
      one.modern.common.write(0x18, 2, 8)
      one.modern.common.write(0x10, 2, 0)
      const place = { ...good, ...wrong }
      for (const [register, address] of [[0x20, place.desc], [0x28, place.avail], [0x30, place.used]] as const) {
        one.modern.common.write(register, 4, address % 2 ** 32)
        one.modern.common.write(register + 4, 4, Math.floor(address / 2 ** 32))
      }
      one.modern.common.write(0x1c, 2, 1)
      one.irqs()
      one.status = 0x0f
      one.kick()
      expect([one.status & NEEDS_RESET, one.irqs()]).toEqual([NEEDS_RESET, [0]])
      expectSound(one)
    }
  })

  it("a read may overwrite its own ring, which is then checked like any other", () => {
    const one = guest()
    one.write(0, new Uint8Array(512).fill(0xff))
    const { header: at, status } = one.place({ type: T.IN, sector: 0 })
    const { avail } = one.ring
    // The 512 bytes of the disk fall on the available ring: flags, idx and slots are all ones afterwards.
    one.publish([one.chain([readable(at, 16), writable(avail, 22), writable(one.alloc(490), 490), writable(status, 1)])])
    one.irqs()
    one.kick()
    expect(one.takeUsed()).toHaveLength(1)
    expect(one.bytes(status, 1)).toEqual(Uint8Array.of(OK))
    expect(one.data.getUint16(avail + 2, true)).toBe(0xffff)
    expect(one.status & NEEDS_RESET).toBe(NEEDS_RESET)
    expect(one.disk.device.brokenBy?.message).toMatch(/available index 65535/)
    expectSound(one)
  })

  it("a read may overwrite its own header and status byte: the header was read before, the status is written after", () => {
    const one = guest()
    one.write(5, new Uint8Array(512).fill(0xff))
    const { header: at } = one.place({ type: T.IN, sector: 5 })
    const data = one.alloc(512)
    expect(one.runPieces([readable(at, 16), writable(at, 16), writable(data, 496), writable(data, 1)])).toBe(513)
    expect(one.bytes(at, 16)).toEqual(new Uint8Array(16).fill(0xff))
    expect([...one.bytes(data, 2)]).toEqual([OK, 0xff])
  })

  it("a head that comes several times in one batch gets as many answers", () => {
    const one = guest()
    const placed = one.place({ type: T.IN, sector: 1, in: 512 })
    const head = one.chain(placed.pieces)
    one.publish([head, head, head])
    one.kick()
    expect(one.takeUsed()).toEqual([1, 2, 3].map(() => ({ id: head, length: 513 })))
  })

  it("a broken device answers nothing, not even on its other queues, until it is reset", () => {
    const one = guest({ queues: 2, features: [F.MQ, F.INDIRECT_DESC], disk: { queues: 2 } })
    const [first, second] = one.rings
    if (first === undefined || second === undefined) throw new Error("no rings")
    one.publish([99], first)
    one.kick(first)
    expect(one.status & NEEDS_RESET).toBe(NEEDS_RESET)
    const placed = one.place({ type: T.FLUSH })
    one.publish([one.chain(placed.pieces, {}, second)], second)
    one.kick(second)
    expect([one.takeUsed(second), one.bytes(placed.status, 1)[0]]).toEqual([[], UNTOUCHED])
    // The driver cannot clear the bit, but by a reset.
    one.status = 0x0f
    expect(one.status & NEEDS_RESET).toBe(NEEDS_RESET)
    expectSound(one)
  })

  it("VQ-32 a broken queue can be reset: its reset does not wait for the broken chain", () => {
    for (const write of [() => 99, (one: RingGuest) => one.chain([readable(one.place({ type: T.FLUSH }).header, 15)])]) {
      const one = guest({ features: [F.RING_RESET] })
      one.publish([write(one)])
      one.kick()
      expect(one.status & NEEDS_RESET).toBe(NEEDS_RESET)
      one.modern.common.write(0x16, 2, 0)
      one.modern.common.write(0x3a, 2, 1)
      expect([one.modern.common.read(0x3a, 2), one.modern.common.read(0x1c, 2)]).toEqual([0, 0])
      expectSound(one)
    }
  })

  it("bytes around the guest's RAM stay as they are, whatever descriptors say", () => {
    const margin = 1 << 16
    const whole = new Uint8Array(RAM + 2 * margin).fill(0x5c)
    const one = guest({ machine: { memory: whole.subarray(margin, margin + RAM) } })
    for (const address of [RAM, RAM + 8, RAM - 511, 2 ** 32 - 16, 2 ** 53, 2 ** 63]) {
      one.publish([
        one.chain([readable(one.place({ type: T.IN }).header, 16), writable(BigInt(address), 512), writable(BigInt(address) + 512n, 1)]),
      ])
      one.kick()
      expect(one.status & NEEDS_RESET).toBe(NEEDS_RESET)
      one.start()
    }
    one.store(RAM - 16, header({ type: T.IN }))
    expect(one.runPieces([readable(RAM - 16, 16), writable(RAM - 529, 513)])).toBe(513)
    expect(
      whole.subarray(0, margin).every((byte) => byte === 0x5c) && whole.subarray(margin + RAM).every((byte) => byte === 0x5c),
    ).toBe(true)
  })
})
