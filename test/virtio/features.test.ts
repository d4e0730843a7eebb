/** Feature negotiation ([VIRTIO] 2.2 and 6): what is offered where, what is refused, and that every offered bit does what it says. */
import { beforeEach, describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import type { BlkFeatureName } from "../../src/virtio/blk/config.ts"
import { type AttachDiskOptions, Machine } from "../../src/vmm/machine.ts"
import { heldDisk } from "../harness/fake-disk.ts"
import { markedDisk } from "../harness/marked-disk.ts"
import { LegacyGuest, ModernGuest } from "../harness/registers.ts"
import { Ring } from "../harness/ring.ts"
import { COMMON, F, INDIRECT, mask, NEXT, T, UNTOUCHED, UP, VERSION_1, WRITE } from "../harness/words.ts"

const SECTOR = 512
const [OK, IOERR, UNSUPP] = [0, 1, 2]
const [DISCARD, WRITE_ZEROES, SECURE_ERASE] = [11, 13, 14]

/** [VIRTIO] 2.2 and 6, 5.2.3: what a block device on PCI may offer through the modern interface, and through the legacy one. */
const ALLOWED_MODERN =
  mask(F.SIZE_MAX, F.SEG_MAX, F.GEOMETRY, F.RO, F.BLK_SIZE, F.FLUSH, F.TOPOLOGY, F.CONFIG_WCE, F.MQ, F.DISCARD, F.WRITE_ZEROES,
  F.LIFETIME, F.SECURE_ERASE, F.INDIRECT_DESC, F.EVENT_IDX, F.VERSION_1, F.RING_RESET)
const ALLOWED_LEGACY = (ALLOWED_MODERN & 0xffff_ffffn) | mask(F.NOTIFY_ON_EMPTY, F.ANY_LAYOUT)

/** What our devices do not offer, and why it must never be there or need not be. */
const NEVER = [
  ["FT-13 ACCESS_PLATFORM: addresses are guest-physical", F.ACCESS_PLATFORM],
  ["FT-14 RING_PACKED: split rings only", F.RING_PACKED],
  ["FT-15 IN_ORDER: completions may overtake each other", F.IN_ORDER],
  ["FT-16 ORDER_PLATFORM: no barriers but those of the processor", F.ORDER_PLATFORM],
  ["FT-17 SR_IOV: there is no SR-IOV capability", F.SR_IOV],
  ["FT-18 NOTIFICATION_DATA: kicks carry the queue's index only", F.NOTIFICATION_DATA],
  ["FT-19 NOTIF_CONFIG_DATA: likewise", F.NOTIF_CONFIG_DATA],
  ["FT-21 ADMIN_VQ: no administration queues", F.ADMIN_VQ],
  ["FT-22 ST-15 SUSPEND", F.SUSPEND],
  ["FT-28 LIFETIME: there are no metrics", F.LIFETIME],
  ["FT-28 ZONED: an ordinary disk", F.ZONED],
  ["FT-23 FT-10 bit 30, a trap for drivers that accept everything", F.UNUSED_30],
  ["FT-23 bit 31, the sign of a 32-bit number", 31],
  ["FT-23 bit 0, BARRIER", 0],
  ["FT-23 bit 7, SCSI", 7],
  ["FT-23 NOTIFY_ON_EMPTY is for legacy drivers", F.NOTIFY_ON_EMPTY],
  ["FT-23 ANY_LAYOUT is for legacy drivers", F.ANY_LAYOUT],
  ["FT-23 bit 25", 25],
  ["FT-23 bit 26", 26],
  ["FT-23 bit 42", 42],
  ["FT-23 bit 44", 44],
  ["FT-23 bit 63", 63],
] as const

let vm: Machine
let ring: Ring
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
  ring = new Ring(vm)
})

/** The least that a backing must be. */
function bare(readOnly = false): VirtioBacking {
  return { size: 1 << 20, readOnly, pread: (buffer) => void buffer.fill(0x5a), pwrite: () => {}, close: () => {} }
}

function modern(backing: VirtioBacking = markedDisk(), options: AttachDiskOptions = {}): ModernGuest {
  return new ModernGuest(vm, vm.attachDisk(backing, options).slot)
}

function read(guest: ModernGuest | LegacyGuest, rings = ring): number {
  const request = rings.request(T.IN, 3, SECTOR)
  guest.kick()
  return rings.status(request)
}

/** One request with a 16-byte range list: DISCARD or WRITE_ZEROES. */
function range(guest: ModernGuest, type: number, sector: number, sectors: number): number {
  const request = ring.prepare(type, 0, 16)
  for (const [index, word] of [sector, 0, sectors, 0].entries()) ring.ram.setUint32(request.data + 4 * index, word, true)
  ring.publish(request.head)
  guest.kick()
  return ring.status(request)
}

const DEVICES: readonly [string, () => ModernGuest][] = [
  ["a disk in memory", () => modern()],
  ["a read-only disk", () => modern(new MemoryBacking({ size: 1 << 20, readOnly: true }))],
  ["a backing that can do nothing but read and write", () => modern(bare())],
  ["a backing that answers later", () => modern(heldDisk(new Uint8Array(1 << 20)))],
  ["four queues", () => modern(markedDisk(), { queues: 4 })],
  ["a modern-only device", () => modern(markedDisk(), { interface: "modern" })],
  ["registers in I/O space", () => modern(markedDisk(), { modernBar: "io" })],
  [
    "everything left out that can be",
    () => modern(markedDisk(), {
      withoutFeatures: [
        "SEG_MAX", "GEOMETRY", "BLK_SIZE", "FLUSH", "TOPOLOGY", "DISCARD", "WRITE_ZEROES", "INDIRECT_DESC", "EVENT_IDX", "RING_RESET",
      ],
    }),
  ],
]

describe("offered features", () => {
  it.each(DEVICES)("FT-01 FT-02 FT-03 FT-23 %s offers only bits that a block device on PCI may offer", (_, make) => {
    const { offered } = make()
    expect(offered & ~ALLOWED_MODERN).toBe(0n)
    // FT-02: the only prerequisites among these bits.
    if ((offered & mask(F.CONFIG_WCE)) !== 0n) expect(offered & mask(F.FLUSH)).not.toBe(0n)
    expect(offered & VERSION_1).toBe(VERSION_1)
  })

  it("FT-01 FT-09 FT-23 the legacy interface offers bits 0 to 31 only, with ANY_LAYOUT and NOTIFY_ON_EMPTY", () => {
    const guest = modern()
    const legacy = BigInt(new LegacyGuest(vm, guest.slot).offered)
    expect(legacy & ~ALLOWED_LEGACY).toBe(0n)
    expect(legacy & mask(F.ANY_LAYOUT)).not.toBe(0n)
    expect(legacy & ~mask(F.ANY_LAYOUT, F.NOTIFY_ON_EMPTY)).toBe(guest.offered & 0xffff_ffffn)
  })

  it.each(NEVER)("%s: the bit is not offered, and refused", (_, bit) => {
    const guest = modern()
    expect(guest.offered & mask(bit)).toBe(0n)
    expect(guest.negotiate(VERSION_1 | mask(bit))).toBe(false)
    expect(guest.status).toBe(0x03)
    expect(guest.negotiate(VERSION_1)).toBe(true)
  })

  it("FT-04 offered features are read in windows of 32 bits by select 0 and 1, and are zero for any other", () => {
    const guest = modern()
    expect(guest.offeredWord(0)).toBeGreaterThan(0)
    expect(guest.offeredWord(1)).toBe(2 ** 0 + 2 ** 8)
    for (const select of [2, 3, 32, 0x8000_0000, 0xffff_ffff]) expect(guest.offeredWord(select)).toBe(0)
    expect(guest.common.read(COMMON.deviceFeatureSelect, 4)).toBe(0xffff_ffff)
  })

  it("FT-05 all bits that the driver writes read back, but FEATURES_OK is refused for bits that are not offered", () => {
    const guest = modern()
    for (const select of [0, 1]) {
      guest.acceptWord(select, 0xffff_ffff)
      const { offered } = guest
      const word = Number((offered >> BigInt(32 * select)) & 0xffff_ffffn)
      guest.common.write(COMMON.driverFeatureSelect, 4, select)
      const back = guest.common.read(COMMON.driverFeature, 4)
      expect((back & word) >>> 0).toBe(word)
      expect(back).toBe(0xffff_ffff)
    }
    guest.status = 0x0b
    expect(guest.status).toBe(0x03)
  })

  it("FT-05 a bit above 63 is refused as well, until the next reset", () => {
    const guest = modern()
    guest.status = 0x03
    guest.acceptWord(1, 1)
    guest.acceptWord(2, 1 << 4)
    guest.status = 0x0b
    expect(guest.status).toBe(0x03)
    expect(guest.negotiate(VERSION_1)).toBe(true)
  })

  it("FT-06 VERSION_1 is always offered: a modern device demands it, a transitional one does not (Haiku's driver leaves it out)", () => {
    for (const kind of ["transitional", "modern"] as const) {
      const guest = modern(markedDisk(), { interface: kind })
      expect(guest.offeredWord(1) & 1).toBe(1)
      expect(guest.negotiate(mask(F.FLUSH))).toBe(kind === "transitional")
      expect(guest.negotiate(VERSION_1 | mask(F.FLUSH))).toBe(true)
    }
  })

  it("FT-24 FT-26 every condition has its bit", () => {
    const offers = (guest: ModernGuest, bit: number): boolean => (guest.offered & mask(bit)) !== 0n
    const always = [F.SEG_MAX, F.GEOMETRY, F.BLK_SIZE, F.TOPOLOGY, F.INDIRECT_DESC, F.EVENT_IDX, F.RING_RESET]
    const conditions = [F.RO, F.FLUSH, F.CONFIG_WCE, F.MQ, F.DISCARD, F.WRITE_ZEROES]
    const seen = (guest: ModernGuest): number[] => [...always, ...conditions].filter((bit) => offers(guest, bit))
    expect(seen(modern(bare()))).toEqual(always)
    expect(seen(modern(bare(true)))).toEqual([...always, F.RO])
    expect(seen(modern({ ...bare(), flush: () => {} }))).toEqual([...always, F.FLUSH, F.CONFIG_WCE])
    expect(seen(modern({ ...bare(), discard: () => {} }))).toEqual([...always, F.DISCARD])
    expect(seen(modern({ ...bare(), writeZeroes: () => {} }))).toEqual([...always, F.WRITE_ZEROES])
    expect(seen(modern({ ...bare(true), discard: () => {}, writeZeroes: () => {} }))).toEqual([...always, F.RO])
    expect(seen(modern(bare(), { queues: 2 }))).toEqual([...always, F.MQ])
    expect(seen(modern())).toEqual([...always, F.FLUSH, F.CONFIG_WCE, F.DISCARD, F.WRITE_ZEROES])
  })

  it("FT-25 FT-26 FLUSH is offered unless it is left out, and CONFIG_WCE never without FLUSH", () => {
    expect(modern().offered & mask(F.FLUSH, F.CONFIG_WCE)).toBe(mask(F.FLUSH, F.CONFIG_WCE))
    for (const withoutFeatures of [["FLUSH"], ["FLUSH", "DISCARD"]] satisfies BlkFeatureName[][]) {
      expect(modern(markedDisk(), { withoutFeatures }).offered & mask(F.FLUSH, F.CONFIG_WCE)).toBe(0n)
    }
    expect(modern(markedDisk(), { withoutFeatures: ["CONFIG_WCE"] }).offered & mask(F.FLUSH, F.CONFIG_WCE)).toBe(mask(F.FLUSH))
  })
})

describe("the effect of features", () => {
  /** FT-03: one probe for each bit that the devices of this file offer. It returns whether the bit was honoured. */
  const PROBES: Readonly<Record<number, (guest: ModernGuest) => boolean>> = {
    [F.SEG_MAX]: (guest) => guest.device.read(0x0c, 4) === 254,
    [F.GEOMETRY]: (guest) =>
      guest.device.read(0x10, 2) * guest.device.read(0x12, 1) * guest.device.read(0x13, 1) <= guest.capacity &&
        guest.device.read(0x12, 2) !== 0,
    [F.BLK_SIZE]: (guest) => guest.device.read(0x14, 4) === 512,
    [F.TOPOLOGY]: (guest) => guest.device.read(0x18, 1) === 0 && guest.device.read(0x1a, 2) === 1,
    [F.FLUSH]: (guest) => {
      const request = ring.request(4, 0, 0)
      guest.kick()
      return ring.status(request) === OK
    },
    [F.CONFIG_WCE]: (guest) => {
      guest.device.write(0x20, 1, 0)
      return guest.device.read(0x20, 1) === 0
    },
    [F.MQ]: (guest) => guest.device.read(0x22, 2) === 2 && guest.common.read(COMMON.numQueues, 2) === 2,
    [F.DISCARD]: (guest) => range(guest, DISCARD, 3, 1) === OK,
    [F.WRITE_ZEROES]: (guest) => range(guest, WRITE_ZEROES, 3, 1) === OK,
    [F.SECURE_ERASE]: (guest) => range(guest, SECURE_ERASE, 3, 1) === OK,
    [F.INDIRECT_DESC]: (guest) => {
      const request = ring.prepare(T.IN, 3, SECTOR)
      vm.ram.copyWithin(0xf_0000, ring.desc, ring.desc + 48)
      ring.describe(0, 0xf_0000, 48, INDIRECT)
      ring.publish(0)
      guest.kick()
      return ring.status(request) === OK
    },
    [F.EVENT_IDX]: (guest) => {
      ring.usedEvent = 1
      read(guest)
      const first = guest.readIsr()
      read(guest)
      return first === 0 && guest.readIsr() === 1
    },
    [F.VERSION_1]: (guest) => read(guest) === OK,
    [F.RING_RESET]: (guest) => {
      guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
      return guest.queueRegister(0, COMMON.queueEnable, 2) === 0
    },
  }

  it("FT-03 FT-20 every offered bit, accepted alone, does what it says", () => {
    const slot = modern(markedDisk(), { queues: 2 }).slot
    const { offered } = new ModernGuest(vm, slot)
    const bits = [...Array(64).keys()].filter((bit) => (offered & mask(bit)) !== 0n)
    expect(bits).toEqual(Object.keys(PROBES).map(Number))
    for (const bit of bits) {
      const guest = new ModernGuest(vm, slot)
      ring.clear()
      guest.start([ring], mask(bit))
      expect([bit, PROBES[bit]?.(guest)]).toEqual([bit, true])
    }
  })

  it("FT-03 DISCARD and WRITE_ZEROES that were not accepted are not served", () => {
    const guest = modern()
    guest.start([ring])
    expect(range(guest, DISCARD, 3, 1)).toBe(UNSUPP)
    expect(range(guest, WRITE_ZEROES, 3, 1)).toBe(UNSUPP)
    expect(read(guest)).toBe(OK)
    expect(vm.ram[0x4_1000]).toBe(0x5a)
  })

  it("FT-07 LEG-06 without VERSION_1 bits 32 to 63 have no effect: a legacy driver has no queue reset, even after a modern one", () => {
    const guest = modern()
    guest.start([ring], mask(F.RING_RESET))
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    expect(guest.queueRegister(0, COMMON.queueEnable, 2)).toBe(0)
    const legacy = new LegacyGuest(vm, guest.slot)
    const whole = new Ring(vm, { size: 256 }).clear()
    legacy.start(whole, 0xffff_ffff)
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    expect([guest.queueRegister(0, COMMON.queueEnable, 2), guest.accepted >> 32n]).toEqual([1, 0n])
    expect(read(legacy, whole)).toBe(OK)
  })

  it("FT-08 with NOTIFY_ON_EMPTY an empty ring raises an interrupt, although the driver wants none", () => {
    const legacy = new LegacyGuest(vm, modern().slot)
    const whole = new Ring(vm, { size: 256 })
    for (const [features, interrupts] of [
      [0, false],
      [1 << F.NOTIFY_ON_EMPTY, true],
      [(1 << F.NOTIFY_ON_EMPTY) | (1 << F.EVENT_IDX), true],
      [1 << F.EVENT_IDX, false],
    ] as const) {
      legacy.start(whole.clear(), features)
      whole.availFlags = 1
      whole.usedEvent = 100
      expect(read(legacy, whole)).toBe(OK)
      expect([features, legacy.interrupted]).toEqual([features, interrupts])
    }
  })

  it("FT-09 with ANY_LAYOUT a legacy request may come in odd pieces", () => {
    const legacy = new LegacyGuest(vm, modern().slot)
    const whole = new Ring(vm, { size: 256 })
    legacy.start(whole, 2 ** F.ANY_LAYOUT)
    const request = whole.prepare(T.IN, 3, SECTOR)
    // The header in 5 + 11 bytes, the data in 1 + 511 + the status.
    const pieces = [[request.header, 5, 0], [request.header + 5, 11, 0], [request.data, 1, WRITE], [
      request.data + 1, SECTOR, WRITE,
    ]] as const
    for (const [index, [address, length, flags]] of pieces.entries()) {
      whole.describe(index, address, length, flags | (index < 3 ? NEXT : 0), index + 1)
    }
    whole.publish(0)
    legacy.kick()
    expect([whole.usedEntry(0), vm.ram[request.data + SECTOR]]).toEqual([{ id: 0, length: SECTOR + 1 }, OK])
    expect(whole.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x5a))
  })

  it("FT-10 a legacy driver that accepts bit 30, or everything, gets the same device", () => {
    const legacy = new LegacyGuest(vm, modern().slot)
    const whole = new Ring(vm, { size: 256 })
    for (const features of [2 ** 30, 2 ** 31, 0xffff_ffff]) {
      expect(legacy.offered & 2 ** 30).toBe(0)
      legacy.start(whole.clear(), features)
      expect(legacy.status).toBe(0x07)
      expect(read(legacy, whole)).toBe(OK)
    }
  })

  it("FT-11 an indirect descriptor without INDIRECT_DESC is an error, and its table is not read", () => {
    const guest = modern()
    guest.start([ring])
    const request = ring.prepare(T.OUT, 3, SECTOR)
    vm.ram.copyWithin(0xf_0000, ring.desc, ring.desc + 48)
    ring.describe(0, 0xf_0000, 48, INDIRECT)
    ring.publish(0)
    guest.kick()
    expect([guest.status, ring.usedIdx, ring.status(request)]).toEqual([UP | 0x40, 0, UNTOUCHED])
    ring.clear()
    guest.start([ring])
    read(guest)
    expect(ring.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x5a))
  })

  it("FT-12 with EVENT_IDX the device obeys used_event, without it the flag", () => {
    const guest = modern()
    for (const [features, flags, event, interrupts] of [
      [0n, 0, 7, true], [0n, 1, 0, false], [mask(F.EVENT_IDX), 0, 7, false], [mask(F.EVENT_IDX), 1, 0, true],
    ] as const) {
      guest.start([ring.clear()], features)
      ring.availFlags = flags
      ring.usedEvent = event
      expect(read(guest)).toBe(OK)
      expect([features, flags, guest.interrupted]).toEqual([features, flags, interrupts])
      // avail_event behind the used ring is ours with EVENT_IDX; without it the word is left alone.
      expect(ring.ram.getUint16(ring.used + 4 + 8 * ring.size, true)).toBe(features === 0n ? 0 : 1)
    }
  })

  it("FT-13 addresses are guest-physical, and data may lie anywhere in RAM, up to its last byte", () => {
    const guest = modern()
    guest.start([ring])
    for (const address of [0, 0x1001, (1 << 20) - SECTOR]) {
      const request = ring.prepare(T.IN, 3, SECTOR)
      ring.describe(1, address, SECTOR, NEXT | WRITE, 2)
      ring.publish(0)
      guest.kick()
      expect([ring.status(request), vm.ram[address], vm.ram[address + SECTOR - 1]]).toEqual([OK, 0x5a, 0x5a])
    }
  })

  it("FT-27 CONFIG_WCE is allowed without FLUSH, and writeback starts at 0", () => {
    const guest = modern()
    expect(guest.negotiate(VERSION_1 | mask(F.CONFIG_WCE))).toBe(true)
    expect(guest.device.read(0x20, 1)).toBe(0)
    expect(guest.negotiate(VERSION_1 | mask(F.CONFIG_WCE, F.FLUSH))).toBe(true)
    expect(guest.device.read(0x20, 1)).toBe(1)
  })

  it("FT-29 a read-only disk refuses writes, whether the driver has accepted RO or not", () => {
    const guest = modern(new MemoryBacking({ size: 1 << 20, readOnly: true }))
    for (const features of [0n, mask(F.RO)]) {
      guest.start([ring.clear()], features)
      const request = ring.request(T.OUT, 3, SECTOR)
      guest.kick()
      expect(ring.status(request)).toBe(IOERR)
    }
  })
})
