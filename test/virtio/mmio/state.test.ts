/** The state of a device over MMIO, taken out and put back into another machine, in the middle of its life. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { BlockDriver } from "../../../src/vmm/driver/block/driver.ts"
import { MmioDevice } from "../../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import type { AttachMmioDiskOptions, AttachedMmioDisk } from "../../../src/vmm/mmio-disks.ts"
import { FakeDisk } from "../../harness/fake-disk.ts"
import { markedDisk } from "../../harness/marked-disk.ts"
import { CONFIG, LegacyMmioGuest, MMIO, MmioGuest, USED } from "../../harness/mmio.ts"
import { Ring } from "../../harness/ring.ts"
import { OK, T, UNTOUCHED } from "../../harness/words.ts"

const SIZE = 1 << 20

function machine(
  options: AttachMmioDiskOptions = {}, backing = new MemoryBacking({ size: SIZE }),
): { vm: Machine; disk: AttachedMmioDisk } {
  const vm = new Machine({ ramSize: 4 << 20 })
  return { vm, disk: vm.attachMmioDisk(backing, options) }
}

/** As it is after a file, or another process. */
function saved(disk: AttachedMmioDisk): Record<string, unknown> {
  return JSON.parse(JSON.stringify(disk.transport.saveState())) as Record<string, unknown>
}

/** Takes the disk out and puts another over `backing` in its place. */
function replace(vm: Machine, disk: AttachedMmioDisk, backing: MemoryBacking, options: AttachMmioDiskOptions): AttachedMmioDisk {
  vm.detachMmioDisk(disk.address)
  return vm.attachMmioDisk(backing, options)
}

const text = (words: string): Uint8Array => new TextEncoder().encode(words.padEnd(512, "."))

describe.each<[string, AttachMmioDiskOptions]>([
  ["version 2", { queues: 2 }], ["version 1", { version: 1, queues: 2 }],
  ["version 1, big-endian", { version: 1, guestEndian: "big", queues: 2 }],
])("%s", (_, options) => {
  it("moves to another machine in the middle of its life, unnoticed by its driver", async () => {
    const { vm, disk } = machine(options)
    const blk = await BlockDriver.open(new MmioDevice(vm, disk), { queues: 2, guestEndian: options.guestEndian ?? "little" })
    for (let round = 0; round < 700; round++) await blk.write(round % 8, text(`round ${round}`), { queue: round % 2 })
    const state = saved(disk)
    const content = new MemoryBacking({ size: SIZE })
    content.pwrite(text("the other backing"), 3 * 512)
    const again = replace(vm, disk, content, options)
    again.transport.restoreState(state)
    again.device.resume()
    expect(saved(again)).toEqual(state)
    expect(await blk.read(3, 1)).toEqual(text("the other backing"))
    await blk.write(4, text("after"), { queue: 1 })
    expect(await blk.read(4, 1)).toEqual(text("after"))
  })
})

it("MMIO-10 the line follows the bits that were saved", () => {
  const { vm, disk } = machine({}, markedDisk())
  const guest = new MmioGuest(vm, disk)
  const ring = new Ring(vm).clear()
  guest.start([ring])
  ring.request(T.IN, 3, 512)
  guest.kick()
  guest.write(MMIO.deviceFeaturesSel, 1)
  const word = guest.read(MMIO.deviceFeatures)
  const state = saved(disk)
  const again = replace(vm, disk, markedDisk(), {})
  again.transport.restoreState(state)
  expect([guest.interruptStatus, guest.interrupted, guest.read(MMIO.queueReady)]).toEqual([USED, true, 1])
  expect(guest.read(MMIO.deviceFeatures)).toBe(word)
  guest.acknowledge(USED)
  expect(guest.interrupted).toBe(false)
})

it("MMIO-17 page size and alignments of version 1 are restored for queues that are placed later", () => {
  const options = { version: 1, queues: 2 } as const
  const { vm, disk } = machine(options, markedDisk())
  const guest = new LegacyMmioGuest(vm, disk)
  guest.negotiate(0, 8192)
  guest.setQueue(1, MMIO.queueAlign, 16)
  const state = saved(disk)
  const again = replace(vm, disk, markedDisk(), options)
  again.transport.restoreState(state)
  const ring = new Ring(vm, { index: 1, size: 8, place: { desc: 0x2_0000, avail: 0x2_0080, used: 0x2_00a0 } }).clear()
  guest.setQueue(1, MMIO.queueSize, 8)
  guest.setQueue(1, MMIO.queuePfn, 0x2_0000 / 8192)
  guest.status = 0x07
  const request = ring.request(T.IN, 3, 512)
  guest.kick(1)
  // It was restored, and is paused as anything that was.
  expect(ring.status(request)).toBe(UNTOUCHED)
  again.device.resume()
  expect(ring.status(request)).toBe(OK)
})

it("another capacity after a restore sets InterruptStatus and the line", () => {
  const { vm, disk } = machine()
  const guest = new MmioGuest(vm, disk)
  guest.start([new Ring(vm).clear()])
  const state = saved(disk)
  replace(vm, disk, new MemoryBacking({ size: 2 * SIZE }), {}).transport.restoreState(state)
  expect([guest.interruptStatus, guest.interrupted, guest.capacity]).toEqual([CONFIG, true, (2 * SIZE) / 512])
})

it("saving is refused while a request is in flight", () => {
  const slow = new FakeDisk()
  slow.waits = () => true
  const vm = new Machine({ ramSize: 1 << 20 })
  const disk = vm.attachMmioDisk(slow)
  const guest = new MmioGuest(vm, disk)
  const ring = new Ring(vm).clear()
  guest.start([ring])
  ring.request(T.IN, 3, 512)
  guest.kick()
  expect(() => disk.transport.saveState()).toThrow(/1 requests in flight: pause the device/)
})

describe("an impossible state is refused in one line, with the device reset", () => {
  it.each<[string, Record<string, unknown>, RegExp]>([
    ["of another program", { version: 3 }, /^saved state: version 3, this program knows 1 to 2$/],
    ["of version 1", { mmioVersion: 1 }, /^saved state: its registers are of version 1, these are of 2$/],
    ["of an unknown version", { mmioVersion: 3 }, /^saved state: version of virtio over MMIO: 3 is not a number from 0 to 2$/],
    ["of a big-endian guest", { guestEndian: "big" }, /^saved state: its guest is "big"-endian, this one little-endian$/],
    ["with an unknown interrupt", { interruptStatus: 4 }, /^saved state: InterruptStatus: 4 is not a number from 0 to 3$/],
    ["with too few selectors", { selects: [0] }, /^saved state: selects: not a list of 3$/],
    ["with fields of version 1 only", { legacyLayout: [4096, 4096] }, /^saved state: layout of legacy rings: not a list of 0$/],
    ["without a device", { device: null }, /^saved state: virtio device: not an object$/],
  ])("%s", (_, change, message) => {
    const { vm, disk } = machine({}, markedDisk())
    const guest = new MmioGuest(vm, disk)
    const ring = new Ring(vm).clear()
    guest.start([ring])
    const state = { ...saved(disk), ...change }
    expect(() => disk.transport.restoreState(state)).toThrow(message)
    expect([guest.status, guest.queue(0, MMIO.queueReady), guest.interrupted]).toEqual([0, 0, false])
    disk.device.resume()
    guest.start([ring.clear()])
    const request = ring.request(T.IN, 3, 512)
    guest.kick()
    expect(ring.status(request)).toBe(OK)
  })
})
