/** GET_LIFETIME: the wear of the storage behind the disk ([VIRTIO] 5.2.6). */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import type { Lifetime } from "../../../src/backing/backing.ts"
import { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { F, IOERR, OK, T, UNSUPP } from "../../harness/words.ts"

const WORN: Lifetime = { preEolInfo: 2, typeA: 11, typeB: 4 }

function guestOf(lifetime: unknown, features: readonly number[] = [F.LIFETIME, F.INDIRECT_DESC], options: Partial<RingGuestOptions> = {}) {
  const disk = Object.assign(new FakeDisk(), { lifetime: () => lifetime as Lifetime })
  return { disk, guest: new RingGuest({ backing: disk, features, ...options }) }
}

describe("GET_LIFETIME", () => {
  it("BLK-33 BLK-11 the request returns three le16 and a used length of 7", () => {
    const { guest } = guestOf(WORN)
    expect(guest.run({ type: T.GET_LIFETIME, in: 6 })).toEqual({ status: OK, length: 7, data: Uint8Array.of(2, 0, 11, 0, 4, 0) })
    expect(guest.disk.device.statistics.getLifetime).toEqual({ requests: 1, bytes: 0, errors: 0 })
  })

  it("BLK-33 LEG-13 the request works for a legacy guest, and ignores the sector", () => {
    const { guest } = guestOf(WORN, [F.LIFETIME], { legacy: true })
    expect(guest.run({ type: T.GET_LIFETIME, sector: 99, in: 6 })).toMatchObject({ status: OK, data: Uint8Array.of(2, 0, 11, 0, 4, 0) })
  })

  it("BLK-33 a shorter buffer is filled, and a longer one gets no more than 6 bytes", () => {
    const { guest } = guestOf(WORN)
    expect(guest.run({ type: T.GET_LIFETIME, in: 3 })).toEqual({ status: OK, length: 4, data: Uint8Array.of(2, 0, 11) })
    const long = guest.run({ type: T.GET_LIFETIME, in: 8 })
    expect(long).toEqual({ status: OK, length: 6, data: Uint8Array.of(2, 0, 11, 0, 4, 0, 0xa5, 0xa5) })
    expect(guest.run({ type: T.GET_LIFETIME })).toMatchObject({ status: OK, length: 1 })
  })

  it.each([
    { ...WORN, preEolInfo: 4 }, { ...WORN, typeA: 12 }, { ...WORN, typeB: -1 }, { ...WORN, typeB: 1.5 }, { preEolInfo: 1, typeA: 1 }, 7,
    undefined,
  ])("BLK-33 a reserved or missing value is IOERR, and thrown as a bug: %j", (lifetime) => {
    const { guest } = guestOf(lifetime)
    const placed = guest.place({ type: T.GET_LIFETIME, in: 6 })
    guest.publish([guest.chain(placed.pieces)])
    expect(() => guest.kick()).toThrow(TypeError)
    const [used] = guest.takeUsed()
    expect(guest.reply(placed, used?.length ?? -1)).toEqual({ status: IOERR, length: 0, data: new Uint8Array(6).fill(0xa5) })
  })

  it("BLK-36 a failure of the backing is IOERR, and the queue goes on", () => {
    const disk = Object.assign(new FakeDisk(), {
      lifetime: () => {
        throw eio()
      },
    })
    const guest = new RingGuest({ backing: disk, features: [F.LIFETIME] })
    expect(guest.run({ type: T.GET_LIFETIME, in: 6 })).toMatchObject({ status: IOERR, length: 0 })
    expect(guest.read(0, 1).status).toBe(OK)
  })

  it("BLK-33 a backing may answer later", async () => {
    const disk = Object.assign(new FakeDisk(), { asynchronous: true, lifetime: () => Promise.resolve(WORN) })
    const guest = new RingGuest({ backing: disk, features: [F.LIFETIME] })
    const placed = guest.place({ type: T.GET_LIFETIME, in: 6 })
    guest.publish([guest.chain(placed.pieces)])
    guest.kick()
    expect(guest.takeUsed()).toEqual([])
    await settled()
    const [used] = guest.takeUsed()
    expect(guest.reply(placed, used?.length ?? -1)).toEqual({ status: OK, length: 7, data: Uint8Array.of(2, 0, 11, 0, 4, 0) })
  })

  it("BLK-32 BLK-33 FT-28 a backing with `lifetime` offers it, and it is UNSUPP for a driver that has not accepted it", () => {
    expect(guestOf(WORN).guest.offers(F.LIFETIME)).toBe(true)
    expect(guestOf(WORN, []).guest.run({ type: T.GET_LIFETIME, in: 6 })).toMatchObject({ status: UNSUPP, length: 0 })
    expect(new RingGuest({ backing: new FakeDisk() }).offers(F.LIFETIME)).toBe(false)
    const left = new RingGuest({ backing: guestOf(WORN).disk, disk: { withoutFeatures: ["LIFETIME"] } })
    expect(left.offers(F.LIFETIME)).toBe(false)
  })

  it("reports a promise from a synchronous backing as a bug", () => {
    const { guest } = guestOf(Promise.resolve(WORN))
    const placed = guest.place({ type: T.GET_LIFETIME, in: 6 })
    guest.publish([guest.chain(placed.pieces)])
    expect(() => guest.kick()).toThrow("asynchronous: true")
    expect(() => new VirtioBlk(Object.assign(new FakeDisk(), { lifetime: async () => Promise.resolve(WORN) }))).toThrow("async")
  })
})
