/** Resets with requests in flight, of the device and of one queue ([VIRTIO] 2.4, 2.6.1), over a disk that answers when the test says so. */
import { beforeEach, describe, expect, it } from "vitest"
import { BackingError } from "../../src/backing/backing.ts"
import { type AttachedDisk, Machine } from "../../src/vmm/machine.ts"
import { FakeDisk, settled } from "../harness/fake-disk.ts"
import { LegacyGuest, ModernGuest } from "../harness/registers.ts"
import { Ring } from "../harness/ring.ts"
import { COMMON, F, mask, NO_VECTOR, T, UNTOUCHED, UP, VERSION_1 } from "../harness/words.ts"

const SECTOR = 512
const [OK, IOERR] = [0, 1]
const MESSAGE = { address: 0xfee0_1000, data: 0x51 }

let vm: Machine
let backing: FakeDisk
let disk: AttachedDisk
let guest: ModernGuest
let ring: Ring
let second: Ring
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
  backing = new FakeDisk({ content: Uint8Array.from({ length: 64 * SECTOR }, (_, at) => at / SECTOR + 1) })
  backing.waits = () => true
  disk = vm.attachDisk(backing, { queues: 2 })
  guest = new ModernGuest(vm, disk.slot)
  ring = new Ring(vm)
  second = new Ring(vm, { base: 0x2_0000, buffers: 0x8_0000 })
})

/** Runs `act`, after which no byte of RAM may be another, and no interrupt may have come. */
async function expectSilence(act: () => Promise<void>): Promise<void> {
  const before = vm.ram.slice()
  vm.interrupts.takeMessages()
  await act()
  expect(Buffer.compare(before, vm.ram)).toBe(0)
  expect([vm.interrupts.raised, vm.interrupts.takeMessages()]).toEqual([[], []])
}

/** The same of a ring's parts, while another ring may be at work. */
async function expectSilenceOf({ desc, used, size }: Ring, act: () => Promise<void>): Promise<void> {
  const before = vm.ram.slice(desc, used + 6 + 8 * size)
  await act()
  expect(Buffer.compare(before, vm.ram.subarray(desc, used + 6 + 8 * size))).toBe(0)
}

async function expectService(): Promise<void> {
  const before = ring.usedIdx
  const request = ring.request(T.IN, 2, SECTOR)
  guest.kick()
  await backing.finishNext()
  expect([ring.usedIdx, ring.status(request)]).toEqual([before + 1, OK])
  expect(ring.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(3))
}

describe("reset of the device", () => {
  it("ST-02 ST-03 PCI-24 with requests in flight status reads 0 at once, and nothing reaches the guest after that", async () => {
    guest.start([ring, second], VERSION_1 | mask(F.MQ))
    const requests = [ring.request(T.IN, 1, SECTOR, 0), ring.request(T.IN, 9, SECTOR, 1)]
    const written = second.request(T.OUT, 5, SECTOR)
    guest.kick(0)
    guest.kick(1)
    expect(backing.waiting.map(({ call }) => call.name)).toEqual(["read", "read", "write"])
    guest.status = 0
    expect(guest.status).toBe(0)
    await expectSilence(async () => {
      for (let left = 3; left > 0; left--) {
        guest.kick(0)
        await backing.finishNext()
      }
    })
    expect([...requests.map((request) => ring.status(request)), second.status(written)]).toEqual([UNTOUCHED, UNTOUCHED, UNTOUCHED])
    expect([ring.usedIdx, second.usedIdx, guest.readIsr(), vm.interrupts.raised]).toEqual([0, 0, 0, []])
    await expectSilence(settled)
    ring.clear()
    guest.start([ring])
    await expectService()
  })

  it("ST-02 a driver need not wait: what it writes right after a reset begins a new life", async () => {
    guest.start([ring], mask(F.EVENT_IDX, F.RING_RESET))
    const old = ring.request(T.IN, 1, SECTOR)
    guest.kick()
    guest.status = 0
    expect([
      guest.status,
      guest.accepted,
      guest.queueRegister(0, COMMON.queueEnable, 2),
      guest.queueRegister(0, COMMON.queueSize, 2),
    ]).toEqual([0, 0n, 0, 256])
    guest.start([second])
    // A read of the old life is nobody's business: the new life is served while it is out.
    const request = second.request(T.IN, 2, SECTOR)
    guest.kick()
    const [, newer] = backing.waiting
    newer?.finish()
    await settled()
    expect([second.usedIdx, second.status(request), second.data(request, 1)]).toEqual([1, OK, Uint8Array.of(3)])
    await expectSilenceOf(ring, () => backing.finishNext())
    expect([ring.status(old), ring.usedIdx]).toEqual([UNTOUCHED, 0])
  })

  it.each([["a write", T.OUT], ["a write-zeroes", T.WRITE_ZEROES], ["a discard", T.DISCARD]] as const)(
    "ST-02 the new life is served only after %s of the old one is answered, which cannot land on a newer one",
    async (_, type) => {
      guest.start([ring], VERSION_1 | mask(F.FLUSH, F.WRITE_ZEROES, F.DISCARD))
      const old = ring.request(type, 5, type === T.OUT ? SECTOR : 16)
      vm.ram.fill(type === T.OUT ? 0x11 : 0, old.data, old.data + SECTOR)
      if (type !== T.OUT) ring.ram.setUint32(old.data, 5, true)
      if (type !== T.OUT) ring.ram.setUint32(old.data + 8, 1, true)
      guest.kick()
      expect(backing.waiting).toHaveLength(1)
      guest.status = 0
      guest.start([second], VERSION_1 | mask(F.FLUSH))
      const newer = second.request(T.OUT, 5, SECTOR)
      vm.ram.fill(0x22, newer.data, newer.data + SECTOR)
      guest.kick()
      await settled()
      expect([backing.waiting.length, second.usedIdx]).toEqual([1, 0])
      await backing.finishNext()
      expect([backing.waiting.length, second.usedIdx]).toEqual([1, 0])
      await backing.finishNext()
      expect([second.usedIdx, second.status(newer), ring.usedIdx, ring.status(old)]).toEqual([1, OK, 0, UNTOUCHED])
      expect(backing.cache.subarray(5 * SECTOR, 6 * SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x22))
    },
  )

  it("ST-02 the new life is served also after a write of the old one fails", async () => {
    guest.start([ring])
    ring.request(T.OUT, 5, SECTOR)
    guest.kick()
    guest.status = 0
    guest.start([second], VERSION_1 | mask(F.FLUSH))
    const newer = second.request(T.OUT, 6, SECTOR)
    guest.kick()
    backing.next().fail(new BackingError("io", "the host says no"))
    await settled()
    await backing.finishNext()
    expect([second.usedIdx, second.status(newer)]).toEqual([1, OK])
  })

  it("ST-02 ST-03 after a reset of the machine no old read reaches new RAM, and no old write lands on a newer one", async () => {
    guest.start([ring], VERSION_1 | mask(F.FLUSH))
    ring.request(T.IN, 1, SECTOR, 0)
    ring.request(T.OUT, 5, SECTOR, 1)
    guest.kick()
    vm.reset()
    vm.ram.fill(0)
    await expectSilence(() => backing.finishNext())
    const rebooted = new ModernGuest(vm, disk.slot)
    rebooted.start([ring.clear()], VERSION_1 | mask(F.FLUSH))
    const newer = ring.request(T.OUT, 5, SECTOR)
    vm.ram.fill(0x33, newer.data, newer.data + SECTOR)
    rebooted.kick()
    expect(backing.waiting.map(({ call }) => call.name)).toEqual(["write"])
    await backing.finishNext()
    await backing.finishNext()
    expect([ring.usedIdx, ring.status(newer)]).toEqual([1, OK])
    expect(backing.cache.subarray(5 * SECTOR, 6 * SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x33))
  })

  it("ST-03 a write in write-through mode whose flush is not answered does not complete after a reset", async () => {
    guest.start([ring])
    const request = ring.request(T.OUT, 5, SECTOR)
    guest.kick()
    await backing.finishNext()
    expect(backing.waiting.map(({ call }) => call.name)).toEqual(["flush"])
    guest.status = 0
    expect(guest.status).toBe(0)
    await expectSilence(() => backing.finishNext())
    expect([guest.status, ring.status(request)]).toEqual([0, UNTOUCHED])
  })

  it("ST-03 a request that fails after a reset does not complete either", async () => {
    guest.start([ring])
    ring.request(T.IN, 1, SECTOR)
    guest.kick()
    guest.status = 0
    await expectSilence(async () => {
      backing.waiting[0]?.fail(new BackingError("io", "the host says no"))
      await settled()
    })
    expect([guest.status, guest.readIsr()]).toEqual([0, 0])
  })

  it("ST-03 a reset drops a message that waits behind a mask", async () => {
    guest.start([ring])
    guest.programVector(0, { ...MESSAGE, masked: true })
    guest.setQueueRegister(0, COMMON.queueVector, 2, 0)
    await expectService()
    expect(disk.function.msix?.isPending(0)).toBe(true)
    guest.status = 0
    await expectSilence(async () => guest.programVector(0, MESSAGE))
  })

  it("ST-04 a reset clears features, queues, ring positions, vectors and ISR, and the next request is at index 0", async () => {
    const small = new Ring(vm, { size: 4 })
    guest.start([small], VERSION_1 | mask(F.EVENT_IDX, F.MQ))
    guest.common.write(COMMON.configVector, 2, 1)
    guest.setQueueRegister(1, COMMON.queueVector, 2, 2)
    for (let round = 0; round < 7; round++) {
      small.usedEvent = round
      small.request(T.IN, round, SECTOR)
      guest.kick()
      await backing.finishNext()
    }
    expect([small.usedIdx, guest.interrupted]).toEqual([7, true])
    disk.device.capacityChanged()
    guest.status = 0
    expect([COMMON.deviceFeatureSelect, COMMON.driverFeatureSelect].map((offset) => guest.common.read(offset, 4))).toEqual([0, 0])
    expect([
      guest.status,
      guest.accepted,
      guest.interrupted,
      guest.readIsr(),
      guest.common.read(COMMON.configVector, 2),
    ]).toEqual([0, 0n, false, 0, NO_VECTOR])
    for (const queue of [0, 1]) {
      const registers = [COMMON.queueSize, COMMON.queueVector, COMMON.queueEnable, COMMON.queueReset] as const
      expect(registers.map((offset) => guest.queueRegister(queue, offset, 2))).toEqual([256, NO_VECTOR, 0, 0])
      for (let offset: number = COMMON.queueDesc; offset < COMMON.queueNotifConfigData; offset += 4) {
        expect(guest.queueRegister(queue, offset, 4)).toBe(0)
      }
    }
    small.clear()
    guest.start([small])
    // EVENT_IDX is off now, and the junk in used_event means nothing.
    small.usedEvent = 1000
    const request = small.request(T.IN, 2, SECTOR, 0)
    guest.kick()
    await backing.finishNext()
    expect([
      small.usedIdx, small.usedEntry(0), small.status(request), guest.interrupted,
    ]).toEqual([1, { id: 0, length: SECTOR + 1 }, OK, true])
  })

  it("ST-02 LEG-14 a reset works through the legacy status register as well", async () => {
    const legacy = new LegacyGuest(vm, disk.slot)
    const whole = new Ring(vm, { size: 256 })
    legacy.start(whole)
    const request = whole.request(T.IN, 1, SECTOR)
    legacy.kick()
    legacy.status = 0
    // SeaBIOS, and legacy drivers of Linux, U-Boot, FreeBSD and Windows do not wait.
    expect([legacy.status, legacy.io.read(8, 4)]).toEqual([0, 0])
    await backing.finishNext()
    expect([legacy.status, whole.usedIdx, whole.status(request), legacy.interrupted]).toEqual([0, 0, UNTOUCHED, false])
  })

  it("ST-03 a disk unplugged with requests in flight stays silent, and is idle once they are answered", async () => {
    guest.start([ring])
    ring.request(T.FLUSH, 0, 0, 0)
    ring.request(T.FLUSH, 0, 0, 1)
    guest.kick()
    await backing.finishNext()
    expect([ring.usedIdx, guest.interrupted]).toEqual([1, true])
    const device = vm.detachDisk(disk.slot)
    let idle = false
    const whenIdle = device.whenIdle().then(() => (idle = true))
    expect([guest.config(0, 4), guest.common.read(COMMON.status, 1)]).toEqual([0xffff_ffff, 0xff])
    await expectSilence(async () => {
      await settled()
      expect(idle).toBe(false)
      await backing.finishNext()
    })
    await whenIdle
  })
})

describe("reset of a queue", () => {
  beforeEach(() => guest.start([ring, second], VERSION_1 | mask(F.MQ, F.RING_RESET)))

  it("VQ-32 PCI-23 FT-20 with requests in flight queue_reset and queue_enable read 0 at once, and other queues go on", async () => {
    const request = ring.request(T.IN, 1, SECTOR)
    guest.kick(0)
    const other = second.request(T.FLUSH, 0, 0)
    guest.kick(1)
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    expect([COMMON.queueReset, COMMON.queueEnable].map((offset) => guest.queueRegister(0, offset, 2))).toEqual([0, 0])
    expect(guest.queueRegister(1, COMMON.queueEnable, 2)).toBe(1)
    guest.kick(0)
    expect(backing.waiting.length).toBe(2)
    await expectSilence(() => backing.finishNext())
    expect([ring.usedIdx, ring.status(request), guest.interrupted]).toEqual([0, UNTOUCHED, false])
    await backing.finishNext()
    expect([second.usedIdx, second.status(other), guest.interrupted]).toEqual([1, OK, true])
  })

  it("VQ-32 a reset queue has freed its memory, and can be enabled elsewhere with another size", async () => {
    for (const slot of [0, 1, 2]) {
      ring.request(T.IN, slot, SECTOR, slot)
      guest.kick(0)
    }
    await backing.finishNext()
    expect(ring.usedIdx).toBe(1)
    guest.readIsr()
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    while (backing.waiting.length > 0) await backing.finishNext()
    const registers = [COMMON.queueSize, COMMON.queueEnable, COMMON.queueReset] as const
    expect(registers.map((offset) => guest.queueRegister(0, offset, 2))).toEqual([256, 0, 0])
    vm.ram.fill(0xee, ring.desc, 0x2_0000)
    await expectSilence(async () => guest.kick(0))
    const next = new Ring(vm, { size: 4, base: 0x3_0000 }).clear()
    guest.enable(0, next)
    expect([COMMON.queueEnable, COMMON.queueReset, COMMON.queueSize].map((offset) => guest.queueRegister(0, offset, 2))).toEqual([1, 0, 4])
    const request = next.request(T.IN, 7, SECTOR)
    guest.kick(0)
    await backing.finishNext()
    expect([next.usedIdx, next.usedEntry(0), next.status(request)]).toEqual([1, { id: 0, length: SECTOR + 1 }, OK])
    expect(next.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(8))
  })

  it("VQ-32 a queue reset unmaps its vector: it raises no interrupt until the driver maps it again", () => {
    guest.setQueueRegister(0, COMMON.queueVector, 2, 1)
    guest.setQueueRegister(1, COMMON.queueVector, 2, 1)
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    expect([guest.queueRegister(0, COMMON.queueVector, 2), guest.queueRegister(1, COMMON.queueVector, 2)]).toEqual([NO_VECTOR, 1])
  })

  it("VQ-32 PCI-23 a reset queue can be enabled at once, and is served once the old life's writes of any queue are answered", async () => {
    const old = ring.request(T.OUT, 5, SECTOR)
    vm.ram.fill(0x11, old.data, old.data + SECTOR)
    guest.kick(0)
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    const next = new Ring(vm, { size: 4, base: 0x3_0000, buffers: 0x6_0000 }).clear()
    guest.enable(0, next)
    const [newer, other] = [next.request(T.OUT, 5, SECTOR), second.request(T.IN, 5, SECTOR)]
    vm.ram.fill(0x22, newer.data, newer.data + SECTOR)
    guest.kick(0)
    guest.kick(1)
    expect(backing.waiting).toHaveLength(1)
    // The write, its successor, the flush of that (write-through), and the read.
    while (backing.waiting.length > 0) await backing.finishNext()
    expect([
      ring.usedIdx, ring.status(old), next.usedIdx, next.status(newer), second.usedIdx, second.status(other),
    ]).toEqual([0, UNTOUCHED, 1, OK, 1, OK])
    expect(backing.cache.subarray(5 * SECTOR, 6 * SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x22))
  })

  it("PCI-23 without RING_RESET there is no register; writing 0 or 2, or for a missing queue, does nothing", () => {
    for (const value of [0, 2, 0xffff]) {
      guest.setQueueRegister(0, COMMON.queueReset, 2, value)
      expect(guest.queueRegister(0, COMMON.queueEnable, 2)).toBe(1)
    }
    guest.setQueueRegister(2, COMMON.queueReset, 2, 1)
    expect(guest.queueRegister(2, COMMON.queueReset, 2)).toBe(0)
    ring.clear()
    guest.start([ring], VERSION_1)
    ring.request(T.FLUSH, 0, 0)
    guest.kick(0)
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    expect([COMMON.queueReset, COMMON.queueEnable].map((offset) => guest.queueRegister(0, offset, 2))).toEqual([0, 1])
  })
})

describe("bus mastering while requests are in flight", () => {
  beforeEach(() => guest.start([ring]))

  it("PCI-36 while bus mastering is off answers of the disk wait until it is on again", async () => {
    const requests = [ring.request(T.FLUSH, 0, 0, 0), ring.request(T.OUT, 4, SECTOR, 1)]
    guest.kick()
    guest.command = 3
    await expectSilence(async () => {
      backing.waiting[1]?.fail(new BackingError("io", "the host says no"))
      await backing.finishNext()
    })
    guest.command = 7
    expect([ring.usedIdx, ...requests.map((request) => ring.status(request)), guest.interrupted]).toEqual([2, OK, IOERR, true])
    await expectService()
  })

  it("PCI-36 a reset does not wait for bus mastering, and drops the answers", async () => {
    ring.request(T.FLUSH, 0, 0)
    guest.kick()
    guest.command = 3
    await backing.finishNext()
    guest.status = 0
    expect(guest.status).toBe(0)
    await expectSilence(async () => {
      guest.command = 7
    })
    ring.clear()
    guest.start([ring])
    await expectService()
  })

  it("PCI-36 neither a queue reset nor closing the disk waits for bus mastering", async () => {
    guest.status = 0
    guest.start([ring.clear(), second.clear()], VERSION_1 | mask(F.RING_RESET))
    ring.request(T.FLUSH, 0, 0)
    guest.kick(0)
    const other = second.request(T.FLUSH, 0, 0)
    guest.kick(1)
    guest.command = 3
    await backing.finishNext()
    await backing.finishNext()
    await disk.device.whenIdle()
    // A guest cannot keep its state from being saved.
    expect(disk.device.virtio.saveState().queues.map(({ position, heads }) => [position, heads])).toEqual([[0, [0]], [0, [0]]])
    guest.setQueueRegister(0, COMMON.queueReset, 2, 1)
    expect([COMMON.queueReset, COMMON.queueEnable].map((offset) => guest.queueRegister(0, offset, 2))).toEqual([0, 0])
    expect([ring.usedIdx, second.usedIdx]).toEqual([0, 0])
    guest.command = 7
    expect([ring.usedIdx, second.usedIdx, second.status(other)]).toEqual([0, 1, OK])
    expect(disk.device.virtio.saveState().status).toBe(UP)
  })
})
