/** Device status ([VIRTIO] 2.1): the handshake, what happens before DRIVER_OK, errors that need a reset. Resets are in reset.test.ts. */
import { beforeEach, describe, expect, it } from "vitest"
import { Machine } from "../../src/vmm/machine.ts"
import { markedDisk } from "../harness/marked-disk.ts"
import { LegacyGuest, ModernGuest } from "../harness/registers.ts"
import { Ring } from "../harness/ring.ts"
import { COMMON, F, mask, NEXT, STATUS, T, UNTOUCHED, UP, VERSION_1, WRITE } from "../harness/words.ts"

const SECTOR = 512
const OK = 0

let vm: Machine
let guest: ModernGuest
let ring: Ring
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
  guest = new ModernGuest(vm, vm.attachDisk(markedDisk()).slot)
  ring = new Ring(vm)
})

/** A read of sector 3 that must be served, by a kick unless told otherwise. */
function expectService(): void {
  const before = ring.usedIdx
  const request = ring.request(T.IN, 3, SECTOR)
  guest.kick()
  expect([ring.usedIdx, ring.status(request)]).toEqual([before + 1, OK])
  expect(ring.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x5a))
}

/** Makes a chain available whose only descriptor leads to itself. */
function breakRing(): void {
  ring.describe(9, ring.buffers, 16, NEXT, 9)
  ring.publish(9)
  guest.kick()
}

describe("the handshake", () => {
  it("ST-01 status starts at 0 and shows the steps of the driver", () => {
    expect(guest.status).toBe(0)
    guest.acceptWord(1, 1)
    for (const step of [0x01, 0x03, 0x0b, 0x0f]) {
      guest.status = step
      expect(guest.status).toBe(step)
    }
    expect(new LegacyGuest(vm, guest.slot).status).toBe(0x0f)
  })

  it("ST-07 an unacceptable set of features makes FEATURES_OK read 0, and the other bits stay", () => {
    for (const [low, high] of [[1 << F.SIZE_MAX, 0], [1 << F.SIZE_MAX, 1], [0, 1 | (1 << (F.RING_PACKED - 32))]] as const) {
      guest.status = 0
      guest.status = 0x01
      guest.acceptWord(0, low)
      guest.acceptWord(1, high)
      guest.status = 0x0b
      expect(guest.status).toBe(0x03)
    }
  })

  it("ST-07 DRIVER_OK without FEATURES_OK does not start a device", () => {
    expect(guest.negotiate(mask(F.VERSION_1, F.RING_PACKED))).toBe(false)
    guest.enable(0, ring)
    const request = ring.request(T.IN, 3, SECTOR)
    guest.status = 0x0f
    guest.kick()
    expect([guest.status, ring.usedIdx, ring.status(request)]).toEqual([0x07, 0, UNTOUCHED])
  })

  it("ST-08 every subset of the offered features that has VERSION_1 is accepted, and reads work with it", () => {
    const { offered } = guest
    const bits = [...Array(64).keys()].filter((bit) => bit !== F.VERSION_1 && (offered & mask(bit)) !== 0n)
    expect(bits.length).toBeGreaterThan(8)
    for (let choice = 0; choice < 2 ** bits.length; choice++) {
      const features = VERSION_1 | mask(...bits.filter((_, index) => (choice & (1 << index)) !== 0))
      if (!guest.negotiate(features)) throw new Error(`refused: ${features.toString(16)}`)
      ring.clear()
      guest.enable(0, ring)
      guest.status = UP
      const request = ring.request(T.IN, 3, SECTOR)
      guest.kick()
      if (ring.usedIdx !== 1 || ring.status(request) !== OK) throw new Error(`no service: ${features.toString(16)}`)
    }
  })

  it("ST-09 a set of features that was accepted once is accepted after every reset", () => {
    const { offered } = guest
    for (let round = 0; round < 100; round++) {
      expect(guest.negotiate(offered)).toBe(true)
      expect(guest.accepted).toBe(offered)
      ring.clear()
      guest.enable(0, ring)
      guest.status = UP
      expectService()
    }
  })

  it("ST-10 features do not change from FEATURES_OK to reset: EVENT_IDX stays on, whatever is written", () => {
    guest.start([ring], mask(F.EVENT_IDX))
    guest.acceptWord(0, 0)
    guest.acceptWord(1, 0)
    expect(guest.accepted).toBe(mask(F.EVENT_IDX, F.VERSION_1))
    // With EVENT_IDX, flag NO_INTERRUPT means nothing, and used_event 0 asks for an interrupt with the first buffer.
    ring.availFlags = 1
    ring.usedEvent = 0
    expectService()
    expect(guest.interrupted).toBe(true)
    // Dropping FEATURES_OK does not thaw them: only a reset does.
    guest.status = 0x03
    guest.acceptWord(0, 0)
    expect(guest.accepted).toBe(mask(F.EVENT_IDX, F.VERSION_1))
    guest.status = 0
    expect(guest.accepted).toBe(0n)
  })
})

describe("DRIVER_OK", () => {
  it("ST-05 ST-06 before DRIVER_OK no request is taken and no interrupt raised; then waiting requests need no other kick", () => {
    guest.negotiate(VERSION_1)
    guest.enable(0, ring)
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect([ring.usedIdx, ring.status(request), guest.interrupted, guest.readIsr()]).toEqual([0, UNTOUCHED, false, 0])
    guest.status = UP
    expect([ring.usedIdx, ring.status(request), guest.interrupted, guest.readIsr()]).toEqual([1, OK, true, 1])
  })

  it("ST-06 writing DRIVER_OK again looks at no queue", () => {
    guest.negotiate(VERSION_1)
    guest.enable(0, ring)
    guest.status = UP
    const request = ring.request(T.IN, 3, SECTOR)
    guest.status = UP
    expect([ring.usedIdx, ring.status(request)]).toEqual([0, UNTOUCHED])
    guest.kick()
    expect(ring.usedIdx).toBe(1)
  })

  it("ST-06 a queue that was not enabled at DRIVER_OK is not looked at", () => {
    guest.negotiate(VERSION_1)
    const request = ring.request(T.IN, 3, SECTOR)
    guest.status = UP
    guest.kick()
    expect([ring.usedIdx, ring.status(request)]).toEqual([0, UNTOUCHED])
  })
})

describe("DEVICE_NEEDS_RESET", () => {
  it("ST-11 ST-12 a chain that loops sets it, with one configuration change notification", () => {
    guest.start([ring])
    breakRing()
    expect(guest.status).toBe(0x4f)
    expect(guest.interrupted).toBe(true)
    // Both bits, as QEMU has it: its own test suite waits for bit 0.
    expect(guest.readIsr()).toBe(3)
    guest.kick()
    expect([guest.interrupted, guest.readIsr(), ring.usedIdx]).toEqual([false, 0, 0])
  })

  it("ST-12 with MSI-X the notification comes by the configuration vector, once", () => {
    guest.start([ring])
    guest.programVector(1, { address: 0xfee0_0000, data: 0x41 })
    guest.common.write(COMMON.configVector, 2, 1)
    breakRing()
    guest.kick()
    expect(vm.interrupts.takeMessages()).toEqual([{ address: 0xfee0_0000, data: 0x41 }])
  })

  it("ST-13 the driver can neither clear nor set it, and the device stays idle until it is reset", () => {
    guest.start([ring])
    breakRing()
    for (const status of [0x0f, 0x0b, 0x01, 0x4f]) {
      guest.status = status
      expect(guest.status).toBe(status | 0x40)
    }
    guest.status = UP
    ring.clear()
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect([ring.usedIdx, ring.status(request)]).toEqual([0, UNTOUCHED])
    ring.clear()
    guest.start([ring])
    expect(guest.status).toBe(UP)
    expectService()
    guest.status = 0x4f
    expect(guest.status).toBe(UP)
    expectService()
  })

  it("ST-13 a driver that resets the device inside the interrupt of the last good request gets a working device", () => {
    guest.start([ring])
    let resets = 0
    vm.interrupts.subscribe(() => {
      if (!guest.interrupted || resets > 0) return
      resets++
      ring.clear()
      guest.start([ring])
    })
    // One kick finds both: what was good is answered first, and the answer makes the driver start anew.
    ring.request(T.IN, 3, SECTOR)
    ring.describe(9, ring.buffers, 16, NEXT | WRITE, 9)
    ring.publish(9)
    guest.kick()
    expect([resets, guest.status]).toEqual([1, UP])
    expectService()
  })
})

describe("status writes that are no reset", () => {
  it("ST-14 FAILED stops service until a reset", () => {
    guest.start([ring])
    guest.status = UP | STATUS.FAILED
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect([guest.status, ring.usedIdx, ring.status(request)]).toEqual([0x8f, 0, UNTOUCHED])
    guest.status = UP
    guest.kick()
    expect([ring.usedIdx, ring.status(request)]).toEqual([0, UNTOUCHED])
    guest.status = 0
    expect(guest.status).toBe(0)
    ring.clear()
    guest.start([ring])
    expectService()
  })

  it("ST-14 a write that drops bits keeps features and queues", () => {
    guest.start([ring], mask(F.EVENT_IDX))
    expectService()
    guest.status = STATUS.ACKNOWLEDGE
    expect(guest.status).toBe(STATUS.ACKNOWLEDGE)
    expect(guest.accepted).toBe(mask(F.EVENT_IDX, F.VERSION_1))
    expect(guest.queueRegister(0, COMMON.queueEnable, 2)).toBe(1)
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect([ring.usedIdx, ring.status(request)]).toEqual([1, UNTOUCHED])
    guest.status = UP
    expect([ring.usedIdx, ring.status(request)]).toEqual([2, OK])
  })

  it("ST-15 without SUSPEND offered its bit and undefined bits do nothing, and never make the status read 0", () => {
    guest.start([ring])
    expect(guest.offered & mask(F.SUSPEND)).toBe(0n)
    for (const status of [0x10, 0x20, 0x40, 0x70]) {
      guest.status = status
      expect(guest.status).toBe(UP)
    }
    guest.status = UP | STATUS.SUSPEND
    expect(guest.status).toBe(UP)
    expectService()
  })
})
