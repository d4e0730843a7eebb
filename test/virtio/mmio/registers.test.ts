/** Version 2 of virtio over MMIO: its registers, queues, interrupts and state ([VIRTIO] 4.2.2 and 4.2.3). */
import { beforeEach, describe, expect, it } from "vitest"
import type { MemoryBacking } from "../../../src/backing/memory.ts"
import { type AttachedMmioDisk } from "../../../src/vmm/mmio-disks.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { markedDisk } from "../../harness/marked-disk.ts"
import { CONFIG, MMIO, MmioGuest, USED } from "../../harness/mmio.ts"
import { Ring } from "../../harness/ring.ts"
import { F, IOERR, mask, NEEDS_RESET, NEXT, OK, T, UNTOUCHED, UP, VERSION_1 } from "../../harness/words.ts"

const SECTOR = 512
const CAPACITY = 2048 + 1

let vm: Machine
let backing: MemoryBacking
let disk: AttachedMmioDisk
let guest: MmioGuest
let ring: Ring
beforeEach(() => {
  vm = new Machine({ ramSize: 2 << 20 })
  backing = markedDisk(CAPACITY * SECTOR)
  disk = vm.attachMmioDisk(backing, { queues: 2 })
  guest = new MmioGuest(vm, disk)
  ring = new Ring(vm, { size: 16 })
})

/** A read of sector 3, kicked with `value`; returns its status byte. */
function read(value = 0, rings = ring): number {
  const request = rings.request(T.IN, 3, SECTOR)
  guest.kick(value)
  if (rings.status(request) === OK) expect(rings.data(request, SECTOR)).toEqual(new Uint8Array(SECTOR).fill(0x5a))
  return rings.status(request)
}

describe("registers", () => {
  it("MMIO-01 the registers begin with magic, version 2, device type and vendor", () => {
    const [magic, version, deviceId, vendorId] = [MMIO.magic, MMIO.version, MMIO.deviceId, MMIO.vendorId].map((at) => guest.read(at))
    expect([magic, version, deviceId]).toEqual([0x7472_6976, 2, 2])
    expect(vendorId).toBeGreaterThan(0)
    for (let at = 0; at < 0x10; at += 4) guest.write(at, 0xffff_ffff)
    expect(guest.read(MMIO.magic)).toBe(0x7472_6976)
  })

  it("MMIO-02 a place without a device shows magic and version, and device type 0", () => {
    const empty = new MmioGuest(vm, { ...disk, address: disk.address + 0x1000 })
    const begin = (at: MmioGuest): number[] => [MMIO.magic, MMIO.version, MMIO.deviceId, MMIO.queueSizeMax].map((offset) => at.read(offset))
    expect(begin(empty)).toEqual([0x7472_6976, 2, 0, 0])
    empty.status = 1
    expect(empty.status).toBe(0)
    expect(begin(guest)).toEqual([0x7472_6976, 2, 2, 256])
    vm.detachMmioDisk(disk.address)
    expect(begin(guest)).toEqual([0x7472_6976, 2, 0, 0])
    // The place can be taken again.
    expect(vm.attachMmioDisk(backing).address).toBe(disk.address)
    expect(begin(guest)).toEqual([0x7472_6976, 2, 2, 256])
  })

  it("MMIO-03 FT-04 features are read in windows of 32 bits, and the largest queue size is 0 for a missing queue", () => {
    const words = [0, 1, 2, 0xffff_ffff].map((select) => guest.offeredWord(select))
    expect(words.slice(2)).toEqual([0, 0])
    expect(guest.offered & VERSION_1).toBe(VERSION_1)
    expect([0, 1, 2, 0xffff_ffff].map((queue) => guest.queue(queue, MMIO.queueSizeMax))).toEqual([256, 256, 0, 0])
    expect(guest.negotiate(VERSION_1 | mask(F.FLUSH))).toBe(true)
    expect(guest.negotiate(VERSION_1 | mask(F.UNUSED_30))).toBe(false)
    expect(guest.negotiate(mask(F.FLUSH))).toBe(false)
  })

  it("MMIO-03 MMIO-07 MMIO-15 write-only registers read 0, and read-only ones ignore writes", () => {
    const writeOnly = [
      MMIO.deviceFeaturesSel, MMIO.driverFeatures, MMIO.driverFeaturesSel, MMIO.queueSel, MMIO.queueSize, MMIO.queueNotify,
      MMIO.interruptAck, MMIO.queueDescLow, MMIO.queueDescHigh, MMIO.queueDriverLow, MMIO.queueDriverHigh, MMIO.queueDeviceLow,
      MMIO.queueDeviceHigh, MMIO.shmSel,
    ]
    for (const at of writeOnly) {
      guest.write(at, 1)
      expect([at, guest.read(at)]).toEqual([at, 0])
    }
    guest.write(MMIO.queueSel, 0)
    for (const at of [MMIO.deviceFeatures, MMIO.queueSizeMax, MMIO.interruptStatus, MMIO.configGeneration]) {
      const before = guest.read(at)
      guest.write(at, 0xffff_ffff)
      expect([at, guest.read(at)]).toEqual([at, before])
    }
  })

  it("MMIO-06 ST-01 status reads back, and 0 resets the device", () => {
    for (const status of [0x01, 0x03]) {
      guest.status = status
      expect(guest.status).toBe(status)
    }
    guest.start([ring.clear()])
    expect([guest.status, guest.queue(0, MMIO.queueReady)]).toEqual([UP, 1])
    guest.write(MMIO.status, 0x100)
    expect(guest.status).toBe(UP)
    guest.status = 0
    expect([guest.status, guest.queue(0, MMIO.queueReady)]).toEqual([0, 0])
  })

  it("MMIO-08 no id has shared memory", () => {
    for (const id of [0, 1, 255, 0xffff_ffff]) {
      guest.write(MMIO.shmSel, id)
      for (const at of [MMIO.shmLenLow, MMIO.shmLenHigh, MMIO.shmBaseLow, MMIO.shmBaseHigh]) expect(guest.read(at)).toBe(0xffff_ffff)
    }
  })

  it("MMIO-09 CF-05 the configuration begins at 0x100, and is read in any width", () => {
    backing.resize(0x1_2345_6789 * SECTOR)
    disk.device.capacityChanged()
    expect([guest.device.read(0, 4), guest.device.read(4, 4)]).toEqual([0x2345_6789, 1])
    expect([0, 1, 2, 3].map((at) => guest.device.read(at, 1))).toEqual([0x89, 0x67, 0x45, 0x23])
    expect([guest.device.read(1, 2), guest.device.read(3, 4), guest.read(0xfff, 1)]).toEqual([0x4567, 0x123, 0])
    expect(guest.device.read(0x20, 1)).toBe(1)
    guest.negotiate(VERSION_1 | mask(F.FLUSH, F.CONFIG_WCE))
    guest.device.write(0x20, 1, 0)
    expect(guest.device.read(0x20, 1)).toBe(0)
  })

  it("MMIO-13 CF-03 ConfigGeneration differs after any number of changes between two reads", () => {
    const before = guest.read(MMIO.configGeneration)
    expect(guest.read(MMIO.configGeneration)).toBe(before)
    for (let change = 1; change <= 256; change++) {
      backing.resize((CAPACITY + change) * SECTOR)
      disk.device.capacityChanged()
    }
    const after = guest.read(MMIO.configGeneration)
    expect(after).not.toBe(before)
    expect(guest.read(MMIO.configGeneration)).toBe(after)
  })

  it("MMIO-15 control registers are accessed by aligned words: any other access reads 0 and writes nothing", () => {
    guest.status = 0x03
    for (const width of [1, 2] as const) {
      expect([guest.read(MMIO.magic, width), guest.read(MMIO.status, width), guest.read(MMIO.queueSizeMax, width)]).toEqual([0, 0, 0])
      guest.write(MMIO.status, 0, width)
    }
    for (const at of [MMIO.status - 2, MMIO.status + 1, MMIO.status + 2, MMIO.status + 3]) {
      expect(guest.read(at)).toBe(0)
      guest.write(at, 0)
    }
    expect(guest.status).toBe(0x03)
    for (const at of [0x18, 0x54, 0x0c4, 0x0f8]) {
      guest.write(at, 0xffff_ffff)
      expect(guest.read(at)).toBe(0)
    }
    guest.start([ring.clear()])
    const request = ring.request(T.IN, 3, SECTOR)
    guest.write(MMIO.queueNotify, 0, 2)
    guest.write(MMIO.queueNotify, 0, 1)
    expect(ring.status(request)).toBe(UNTOUCHED)
    guest.kick()
    expect(ring.status(request)).toBe(OK)
  })

  it("MMIO-19 registers of version 1 read 0, and writing them does nothing", () => {
    guest.start([ring.clear()])
    for (const at of [MMIO.guestPageSize, MMIO.queueAlign, MMIO.queuePfn]) {
      guest.write(at, 0x1000)
      expect(guest.read(at)).toBe(0)
      guest.write(at, 0)
    }
    expect(read()).toBe(OK)
  })

  it("FT-17 FT-19 FT-21 features that only PCI has are not offered", () => {
    expect(guest.offered & mask(F.SR_IOV, F.NOTIF_CONFIG_DATA, F.ADMIN_VQ)).toBe(0n)
    expect(guest.offered & mask(F.RING_RESET, F.EVENT_IDX, F.INDIRECT_DESC)).toBe(mask(F.RING_RESET, F.EVENT_IDX, F.INDIRECT_DESC))
  })
})

describe("queues", () => {
  it("MMIO-04 VQ-30 a kick is a queue's index, with or without the ring's position above it, and other values do nothing", () => {
    const second = new Ring(vm, { index: 1, base: 0x2_0000, buffers: 0x8_0000 })
    guest.start([ring.clear(), second.clear()])
    expect([read(0), read(1, second), read(0x8001_0000), read(0x7fff_0001, second)]).toEqual([OK, OK, OK, OK])
    const request = ring.request(T.IN, 3, SECTOR)
    for (const value of [1, 2, 0xffff, 0xffff_ffff]) guest.kick(value)
    expect(ring.status(request)).toBe(UNTOUCHED)
    guest.kick()
    expect(ring.status(request)).toBe(OK)
  })

  it("MMIO-07 addresses have 64 bits: a ring at 4 GiB is not taken for one at 0", () => {
    const { desc, avail, used, size } = ring.clear()
    for (const place of [
      { size, desc: desc + 2 ** 32, avail, used },
      { size, desc, avail: avail + 2 ** 32, used },
      { size, desc, avail, used: used + 2 ** 32 },
    ]) {
      guest.start([place])
      expect(read()).toBe(UNTOUCHED)
      expect(guest.status & NEEDS_RESET).toBe(NEEDS_RESET)
      ring.clear()
    }
    guest.start([ring])
    expect(read()).toBe(OK)
  })

  it("MMIO-11 a queue is served only when ready; QueueReady reads back, 0 stops it, and 1 starts it anew", () => {
    guest.start([])
    guest.place(0, ring.clear())
    expect(read()).toBe(UNTOUCHED)
    guest.setQueue(0, MMIO.queueReady, 1)
    expect([guest.queue(0, MMIO.queueReady), guest.queue(1, MMIO.queueReady), guest.queue(7, MMIO.queueReady)]).toEqual([1, 0, 0])
    guest.kick()
    expect(ring.usedIdx).toBe(1)
    guest.setQueue(0, MMIO.queueReady, 2)
    expect(guest.queue(0, MMIO.queueReady)).toBe(1)
    guest.setQueue(0, MMIO.queueReady, 0)
    expect(guest.queue(0, MMIO.queueReady)).toBe(0)
    expect(read()).toBe(UNTOUCHED)
    expect(ring.usedIdx).toBe(1)
    // The same size and addresses: only the ring begins again.
    ring.clear()
    guest.setQueue(0, MMIO.queueReady, 1)
    expect(read()).toBe(OK)
    expect(ring.usedIdx).toBe(1)
  })

  it("MMIO-11 a queue may be stopped with a request in flight, whose answer reaches neither memory nor the line", async () => {
    const slow = new FakeDisk()
    slow.waits = () => true
    const place = vm.attachMmioDisk(slow)
    guest = new MmioGuest(vm, place)
    guest.start([ring.clear()])
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect(slow.waiting.length).toBe(1)
    guest.setQueue(0, MMIO.queueReady, 0)
    expect(guest.queue(0, MMIO.queueReady)).toBe(0)
    const before = vm.ram.slice()
    for (const call of slow.waiting.splice(0)) call.finish()
    await settled()
    expect(Buffer.compare(vm.ram, before)).toBe(0)
    expect([ring.status(request), guest.interruptStatus]).toEqual([UNTOUCHED, 0])
  })

  it("MMIO-12 a queue keeps size and addresses while it is ready, and ignores invalid sizes", () => {
    guest.start([ring.clear()])
    guest.place(0, { size: 8, desc: 0x1000, avail: 0x2000, used: 0x3000 })
    expect(read()).toBe(OK)
    guest.setQueue(0, MMIO.queueReady, 0)
    for (const size of [0, 3, 512, 0xffff_ffff]) guest.setQueue(0, MMIO.queueSize, size)
    ring.clear()
    guest.setQueue(0, MMIO.queueReady, 1)
    for (let round = 0; round < 40; round++) expect(read()).toBe(OK)
    expect(ring.usedIdx).toBe(40)
  })

  it("MMIO-14 FT-20 VQ-32 QueueReset empties a queue, which may start elsewhere with another size", () => {
    guest.start([ring.clear()], mask(F.RING_RESET))
    expect([read(), guest.queue(0, MMIO.queueReset)]).toEqual([OK, 0])
    guest.setQueue(0, MMIO.queueReset, 1)
    expect([guest.queue(0, MMIO.queueReset), guest.queue(0, MMIO.queueReady)]).toEqual([0, 0])
    const other = new Ring(vm, { size: 4, base: 0x2_0000 })
    guest.enable(0, other.clear())
    for (let round = 0; round < 10; round++) expect(read(0, other)).toBe(OK)
    expect([ring.usedIdx, other.usedIdx, guest.queue(0, MMIO.queueReset)]).toEqual([1, 10, 0])
    // Without the feature it is no register.
    guest.start([ring.clear()])
    guest.setQueue(0, MMIO.queueReset, 1)
    expect([guest.queue(0, MMIO.queueReady), read()]).toEqual([1, OK])
  })
})

describe("interrupts", () => {
  it("MMIO-05 MMIO-10 a bit stays until it is acknowledged, and the line is high while any bit is set", () => {
    guest.start([ring.clear()])
    expect([guest.interruptStatus, guest.interrupted]).toEqual([0, false])
    read()
    expect([guest.interruptStatus, guest.interruptStatus, guest.interrupted]).toEqual([USED, USED, true])
    backing.resize((CAPACITY + 1) * SECTOR)
    disk.device.capacityChanged()
    expect(guest.interruptStatus).toBe(USED | CONFIG)
    guest.acknowledge(USED)
    expect([guest.interruptStatus, guest.interrupted]).toEqual([CONFIG, true])
    // One that comes between the look and the acknowledgement is not lost.
    const seen = guest.interruptStatus
    read()
    guest.acknowledge(seen)
    expect([guest.interruptStatus, guest.interrupted]).toEqual([USED, true])
    guest.acknowledge(0xffff_fffe)
    expect(guest.interruptStatus).toBe(USED)
    guest.acknowledge(0xffff_ffff)
    expect([guest.interruptStatus, guest.interrupted]).toEqual([0, false])
  })

  it("MMIO-10 ST-03 ST-04 a reset clears the bits, the line and every QueueReady", () => {
    guest.start([ring.clear()])
    read()
    expect(guest.interrupted).toBe(true)
    guest.status = 0
    expect([guest.interruptStatus, guest.interrupted, guest.queue(0, MMIO.queueReady)]).toEqual([0, false, 0])
    ring.clear()
    guest.start([ring])
    read()
    vm.reset()
    expect([guest.status, guest.interruptStatus, guest.interrupted]).toEqual([0, 0, false])
  })

  it("ST-11 ST-12 MMIO-05 a broken ring sets DEVICE_NEEDS_RESET, with a configuration interrupt", () => {
    guest.start([ring.clear()])
    ring.describe(0, 0x1000, 16, NEXT, 0)
    ring.publish(0)
    guest.kick()
    expect([guest.status, guest.interruptStatus]).toEqual([UP | NEEDS_RESET, CONFIG])
    guest.start([ring.clear()])
    expect(read()).toBe(OK)
  })

  it("BLK-36 a failed request raises an interrupt as well, and the queue goes on", () => {
    const failing = new FakeDisk()
    failing.failing = () => eio()
    guest = new MmioGuest(vm, vm.attachMmioDisk(failing))
    guest.start([ring.clear()])
    const request = ring.request(T.IN, 3, SECTOR)
    guest.kick()
    expect([ring.status(request), guest.interruptStatus, guest.status]).toEqual([IOERR, USED, UP])
  })
})
