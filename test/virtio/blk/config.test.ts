/** The block device's configuration space and feature bits, byte for byte. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { FakeDisk } from "../../harness/fake-disk.ts"
import { CONFIG_IRQ, RingGuest } from "../../harness/guest.ts"
import { pattern, ranges } from "../../harness/requests.ts"
import { F, IOERR, OK, T } from "../../harness/words.ts"

const MIB = 1 << 20

/** A backing that has grown, and the guest of it. */
function withSize(size: number, options: Partial<ConstructorParameters<typeof RingGuest>[0]> = {}): RingGuest {
  return new RingGuest({ backing: new MemoryBacking({ size }), ...options })
}

function configBytes(guest: RingGuest): number[] {
  return Array.from({ length: 0x60 }, (_, offset) => guest.config(offset, 1))
}

describe("the configuration space", () => {
  it("BC-01 BC-02 BC-03 BC-04 BC-05 BC-08 a disk with every option has the specified bytes", () => {
    const disk = new FakeDisk({ size: 10 * MIB, discardGranularity: 65536 })
    const guest = new RingGuest({
      backing: disk,
      disk: { queues: 3, queueSize: 128, blockSize: 1024, physicalBlockSize: 8192, optimalIoSize: 1 << 20 },
    })
    const view = new DataView(Uint8Array.from(configBytes(guest)).buffer)
    expect(view.getBigUint64(0x00, true)).toBe(20480n)
    expect(view.getUint32(0x08, true)).toBe(0) // size_max, which is not offered
    expect(view.getUint32(0x0c, true)).toBe(126) // seg_max: the ring without header and status
    expect([view.getUint16(0x10, true), view.getUint8(0x12), view.getUint8(0x13)]).toEqual([Math.floor(20480 / (16 * 63)), 16, 63])
    expect(view.getUint32(0x14, true)).toBe(1024)
    expect([view.getUint8(0x18), view.getUint8(0x19), view.getUint16(0x1a, true), view.getUint32(0x1c, true)]).toEqual([3, 0, 8, 1024])
    expect([view.getUint8(0x20), view.getUint8(0x21), view.getUint16(0x22, true)]).toEqual([1, 0, 3])
    // In units of 512 bytes, whatever blk_size is.
    expect(view.getUint32(0x2c, true)).toBe(65536 / 512)
    for (const [sectors, segments] of [[0x24, 0x28], [0x30, 0x34]] as const) {
      expect(view.getUint32(sectors, true)).toBeGreaterThanOrEqual(65536 / 512)
      expect(view.getUint32(segments, true)).toBeGreaterThan(0)
    }
    expect([view.getUint8(0x38), view.getUint8(0x39), view.getUint8(0x3a), view.getUint8(0x3b)]).toEqual([1, 0, 0, 0])
    // Secure erase (0x3c..0x47) and zones (0x48..0x5f) are not offered.
    expect(configBytes(guest).slice(0x3c)).toEqual(new Array(0x60 - 0x3c).fill(0))
  })

  it("BC-01 BC-06 BC-07 fields can be read in every width at every offset, and bytes behind the end are zero", () => {
    const guest = withSize(3 * 2 ** 41)
    const bytes = configBytes(guest)
    for (let offset = 0; offset < 0x60; offset++) {
      const at = (index: number) => bytes[offset + index] ?? 0
      expect(guest.config(offset, 2)).toBe(at(0) + at(1) * 256)
      if (offset % 4 === 0) expect(guest.config(offset, 4)).toBe(at(0) + at(1) * 2 ** 8 + at(2) * 2 ** 16 + at(3) * 2 ** 24)
    }
    expect(guest.capacity).toBe(3 * 2 ** 32)
    expect(guest.config(4, 4)).toBe(3)
    expect([guest.config(0x60, 4), guest.config(0x7fc, 4)]).toEqual([0, 0])
  })

  it("BC-01 all fields except writeback are read-only to the driver", () => {
    const guest = withSize(MIB)
    const before = configBytes(guest)
    for (let offset = 0; offset < 0x60; offset++) if (offset !== 0x20) guest.setConfig(offset, 1, 0x5a)
    for (const offset of [0x00, 0x04, 0x24, 0x5c, 0x60, 0x100]) guest.setConfig(offset, 4, 0xffff_ffff)
    expect(configBytes(guest)).toEqual(before)
  })

  it("BC-01 there are at most 65535 cylinders", () => {
    expect([withSize(2 ** 45).config(0x10, 2), withSize(512).config(0x10, 2), withSize(0).capacity]).toEqual([0xffff, 0, 0])
  })

  it("BC-02 BLK-07 blk_size is a hint: requests of one sector work at any sector, and leave their neighbours alone", () => {
    const guest = withSize(MIB, { disk: { blockSize: 4096 } })
    expect(guest.config(0x14, 4)).toBe(4096)
    expect(guest.write(0, pattern(0, 8)).status).toBe(OK)
    expect(guest.write(1, pattern(100, 1))).toMatchObject({ status: OK, length: 1 })
    expect(guest.read(0, 8).data).toEqual(Uint8Array.from([...pattern(0, 1), ...pattern(100, 1), ...pattern(2, 6)]))
    expect(guest.read(1, 1).data).toEqual(pattern(100, 1))
    expect(guest.read(7, 3).status).toBe(OK)
    expect(guest.capacity).toBe(2048)
  })

  it("BC-03 the exponent is 3 for blocks of 512 bytes on physical ones of 4096, and 0 for equal ones", () => {
    expect([
      withSize(MIB, { disk: { physicalBlockSize: 4096 } }).config(0x18, 1),
      withSize(MIB).config(0x18, 1),
      withSize(MIB, { disk: { blockSize: 4096 } }).config(0x18, 1),
    ]).toEqual([3, 0, 0])
  })

  it("BC-10 write_zeroes_may_unmap is 0 where nothing can be freed, and without WRITE_ZEROES", () => {
    const bit = (without: readonly ("discard" | "writeZeroes")[]) => new RingGuest({ backing: new FakeDisk({ without }) }).config(0x38, 1)
    expect([bit([]), bit(["discard"]), bit(["writeZeroes"]), bit(["discard", "writeZeroes"])]).toEqual([1, 0, 0, 0])
  })

  it("BC-11 seg_max segments work in one table, and more work too", () => {
    const guest = withSize(MIB, { disk: { queueSize: 16 } })
    const segments = guest.config(0x0c, 4)
    expect(segments).toBe(14)
    guest.write(0, pattern(0, 40))
    for (const count of [segments, segments + 1, 40]) {
      const placed = guest.place({ type: T.IN, sector: 0, in: 512 * count })
      const pieces = Array.from({ length: count }, (_, at) => ({ address: placed.in + 512 * at, length: 512, writable: true }))
      expect(
        guest.runPieces(
          [{ address: placed.header, length: 16, writable: false }, ...pieces, { address: placed.status, length: 1, writable: true }],
          { indirect: true },
        ),
      ).toBe(512 * count + 1)
      expect(guest.reply(placed, 0).data).toEqual(pattern(0, count))
    }
    // A ring of 2 has no room for one segment: it still says 1.
    expect(withSize(MIB, { disk: { queueSize: 2 } }).config(0x0c, 4)).toBe(1)
  })

  it("BC-12 a size is rounded down to whole sectors, and the rest cannot be reached", () => {
    for (const [size, sectors] of [[1000, 1], [511, 0], [512, 1], [1535, 2], [0, 0]] as const) {
      const disk = new FakeDisk({ size })
      const guest = new RingGuest({ backing: disk })
      expect(guest.capacity).toBe(sectors)
      disk.log.length = 0
      expect([guest.read(sectors, 1).status, guest.write(sectors, pattern(0, 1)).status]).toEqual([IOERR, IOERR])
      expect(guest.run({ type: T.WRITE_ZEROES, out: ranges({ sector: sectors, sectors: 1 }) }).status).toBe(IOERR)
      expect(disk.log).toEqual([])
      if (sectors > 0) expect(guest.read(sectors - 1, 1).status).toBe(OK)
    }
  })
})

describe("feature bits", () => {
  const bitsOf = (options: ConstructorParameters<typeof FakeDisk>[0], disk = {}) => {
    const guest = new RingGuest({ backing: new FakeDisk(options), disk })
    const offered = guest.offered
    return Object.entries(F).filter(([, bit]) => ((offered >> BigInt(bit)) & 1n) === 1n).map(([name]) => name)
  }
  const always = ["SEG_MAX", "GEOMETRY", "BLK_SIZE", "TOPOLOGY", "INDIRECT_DESC", "EVENT_IDX", "VERSION_1", "RING_RESET"]

  it("BLK-02 the methods of the backing decide which bits are offered", () => {
    expect(bitsOf({})).toEqual([
      "SEG_MAX", "GEOMETRY", "BLK_SIZE", "FLUSH", "TOPOLOGY", "CONFIG_WCE", "DISCARD", "WRITE_ZEROES", "INDIRECT_DESC", "EVENT_IDX",
      "VERSION_1", "RING_RESET",
    ])
    expect(bitsOf({ without: ["flush", "discard", "writeZeroes"] })).toEqual(always)
    expect(bitsOf({ without: ["flush", "writeZeroes"] })).toEqual(
      [...always, "DISCARD"].toSorted((a, b) => F[a as keyof typeof F] - F[b as keyof typeof F]),
    )
    expect(bitsOf({ readOnly: true })).toEqual([
      "SEG_MAX", "GEOMETRY", "RO", "BLK_SIZE", "FLUSH", "TOPOLOGY", "CONFIG_WCE", "INDIRECT_DESC", "EVENT_IDX", "VERSION_1", "RING_RESET",
    ])
    expect(bitsOf({}, { queues: 2 })).toContain("MQ")
  })

  it("bits can be left out, and CONFIG_WCE goes with FLUSH", () => {
    expect(bitsOf({}, { withoutFeatures: ["FLUSH", "EVENT_IDX", "DISCARD"] })).toEqual([
      "SEG_MAX", "GEOMETRY", "BLK_SIZE", "TOPOLOGY", "WRITE_ZEROES", "INDIRECT_DESC", "VERSION_1", "RING_RESET",
    ])
  })

  it("BC-06 BC-07 BLK-33 BLK-34 BLK-38 ZN-01 bits of lifetime, secure erase, zones, SCSI, barrier and size_max are not offered", () => {
    for (const legacy of [false, true]) {
      const guest = new RingGuest({ backing: new FakeDisk(), legacy })
      for (const bit of [F.LIFETIME, F.SECURE_ERASE, F.ZONED, F.SCSI, F.BARRIER, F.SIZE_MAX]) {
        expect([bit, guest.offers(bit)]).toEqual([bit, false])
      }
    }
  })

  it("BC-09 with MQ num_queues rings work, and without it only the first", () => {
    const guest = new RingGuest({ backing: new FakeDisk(), features: [F.MQ], queues: 4, disk: { queues: 4 } })
    expect([guest.config(0x22, 2), guest.modern.common.read(0x12, 2)]).toEqual([4, 4])
    for (const ring of guest.rings) {
      expect(guest.run({ type: T.IN, sector: ring.index, in: 512 }, {}, ring).status).toBe(OK)
      expect(guest.irqs()).toEqual([1 + ring.index])
    }
    const single = new RingGuest({ backing: new FakeDisk(), features: [], disk: { queues: 4 } })
    expect([single.offers(F.MQ), single.read(0, 1).status, single.irqs()]).toEqual([true, OK, [1]])
  })

  it.each<readonly [object, RegExp]>([
    [{ queues: 0 }, /queues: 0/],
    [{ queues: 65536 }, /queues/],
    [{ queueSize: 3 }, /queueSize: 3/],
    [{ queueSize: 65536 }, /queueSize/],
    [{ blockSize: 256 }, /blockSize: 256/],
    [{ blockSize: 1000 }, /blockSize/],
    [{ physicalBlockSize: 256 }, /physicalBlockSize/],
    [{ blockSize: 4096, physicalBlockSize: 512 }, /physicalBlockSize/],
    [{ optimalIoSize: 100 }, /optimalIoSize/],
    [{ optimalIoSize: -512 }, /optimalIoSize/],
    [{ serial: "ümlaut" }, /serial/],
    [{ serial: "a\nb" }, /serial/],
  ])("a wrong option is refused in one line: %o", (options, reason) => {
    const make = () => new VirtioBlk(new FakeDisk(), options)
    expect(make).toThrow(RangeError)
    expect(make).toThrow(reason)
  })
})

describe("a capacity that changes while the device runs", () => {
  it("BLK-35 growth raises an interrupt and changes the generation, and the new area can be used", () => {
    const backing = new MemoryBacking({ size: MIB })
    const guest = new RingGuest({ backing })
    const generation = guest.modern.common.read(0x15, 1)
    expect(guest.read(2048, 1).status).toBe(IOERR)
    guest.irqs()
    backing.resize(2 * MIB)
    // Until the embedder says so the device judges by what the guest knows.
    expect([guest.capacity, guest.read(2048, 1).status]).toEqual([2048, IOERR])
    guest.irqs()
    guest.disk.device.capacityChanged()
    expect([guest.irqs(), guest.capacity]).toEqual([[CONFIG_IRQ], 4096])
    expect(guest.modern.common.read(0x15, 1)).not.toBe(generation)
    expect([guest.write(4095, pattern(1, 1)).status, guest.read(4095, 1).data]).toEqual([OK, pattern(1, 1)])
    expect(guest.config(0x10, 2)).toBe(Math.floor(4096 / (16 * 63)))
  })

  it("BLK-35 after shrinking requests behind the new end fail, and others work", () => {
    const backing = new MemoryBacking({ size: 2 * MIB })
    const guest = new RingGuest({ backing })
    guest.write(4095, pattern(1, 1))
    guest.irqs()
    backing.resize(MIB)
    guest.disk.device.capacityChanged()
    expect([guest.irqs(), guest.capacity]).toEqual([[CONFIG_IRQ], 2048])
    expect([
      guest.read(4095, 1).status,
      guest.read(2048, 1).status,
      guest.read(2047, 2).status,
      guest.read(2047, 1).status,
    ]).toEqual([IOERR, IOERR, IOERR, OK])
  })

  it("BLK-35 before a smaller size is announced requests into the lost part fail without harm", () => {
    const backing = new MemoryBacking({ size: 2 * MIB })
    const guest = new RingGuest({ backing })
    backing.resize(MIB)
    expect(guest.read(4095, 1)).toMatchObject({ status: IOERR, length: 0 })
    expect(guest.write(4095, pattern(1, 1)).status).toBe(IOERR)
    expect(guest.read(0, 1).status).toBe(OK)
  })

  it("BLK-35 a change of less than a sector is ignored, and before DRIVER_OK the guest is not told", () => {
    const backing = new MemoryBacking({ size: MIB })
    const guest = new RingGuest({ backing })
    backing.resize(MIB + 100)
    guest.disk.device.capacityChanged()
    expect([guest.irqs(), guest.capacity]).toEqual([[], 2048])
    guest.status = 0
    backing.resize(2 * MIB)
    guest.disk.device.capacityChanged()
    expect(guest.irqs()).toEqual([])
    guest.start()
    expect(guest.capacity).toBe(4096)
  })
})
