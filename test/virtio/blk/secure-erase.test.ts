/** SECURE_ERASE: its limits, what is refused, and that nothing is left of what was there ([VIRTIO] 5.2.6). */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { eio, FakeDisk } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { pattern, ranges } from "../../harness/requests.ts"
import { F, IOERR, OK, T, UNSUPP } from "../../harness/words.ts"

const SECTORS = 2048
const FEATURES = [F.SECURE_ERASE, F.DISCARD, F.FLUSH, F.INDIRECT_DESC]

/** A disk that logs what it is asked to erase, as [offset, length]. */
function erasable(members: { readonly secureEraseAlignment?: number; readonly zeroesAtOnce?: number; readonly size?: number } = {}) {
  const disk = new FakeDisk({ content: new Uint8Array(members.size ?? 512 * SECTORS).fill(0x77) })
  const erased: (readonly [number, number])[] = []
  const secureErase = (offset: number, length: number): void => {
    erased.push([offset, length])
    disk.cache.fill(0, offset, offset + length)
  }
  return { disk, erased, backing: Object.assign(disk, { secureErase, ...members, size: disk.size }) }
}

describe("SECURE_ERASE", () => {
  it("BC-06 BC-08 the limits are in the configuration space, in sectors, and 0 without the feature", () => {
    const { backing } = erasable({ secureEraseAlignment: 65536 })
    const guest = new RingGuest({ backing, features: FEATURES, disk: { blockSize: 4096 } })
    expect([guest.config(0x3c, 4), guest.config(0x40, 4), guest.config(0x44, 4)]).toEqual([0x10_0000, 16, 128])
    const without = new RingGuest({ backing: new FakeDisk() })
    expect([without.config(0x3c, 4), without.config(0x40, 4), without.config(0x44, 4)]).toEqual([0, 0, 0])
    expect(without.offers(F.SECURE_ERASE)).toBe(false)
  })

  it("BLK-34 BLK-22 segments are those of DISCARD, the used length is 1, and the neighbours stay", () => {
    const { backing, disk, erased } = erasable()
    const guest = new RingGuest({ backing, features: FEATURES })
    const out = ranges({ sector: 3, sectors: 2 }, { sector: 5, sectors: 1 }, { sector: 100, sectors: 4 })
    expect(guest.run({ type: T.SECURE_ERASE, sector: 77, out })).toMatchObject({ status: OK, length: 1 })
    expect(erased).toEqual([[3 * 512, 3 * 512], [100 * 512, 4 * 512]])
    expect([disk.cache[3 * 512 - 1], disk.cache[3 * 512], disk.cache[6 * 512 - 1], disk.cache[6 * 512]]).toEqual([0x77, 0, 0, 0x77])
    expect(guest.disk.device.statistics.secureErase).toEqual({ requests: 1, bytes: 0, errors: 0 })
  })

  it("BLK-34 a disk in memory overwrites erased bytes, also those that it was made of", () => {
    const bytes = pattern(0, 256)
    const guest = new RingGuest({ backing: MemoryBacking.from(bytes), features: FEATURES })
    guest.write(300 - 256, pattern(9, 4))
    expect(guest.run({ type: T.SECURE_ERASE, out: ranges({ sector: 8, sectors: 100 }) }).status).toBe(OK)
    expect(bytes.subarray(8 * 512, 108 * 512).every((byte) => byte === 0)).toBe(true)
    expect(guest.read(8, 100).data.every((byte) => byte === 0)).toBe(true)
    expect(guest.read(7, 1).data).toEqual(pattern(7, 1))
    expect(guest.read(108, 1).data).toEqual(pattern(108, 1))
  })

  it("BLK-23 a segment with any flag, also unmap, is UNSUPP and erases nothing", () => {
    const { backing, erased } = erasable()
    const guest = new RingGuest({ backing, features: FEATURES })
    for (const flags of [1, 2, 0x8000_0000]) {
      const out = ranges({ sector: 0, sectors: 1 }, { sector: 4, sectors: 1, flags })
      expect([flags, guest.run({ type: T.SECURE_ERASE, out })]).toMatchObject([flags, { status: UNSUPP, length: 1 }])
    }
    expect(erased).toEqual([])
  })

  it("BLK-24 BLK-25 BLK-26 BLK-27 a bad or too long segment, too many or a part of one is IOERR and erases nothing", () => {
    const { backing, erased } = erasable()
    const guest = new RingGuest({ backing, features: FEATURES })
    const good = { sector: 0, sectors: 1 }
    const seventeen = Array.from({ length: 17 }, (_, at) => ({ sector: 2 * at, sectors: 1 }))
    const lists = [
      ranges(good, { sector: SECTORS, sectors: 1 }), ranges({ sector: 2n ** 64n - 1n, sectors: 1 }, good), ranges(...seventeen),
      ranges(good).subarray(0, 15), new Uint8Array(17),
    ]
    for (const out of lists) expect(guest.run({ type: T.SECURE_ERASE, out })).toMatchObject({ status: IOERR, length: 1 })
    expect(erased).toEqual([])
    expect(guest.run({ type: T.SECURE_ERASE }).status).toBe(OK)
    expect(guest.run({ type: T.SECURE_ERASE, out: ranges(...seventeen.slice(1)) }).status).toBe(OK)
    expect(erased.length).toBe(16)
    const vast = new RingGuest({ backing: new MemoryBacking({ size: 2 ** 40 }), features: FEATURES })
    expect(vast.run({ type: T.SECURE_ERASE, out: ranges({ sector: 1, sectors: 0x10_0001 }) }).status).toBe(IOERR)
    expect(vast.run({ type: T.SECURE_ERASE, out: ranges({ sector: 1, sectors: 0x10_0000 }) }).status).toBe(OK)
  })

  it("BLK-34 a long range is split only where units of the backing end", async () => {
    const { backing, erased } = erasable({ secureEraseAlignment: 128 << 10, zeroesAtOnce: 64 << 10, size: 1 << 20 })
    const guest = new RingGuest({ backing, features: FEATURES })
    await guest.runLong({ type: T.SECURE_ERASE, out: ranges({ sector: 256, sectors: 768 }) })
    expect(erased).toEqual([[128, 128], [256, 128], [384, 128]].map(([at = 0, length = 0]) => [at << 10, length << 10]))
  })

  it("BLK-09 BLK-32 the request is IOERR on a read-only disk, which does not offer it, and UNSUPP if it was not accepted", () => {
    const { backing, erased } = erasable()
    const out = ranges({ sector: 0, sectors: 1 })
    const readOnly = new RingGuest({ backing, features: FEATURES, disk: { readOnly: true } })
    expect([readOnly.offers(F.SECURE_ERASE), readOnly.run({ type: T.SECURE_ERASE, out }).status]).toEqual([false, IOERR])
    expect(new RingGuest({ backing: erasable().backing, features: [] }).run({ type: T.SECURE_ERASE, out }).status).toBe(UNSUPP)
    expect(erased).toEqual([])
  })

  it("BLK-34 BLK-36 the request is stable in write-through mode before it completes, and IOERR if it fails", () => {
    const { backing, disk } = erasable()
    const guest = new RingGuest({ backing, features: [F.SECURE_ERASE] })
    expect(guest.run({ type: T.SECURE_ERASE, out: ranges({ sector: 1, sectors: 1 }) }).status).toBe(OK)
    expect(disk.takeNames()).toEqual(["flush"])
    backing.secureErase = () => {
      throw eio()
    }
    expect(guest.run({ type: T.SECURE_ERASE, out: ranges({ sector: 1, sectors: 1 }) })).toMatchObject({ status: IOERR, length: 1 })
  })

  it("a wrong secureEraseAlignment is refused when the device is made", () => {
    for (const secureEraseAlignment of [0, 511, -512, 1.5]) {
      expect(() => new VirtioBlk(erasable({ secureEraseAlignment }).backing)).toThrow("secureEraseAlignment of the backing is")
    }
  })
})
