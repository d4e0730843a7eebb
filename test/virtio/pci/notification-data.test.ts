/** NOTIFICATION_DATA and NOTIF_CONFIG_DATA over PCI ([VIRTIO] 2.9, 4.1.5.2): kicks that say more. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { RingGuest } from "../../harness/guest.ts"
import { MmioGuest } from "../../harness/mmio.ts"
import { COMMON, F, OK, T } from "../../harness/words.ts"
import { Machine } from "../../../src/vmm/machine.ts"

const BOTH = ["NOTIFICATION_DATA", "NOTIF_CONFIG_DATA"] as const
const PLACES = [["a memory BAR", "memory"], ["an I/O BAR", "io"]] as const

/** A guest with four queues, and its kicks of 32 bits. */
function guestOf(modernBar: "memory" | "io", features: readonly number[]) {
  const backing = new MemoryBacking({ size: 1 << 20 })
  const one = new RingGuest({ backing, features: [F.MQ, ...features], queues: 4, disk: { queues: 4, modernBar, withFeatures: BOTH } })
  const { notify, multiplier, vm } = one.modern
  const { io, address } = one.modern.barAddress(notify.bar)
  const kick = (queue: number, data: number): void => {
    const at = address + notify.offset + one.modern.queueRegister(queue, COMMON.queueNotifyOff, 2) * multiplier
    const value = ((data * 0x1_0000) >>> 0) + queue
    if (io) vm.portWrite(at, 4, value)
    else vm.mmioWrite(at, 4, value)
  }
  return { one, kick, notify, multiplier }
}

describe.each(PLACES)("in %s", (_, modernBar) => {
  it("FT-18 VQ-30 VQ-33 PCI-22 a kick of 32 bits serves the ring, whether the index in its upper half is right or wrong", () => {
    const { one, kick } = guestOf(modernBar, [F.NOTIFICATION_DATA])
    for (const ring of one.rings) {
      // The next index, one that was there before, one that was never there, and one with bit 15.
      for (const data of [undefined, 0, 0x1234, 0x8003, 0xffff]) {
        const placed = one.place({ type: T.IN, sector: 1, in: 512 })
        one.publish([one.chain(placed.pieces, {}, ring)], ring)
        kick(ring.index, data ?? ring.availIdx)
        expect([ring.index, one.takeUsed(ring).length, one.reply(placed, 0).status]).toEqual([ring.index, 1, OK])
      }
      kick(ring.index, 7)
      expect(one.takeUsed(ring)).toEqual([])
    }
    kick(9, 0)
    expect(one.status).toBe(0x0f)
  })

  it("PCI-10 PCI-21 VQ-33 the notification structure has room for 32 bits of every queue, at multiples of 4", () => {
    const { one, notify, multiplier } = guestOf(modernBar, [])
    expect([notify.offset % 4, multiplier === 0 || (multiplier % 4 === 0 && Number.isInteger(Math.log2(multiplier)))]).toEqual([0, true])
    for (let queue = 0; queue < 4; queue++) {
      expect(one.modern.queueRegister(queue, COMMON.queueNotifyOff, 2) * multiplier + 4).toBeLessThanOrEqual(notify.length)
    }
  })

  it("FT-19 PCI-15 PCI-22 queue_notif_config_data has the value for a kick once the feature was accepted", () => {
    for (const features of [[F.NOTIF_CONFIG_DATA], [F.NOTIF_CONFIG_DATA, F.NOTIFICATION_DATA]]) {
      const { one, kick } = guestOf(modernBar, features)
      for (const ring of one.rings) {
        const data = one.modern.queueRegister(ring.index, COMMON.queueNotifConfigData, 2)
        const placed = one.place({ type: T.IN, sector: 1, in: 512 })
        one.publish([one.chain(placed.pieces, {}, ring)], ring)
        if (features.length === 2) kick(data, ring.availIdx)
        else one.modern.bell(data)()
        expect([one.takeUsed(ring).length, one.reply(placed, 0).status]).toEqual([1, OK])
        one.modern.setQueueRegister(ring.index, COMMON.queueNotifConfigData, 2, 0xffff)
        expect(one.modern.queueRegister(ring.index, COMMON.queueNotifConfigData, 2)).toBe(data)
      }
      expect(one.modern.queueRegister(4, COMMON.queueNotifConfigData, 2)).toBe(0)
      one.start([F.MQ])
      expect(one.modern.queueRegister(3, COMMON.queueNotifConfigData, 2)).toBe(0)
    }
  })
})

describe("over MMIO", () => {
  it("FT-19 MMIO-04 NOTIFICATION_DATA can be offered, NOTIF_CONFIG_DATA cannot", () => {
    const machine = new Machine({ ramSize: 1 << 20 })
    const disk = machine.attachMmioDisk(new MemoryBacking({ size: 1 << 20 }), { withFeatures: BOTH })
    expect([38n, 39n].map((bit) => (new MmioGuest(machine, disk).offered >> bit) & 1n)).toEqual([1n, 0n])
  })
})

it("FT-18 FT-19 both are offered only on request, and never to a legacy driver", () => {
  const backing = new MemoryBacking({ size: 1 << 20 })
  const plain = new RingGuest({ backing })
  const legacy = new RingGuest({ backing, legacy: true, disk: { withFeatures: BOTH } })
  expect([plain.offers(38), plain.offers(39), legacy.offers(38), legacy.offers(39)]).toEqual([false, false, false, false])
})
