/** How a virtio function interrupts ([VIRTIO] 4.1.4.5, 4.1.5.1, 4.1.5.3, 4.1.5.4): ISR and INTx, MSI-X vectors, lines that are shared. */
import { beforeEach, describe, expect, it } from "vitest"
import { type AttachedDisk, Machine } from "../../../src/vmm/machine.ts"
import { LegacyGuest, ModernGuest } from "../../harness/registers.ts"
import { Ring } from "../../harness/ring.ts"
import { COMMON, F, mask, NO_VECTOR, T, VERSION_1 } from "../../harness/words.ts"

const SECTOR = 512
/** What vectors 0, 1 and 2 send; 1 and 2 are the queues' where the test maps them so. */
const FOR_CONFIG = { address: 0xfee0_0000, data: 0x40 }
const FOR_QUEUE_0 = { address: 0xfee0_1000, data: 0x41 }
const FOR_QUEUE_1 = { address: 0xfee0_2000, data: 0x42 }
const MESSAGES = [FOR_CONFIG, FOR_QUEUE_0, FOR_QUEUE_1]

let vm: Machine
let size: number
let disk: AttachedDisk
let guest: ModernGuest
let rings: readonly Ring[]
beforeEach(() => {
  vm = new Machine({ ramSize: 1 << 20 })
  disk = attach()
  guest = new ModernGuest(vm, disk.slot)
  rings = [new Ring(vm), new Ring(vm, { base: 0x2_0000, buffers: 0x8_0000 })]
  guest.start(rings, VERSION_1 | mask(F.MQ))
})

function attach(slot?: number): AttachedDisk {
  size = 8 * SECTOR
  const backing = { get size() { return size }, readOnly: false, pread: () => {}, pwrite: () => {}, close: () => {} }
  return vm.attachDisk(backing, { queues: 2, ...(slot === undefined ? {} : { slot }) })
}

/** A request that causes an interrupt of its queue. */
function traffic(queue = 0, from = guest): void {
  rings[queue]?.request(T.FLUSH, 0, 0)
  from.kick(queue)
}

/** A change that causes a configuration interrupt. */
function resize(): void {
  size += SECTOR
  disk.device.capacityChanged()
}

/** MSI-X on, with configuration and queues mapped to these vectors; returns what can be read back. */
function map(config: number, ...queues: readonly number[]): number[] {
  for (const [vector, message] of MESSAGES.entries()) guest.programVector(vector, message)
  guest.common.write(COMMON.configVector, 2, config)
  for (const [queue, vector] of queues.entries()) guest.setQueueRegister(queue, COMMON.queueVector, 2, vector)
  return [guest.common.read(COMMON.configVector, 2), ...queues.map((_, queue) => guest.queueRegister(queue, COMMON.queueVector, 2))]
}

describe("INTx", () => {
  it("PCI-25 the ISR shows pending events, and reading it clears them and lowers the line", () => {
    expect([guest.interrupted, guest.readIsr()]).toEqual([false, 0])
    traffic()
    expect([guest.interrupted, guest.readIsr(), guest.interrupted, guest.readIsr()]).toEqual([true, 1, false, 0])
    resize()
    expect([guest.interrupted, guest.readIsr(), guest.interrupted, guest.readIsr()]).toEqual([true, 3, false, 0])
    traffic(1)
    resize()
    expect([guest.interrupted, guest.readIsr(), guest.interrupted, guest.readIsr()]).toEqual([true, 3, false, 0])
  })

  it("ST-03 a listener of the pin may reset the device and enable MSI-X: no message comes for the ended life", () => {
    map(0, 1)
    guest.setConfig(guest.msixAt + 2, 2, 0)
    vm.interrupts.takeMessages()
    const stop = vm.interrupts.subscribe(() => {
      stop()
      guest.status = 0
      guest.setConfig(guest.msixAt + 2, 2, 0x8000)
    })
    traffic()
    expect([vm.interrupts.takeMessages(), guest.interrupted, guest.status]).toEqual([[], false, 0])
  })

  it("PCI-25 a write to the ISR does nothing", () => {
    traffic()
    guest.isr.write(0, 1, 0xff)
    expect([guest.interrupted, guest.readIsr()]).toEqual([true, 1])
  })

  it("PCI-26 Status bit 3 shows that the ISR is not 0; Command bit 10 keeps it from the line only", () => {
    guest.command = 0x407
    expect(guest.interruptStatus).toBe(false)
    traffic()
    expect([guest.interruptStatus, guest.interrupted]).toEqual([true, false])
    guest.command = 0x007
    expect([guest.interruptStatus, guest.interrupted]).toEqual([true, true])
    guest.command = 0x407
    expect([guest.interruptStatus, guest.interrupted]).toEqual([true, false])
    expect(guest.readIsr()).toBe(1)
    guest.command = 0x007
    expect([guest.interruptStatus, guest.interrupted]).toEqual([false, false])
  })

  it("PCI-26 a line that two disks share is high until both ISRs have been read", () => {
    const other = new ModernGuest(vm, attach(disk.slot + 4).slot)
    expect(other.line).toBe(guest.line)
    const ring = new Ring(vm, { base: 0x3_0000, buffers: 0xc_0000 })
    other.start([ring])
    traffic()
    ring.request(T.FLUSH, 0, 0)
    other.kick()
    expect([guest.interrupted, guest.interruptStatus, other.interruptStatus]).toEqual([true, true, true])
    expect(guest.readIsr()).toBe(1)
    expect([guest.interrupted, guest.interruptStatus, other.interruptStatus]).toEqual([true, false, true])
    // The other one's ISR is not ours to clear.
    expect(guest.readIsr()).toBe(0)
    expect(guest.interrupted).toBe(true)
    expect(other.readIsr()).toBe(1)
    expect(guest.interrupted).toBe(false)
    ring.request(T.FLUSH, 0, 0)
    other.kick()
    vm.detachDisk(other.slot)
    expect(guest.interrupted).toBe(false)
  })
})

describe("MSI-X", () => {
  it("PCI-28 any event can be mapped to any vector, several to one, and the mapping reads back", () => {
    expect(map(0, 0, 0)).toEqual([0, 0, 0])
    traffic(0)
    traffic(1)
    resize()
    expect(vm.interrupts.takeMessages()).toEqual([FOR_CONFIG, FOR_CONFIG, FOR_CONFIG])
    expect(map(0, 1, 2)).toEqual([0, 1, 2])
    traffic(1)
    resize()
    traffic(0)
    expect(vm.interrupts.takeMessages()).toEqual([FOR_QUEUE_1, FOR_CONFIG, FOR_QUEUE_0])
    expect(map(2, 1, 0)).toEqual([2, 1, 0])
    resize()
    expect(vm.interrupts.takeMessages()).toEqual([FOR_QUEUE_1])
    expect(guest.interrupted).toBe(false)
  })

  it("PCI-29 an index outside the table, 0xffff and a reset leave an event unmapped, which reads back", () => {
    const { device } = disk
    const vectors = device.virtio.queueCount + 1
    expect(map(vectors, 0xfffe, 0x7ff)).toEqual([NO_VECTOR, NO_VECTOR, NO_VECTOR])
    expect(map(0, 1, 2)).toEqual([0, 1, 2])
    expect(map(NO_VECTOR, vectors, NO_VECTOR)).toEqual([NO_VECTOR, NO_VECTOR, NO_VECTOR])
    map(0, 1, 2)
    guest.status = 0
    expect([
      guest.common.read(COMMON.configVector, 2),
      ...[0, 1].map((queue) => guest.queueRegister(queue, COMMON.queueVector, 2))
    ]).toEqual([NO_VECTOR, NO_VECTOR, NO_VECTOR])
  })

  it("PCI-30 an unmapped event raises no interrupt, not even by the line", () => {
    map(NO_VECTOR, NO_VECTOR, 1)
    traffic(0)
    resize()
    expect([vm.interrupts.takeMessages(), guest.interrupted, guest.interruptStatus]).toEqual([[], false, false])
    traffic(1)
    expect(vm.interrupts.takeMessages()).toEqual([FOR_QUEUE_0])
  })

  it("PCI-26 PCI-27 the ISR is set with MSI-X as well, bit 1 as specified and bit 0 for old drivers, and the line stays low", () => {
    map(0, 1, 2)
    const seen: number[] = []
    const end = vm.interrupts.subscribe(() => seen.push(guest.readIsr()))
    resize()
    traffic()
    end()
    expect([seen, guest.interruptStatus, guest.interrupted]).toEqual([[3, 1], false, false])
  })

  it("PCI-32 a masked entry and the function mask hold back one message each, which unmasking sends", () => {
    map(0, 1, 2)
    guest.programVector(1, { ...FOR_QUEUE_0, masked: true })
    traffic(0)
    traffic(0)
    const place = guest.config(guest.msixAt + 8, 4)
    const pba = guest.space(place & 7, (place & ~7) >>> 0)
    expect([vm.interrupts.takeMessages(), pba.read(0, 4)]).toEqual([[], 2])
    guest.setConfig(guest.msixAt + 2, 2, 0xc000)
    traffic(1)
    // It clears the function mask, too.
    guest.programVector(1, FOR_QUEUE_0)
    expect([vm.interrupts.takeMessages(), pba.read(0, 4)]).toEqual([[FOR_QUEUE_0, FOR_QUEUE_1], 0])
  })

  it("PCI-36 messages wait for bus mastering", () => {
    map(0, 1, 2)
    guest.command = 3
    resize()
    expect(vm.interrupts.takeMessages()).toEqual([])
    guest.command = 7
    expect(vm.interrupts.takeMessages()).toEqual([FOR_CONFIG])
  })

  it("PCI-28 a legacy driver maps events by its own registers to the same effect", () => {
    const legacy = new LegacyGuest(vm, disk.slot)
    const ring = new Ring(vm, { size: 256 }).clear()
    legacy.start(ring)
    for (const [vector, message] of MESSAGES.entries()) legacy.programVector(vector, message)
    for (const [offset, vector] of [[0x14, 2], [0x16, 1]] as const) {
      legacy.io.write(offset, 2, vector)
      expect(legacy.io.read(offset, 2)).toBe(vector)
    }
    ring.request(T.FLUSH, 0, 0)
    legacy.kick()
    resize()
    expect([vm.interrupts.takeMessages(), legacy.interrupted]).toEqual([[FOR_QUEUE_0, FOR_QUEUE_1], false])
    legacy.io.write(0x14, 2, 3)
    expect(legacy.io.read(0x14, 2)).toBe(NO_VECTOR)
  })
})
