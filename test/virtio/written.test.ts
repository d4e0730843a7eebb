/**
 * GuestMemory.written: every byte that a device stores into RAM is announced, after it was stored: an emulator drops compiled code by it.
 */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { eio, FakeDisk, settled } from "../harness/fake-disk.ts"
import { RingGuest } from "../harness/guest.ts"
import { pattern, ranges, type Request } from "../harness/requests.ts"
import { F, T } from "../harness/words.ts"

/** RAM as somebody sees it who copies only what is announced. */
function follow(options: { readonly eventIdx: boolean; readonly waits: boolean }): { guest: RingGuest; disk: FakeDisk; check: () => void } {
  const disk = new FakeDisk({ size: 1 << 16 })
  disk.cache.set(pattern(0, 128))
  const ram = new Uint8Array(1 << 16)
  let copy = ram.slice()
  const features = [F.INDIRECT_DESC, F.DISCARD, F.WRITE_ZEROES, F.FLUSH, ...(options.eventIdx ? [F.EVENT_IDX] : [])]
  const written = (address: number, length: number) => {
    if (length < 0 || address + length > ram.length) throw new Error(`announced ${length} bytes at ${address}`)
    copy.set(ram.subarray(address, address + length), address)
  }
  const guest = new RingGuest({ backing: disk, features, ringSize: 8, machine: { memory: ram, written } })
  disk.waits = () => options.waits
  const check = () => {
    const at = ram.findIndex((byte, index) => byte !== copy[index])
    const { used, avail } = guest.ring
    if (at >= 0) throw new Error(`byte ${at} has changed and was not announced (used ring at ${used}, available ring at ${avail})`)
  }
  // What the guest itself stores is no device's business.
  guest.kick = (ring = guest.ring) => {
    copy = ram.slice()
    guest.registers.kick(ring.index)
  }
  return { guest, disk, check }
}

const REQUESTS: readonly Request[] = [
  { type: T.IN, sector: 1, in: 512 },
  { type: T.IN, sector: 5, in: 1536 },
  { type: T.OUT, sector: 9, out: pattern(3, 2) },
  { type: T.FLUSH },
  { type: T.GET_ID, in: 20 },
  { type: T.GET_ID, in: 40 },
  { type: T.DISCARD, out: ranges({ sector: 3, sectors: 1 }) },
  { type: 99, in: 20 },
  { type: T.IN, sector: 500, in: 512 },
]

describe("what the device stores is announced", () => {
  for (const eventIdx of [false, true]) {
    it(`data, status, used rings and avail_event, over many wraps and failing reads; EVENT_IDX ${eventIdx ? "on" : "off"}`, () => {
      const rng = new Rng(seedFromEnvironment(20260807))
      const { guest, disk, check } = follow({ eventIdx, waits: false })
      disk.failing = ({ name }) => (name === "read" && rng.chance(0.2) ? eio() : undefined)
      const mark = guest.top
      for (let round = 0; round < 400; round++) {
        guest.top = mark
        guest.publish(
          Array.from({ length: rng.between(1, 8) }, () => guest.chain(guest.place(rng.pick(REQUESTS)).pieces, { indirect: true })),
        )
        guest.kick()
        check()
      }
      expect(guest.usedIdx()).toBe(guest.ring.availIdx)
    })

    it(`a kick that finds nothing to return stores avail_event at most; late answers; EVENT_IDX ${eventIdx ? "on" : "off"}`, async () => {
      const { guest, disk, check } = follow({ eventIdx, waits: true })
      for (let round = 0; round < 20; round++) {
        const mark = guest.top
        guest.publish([guest.chain(guest.place({ type: T.IN, sector: 2, in: 512 }).pieces, { indirect: true })])
        guest.kick()
        check()
        expect(guest.ring.availEvent).toBe(eventIdx ? guest.ring.availIdx : 0)
        disk.next().finish()
        await settled()
        check()
        guest.kick()
        check()
        guest.top = mark
      }
    })
  }

  it("data that arrive while a reset waits for them", async () => {
    const { guest, disk, check } = follow({ eventIdx: false, waits: true })
    guest.publish([guest.chain(guest.place({ type: T.IN, sector: 2, in: 512 }).pieces)])
    guest.kick()
    guest.status = 0
    disk.next().finish()
    await settled()
    expect(guest.status).toBe(0)
    check()
  })
})
