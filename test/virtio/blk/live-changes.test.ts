/** What changes under a running guest: another disk in the place of the old one, and read-only or not. */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import type { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { Machine } from "../../../src/vmm/machine.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { CONFIG_IRQ, type Reply, RingGuest } from "../../harness/guest.ts"
import { CONFIG, LegacyMmioGuest, MmioGuest } from "../../harness/mmio.ts"
import { pattern, type Request } from "../../harness/requests.ts"
import { Ring } from "../../harness/ring.ts"
import { F, IOERR, OK, T, UNSUPP, UNTOUCHED } from "../../harness/words.ts"

/** A disk of 1 MiB whose sectors are marked from `mark` on. */
function marked(mark: number, size = 1 << 20): FakeDisk {
  const disk = new FakeDisk({ size })
  disk.cache.set(pattern(mark, 64))
  return disk
}

function slow(mark: number): FakeDisk {
  const disk = marked(mark)
  disk.waits = () => true
  return disk
}

/** Puts a request into the ring and kicks. Returns what reads its status byte. */
function send(guest: RingGuest, request: Request): () => Reply {
  const placed = guest.place(request)
  guest.publish([guest.chain(placed.pieces)])
  guest.kick()
  return () => guest.reply(placed, 0)
}

/** A guest without bus mastering, whose write of 2 MiB is half done: the disk waits before each call. */
async function halfWritten(): Promise<{ readonly disk: FakeDisk; readonly guest: RingGuest; readonly reply: () => Reply }> {
  const disk = new FakeDisk({ size: 8 << 20 })
  disk.waits = () => true
  const guest = new RingGuest({ backing: disk })
  const reply = send(guest, { type: T.OUT, sector: 0, out: pattern(5, 4096) })
  guest.registers.command = 3
  await disk.finishNext()
  return { disk, guest, reply }
}

function generationOf(guest: RingGuest): number {
  return guest.disk.device.virtio.config.readGeneration()
}

/** Features are looked up after the reset. */
function restart(guest: RingGuest, features?: readonly number[]): void {
  guest.status = 0
  guest.start(features)
}

async function failureOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "no failure", (error: unknown) => String(error))
}

describe("changeBacking", () => {
  it("takes effect before it returns if nothing is in flight, and notifies the guest", async () => {
    const old = marked(0)
    const guest = new RingGuest({ backing: old })
    guest.write(100, pattern(7, 1))
    const done = guest.disk.device.changeBacking(marked(1000))
    await done
    expect(guest.irqs()).toContain(CONFIG_IRQ)
    expect(guest.read(3, 1).data).toEqual(pattern(1003, 1))
    // What the guest has written is stable on the old disk.
    expect(old.stable.subarray(100 * 512, 101 * 512)).toEqual(pattern(7, 1))
    expect(old.log.at(-1)?.name).toBe("flush")
    expect(guest.disk.device.backing).not.toBe(old)
  })

  it.each([2 << 20, 1 << 19])("CF-03 BC-03 shows another capacity with another generation: %d bytes", async (size) => {
    const guest = new RingGuest({ backing: marked(0) })
    const generation = generationOf(guest)
    await guest.disk.device.changeBacking(marked(1000, size))
    expect([guest.capacity, guest.irqs().includes(CONFIG_IRQ)]).toEqual([size / 512, true])
    expect(generationOf(guest)).not.toBe(generation)
    expect(guest.read(size / 512 - 1, 1).status).toBe(OK)
    expect(guest.read(size / 512, 1).status).toBe(IOERR)
  })

  it("lets requests in flight end on the old disk, and keeps later ones for the new one", async () => {
    const old = slow(0)
    const guest = new RingGuest({ backing: old })
    const first = send(guest, { type: T.IN, sector: 3, in: 512 })
    let isDone = false
    const change = guest.disk.device.changeBacking(marked(1000)).then(() => (isDone = true))
    const second = send(guest, { type: T.IN, sector: 3, in: 512 })
    const write = send(guest, { type: T.OUT, sector: 9, out: pattern(5, 1) })
    await settled()
    expect([first().status, second().status, isDone]).toEqual([UNTOUCHED, UNTOUCHED, false])
    await old.finishNext()
    expect([first().status, first().data, second().status]).toEqual([OK, pattern(3, 1), UNTOUCHED])
    old.next("flush").finish()
    await change
    expect([second().status, second().data, write().status]).toEqual([OK, pattern(1003, 1), OK])
    expect(old.cache.subarray(9 * 512, 10 * 512)).toEqual(pattern(9, 1))
    expect(old.waiting).toEqual([])
  })

  it("with atOnce repeats requests in flight on the new disk, and drops late answers of the old one", async () => {
    const old = slow(0)
    const guest = new RingGuest({ backing: old })
    const replies = [
      send(guest, { type: T.IN, sector: 3, in: 512 }), send(guest, { type: T.OUT, sector: 9, out: pattern(5, 1) }),
      send(guest, { type: T.DISCARD, sector: 0, out: Uint8Array.from([20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]) }),
    ]
    const late = old.waiting.splice(0)
    expect(late).toHaveLength(3)
    const fresh = marked(1000)
    let isOldFree = false
    const change = guest.disk.device.changeBacking(fresh, { atOnce: true }).then(() => (isOldFree = true))
    expect(replies.map((reply) => reply().status)).toEqual([OK, OK, OK])
    expect(replies[0]?.().data).toEqual(pattern(1003, 1))
    expect(fresh.cache.subarray(9 * 512, 10 * 512)).toEqual(pattern(5, 1))
    expect(guest.irqs()).toContain(CONFIG_IRQ)
    expect(guest.takeUsed().length).toBe(3)
    await guest.disk.device.whenIdle()
    expect(isOldFree).toBe(false)

    const before = guest.machine.ram.slice()
    late[0]?.finish()
    late[1]?.fail(eio())
    await settled()
    expect(isOldFree).toBe(false)
    late[2]?.finish()
    await change
    expect(Buffer.compare(before, guest.machine.ram)).toBe(0)
    expect(guest.read(9, 1).data).toEqual(pattern(5, 1))
  })

  it("with atOnce inside a call of the old disk repeats every unanswered request on the new one", () => {
    const old = marked(0)
    const fresh = marked(1000)
    const guest = new RingGuest({ backing: old })
    let calls = 0
    old.failing = ({ name }) => {
      if (name === "read" && ++calls === 2) void guest.disk.device.changeBacking(fresh, { atOnce: true })
      return undefined
    }
    const placed = [3, 30, 33].map((sector) => guest.place({ type: T.IN, sector, in: 512 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
    guest.kick()
    return settled().then(() => {
      expect(placed.map((one) => guest.reply(one, 0)).map(({ status, data }) => [status, data])).toEqual([
        [OK, pattern(1003, 1)], [OK, pattern(1030, 1)], [OK, pattern(1033, 1)],
      ])
      expect(guest.takeUsed().length).toBe(3)
      expect(fresh.log.filter(({ name }) => name === "read").length).toBe(3)
    })
  })

  it("PCI-36 while bus mastering is off repeats a half-done request of the old disk whole on the new one", async () => {
    const { disk: old, guest, reply } = await halfWritten()
    const fresh = new FakeDisk({ size: 8 << 20 })
    const change = guest.disk.device.changeBacking(fresh)
    old.next("flush").finish()
    await change
    expect([fresh.log.length, reply().status]).toEqual([0, UNTOUCHED])
    guest.registers.command = 7
    await guest.served()
    expect(reply().status).toBe(OK)
    expect(Buffer.compare(fresh.cache.subarray(0, 2 << 20), pattern(5, 4096))).toBe(0)
  })

  it("PCI-36 gives the whole request to the new disk when bus mastering comes back during the old one's flush", async () => {
    const { disk: old, guest, reply } = await halfWritten()
    old.takeNames()
    const fresh = new FakeDisk({ size: 8 << 20 })
    const change = guest.disk.device.changeBacking(fresh)
    await settled()
    guest.registers.command = 7
    await settled()
    expect([old.takeNames(), reply().status]).toEqual([["flush"], UNTOUCHED])
    old.next("flush").finish()
    await change
    await guest.served()
    expect([old.takeNames(), reply().status]).toEqual([[], OK])
    expect(Buffer.compare(fresh.cache.subarray(0, 2 << 20), pattern(5, 4096))).toBe(0)
  })

  it.each([
    "on", "on and off again",
  ])("PCI-36 calls no disk before resume when bus mastering is switched %s during a pause", async (how) => {
    const { disk, guest, reply } = await halfWritten()
    await guest.disk.device.pause()
    disk.takeNames()
    disk.waits = () => false
    guest.registers.command = 7
    if (how === "on and off again") guest.registers.command = 3
    await settled()
    expect([disk.takeNames(), reply().status]).toEqual([[], UNTOUCHED])
    guest.disk.device.resume()
    await settled()
    if (how === "on and off again") {
      expect([disk.takeNames(), reply().status]).toEqual([[], UNTOUCHED])
      guest.registers.command = 7
    }
    await guest.served()
    expect(reply().status).toBe(OK)
    expect(Buffer.compare(disk.cache.subarray(0, 2 << 20), pattern(5, 4096))).toBe(0)
  })

  it("PCI-36 completes after the change those requests that were done when bus mastering went off", async () => {
    let completed = 0
    const guest: RingGuest = new RingGuest({
      backing: marked(1), features: [F.INDIRECT_DESC, F.FLUSH], disk: {
        observer: () => {
          if (++completed === 2) guest.disk.device.virtio.setBusMaster(false)
        },
      },
    })
    const placed = [1, 5].map((sector) => guest.place({ type: T.IN, sector, in: 512 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    guest.kick()
    await guest.disk.device.changeBacking(marked(2))
    guest.irqs()
    guest.disk.device.virtio.setBusMaster(true)
    expect([guest.irqs(), guest.takeUsed().length, completed]).toEqual([[1], 2, 2])
  })

  it("replaces an earlier call that waits, which rejects; a failing flush of the old disk changes nothing", async () => {
    const old = slow(0)
    const guest = new RingGuest({ backing: old })
    const { device } = guest.disk
    const read = send(guest, { type: T.IN, sector: 3, in: 512 })
    const first = failureOf(device.changeBacking(marked(1000)))
    const second = device.changeBacking(marked(2000), { atOnce: true })
    expect(await first).toMatch(/^Error: changeBacking was called again before this call had taken effect$/)
    expect(read().data).toEqual(pattern(2003, 1))
    await old.finishNext()
    await second

    const dying = slow(3000)
    const third = device.changeBacking(dying)
    await third
    const fourth = failureOf(device.changeBacking(marked(4000)))
    await settled()
    dying.next("flush").fail(eio())
    expect(await fourth).toMatch(/dying/)
    expect(device.backing).toBe(dying)
    dying.waits = () => false
    guest.takeUsed()
    expect(guest.read(3, 1).data).toEqual(pattern(3003, 1))
  })

  it("with atOnce does not wait for the flush that an earlier call waits for", async () => {
    const old = slow(0)
    const guest = new RingGuest({ backing: old })
    const first = failureOf(guest.disk.device.changeBacking(marked(1000)))
    await settled()
    expect(old.waiting.map(({ call }) => call.name)).toEqual(["flush"])
    await guest.disk.device.changeBacking(marked(2000), { atOnce: true })
    expect(await first).toMatch(/called again/)
    await settled()
    expect(guest.read(3, 1).data).toEqual(pattern(2003, 1))
  })

  it("leaves a pause in force, and is not held up by a reset of the guest", async () => {
    const old = slow(0)
    const guest = new RingGuest({ backing: old })
    const { device } = guest.disk
    void device.pause()
    const read = send(guest, { type: T.IN, sector: 3, in: 512 })
    const change = device.changeBacking(marked(1000))
    await settled()
    old.next("flush").finish()
    await change
    expect(read().status).toBe(UNTOUCHED)
    device.resume()
    expect(read().data).toEqual(pattern(1003, 1))

    const held = slow(2000)
    await device.changeBacking(held)
    send(guest, { type: T.OUT, sector: 3, out: pattern(1, 1) })
    guest.start()
    // The old life's write keeps the new life waiting; another disk does not have to wait for it.
    const late = send(guest, { type: T.IN, sector: 3, in: 512 })
    await settled()
    expect(late().status).toBe(UNTOUCHED)
    void device.changeBacking(marked(3000), { atOnce: true })
    expect([late().status, late().data]).toEqual([OK, pattern(3003, 1)])
  })

  it("refuses a disk without a feature that the driver has accepted, by name, and takes it after a reset", async () => {
    const guest = new RingGuest({ backing: marked(0) })
    const { device } = guest.disk
    const plain = (mark: number): FakeDisk => {
      const disk = new FakeDisk({ without: ["flush", "discard", "writeZeroes"] })
      disk.cache.set(pattern(mark, 64))
      return disk
    }
    const refused = await failureOf(device.changeBacking(plain(1000)))
    expect(refused).toMatch(/^Error: the guest's driver uses FLUSH and DISCARD and WRITE_ZEROES, which the new disk cannot do: give one/)
    expect(await failureOf(device.changeBacking({} as never, { atOnce: true }))).toMatch(/^TypeError: VirtioBlk.changeBacking: /)
    expect(await failureOf(device.changeBacking(plain(0), { atOnce: 1 } as never))).toMatch(/atOnce must be true or false/)
    expect(guest.read(3, 1).data).toEqual(pattern(3, 1))

    guest.status = 0
    await device.changeBacking(plain(1000))
    expect([F.FLUSH, F.DISCARD, F.WRITE_ZEROES, F.CONFIG_WCE].map((bit) => guest.offers(bit))).toEqual([false, false, false, false])
    // max_discard_sectors, max_write_zeroes_sectors, writeback
    expect([guest.config(0x24, 4), guest.config(0x30, 4), guest.config(0x20, 1)]).toEqual([0, 0, 0])
    guest.start()
    expect(guest.read(3, 1).data).toEqual(pattern(1003, 1))

    // A disk that can more: the driver finds it after its next reset.
    await device.changeBacking(marked(2000))
    expect([guest.offers(F.DISCARD), guest.run({ type: T.DISCARD, sector: 0, out: new Uint8Array(16) }).status]).toEqual([false, UNSUPP])
    restart(guest)
    expect([guest.offers(F.DISCARD), guest.config(0x20, 1), guest.config(0x24, 4) > 0]).toEqual([true, 1, true])
    expect(guest.run({ type: T.DISCARD, sector: 0, out: new Uint8Array(16) }).status).toBe(OK)
  })

  it("takes a read-only disk for a writable one: writes fail, and RO is offered after a reset", async () => {
    const guest = new RingGuest({ backing: marked(0) })
    const { device } = guest.disk
    const readOnly = new FakeDisk({ readOnly: true })
    await device.changeBacking(readOnly)
    expect([device.readOnly, guest.write(1, pattern(1, 1)).status, guest.read(1, 1).status]).toEqual([true, IOERR, OK])
    expect([guest.run({ type: T.DISCARD, sector: 0, out: new Uint8Array(16) }).status, guest.offers(F.RO)]).toEqual([IOERR, false])
    restart(guest, [F.RO, F.FLUSH])
    expect([guest.offers(F.RO), guest.offers(F.DISCARD)]).toEqual([true, false])
    await device.changeBacking(marked(0))
    // It has accepted RO: BLK-08's IOERR holds until it resets the device.
    expect([device.readOnly, guest.write(1, pattern(1, 1)).status]).toEqual([true, IOERR])
    restart(guest)
    expect([guest.offers(F.RO), device.readOnly, guest.write(1, pattern(1, 1)).status]).toEqual([false, false, OK])
  })

  it.each([
    ["version 2", MmioGuest, 2], ["version 1", LegacyMmioGuest, 1],
  ] as const)("notifies a guest over MMIO, %s, by its line", async (_, Guest, version) => {
    const vm = new Machine({ ramSize: 1 << 20 })
    const disk = vm.attachMmioDisk(marked(0), { version })
    const guest = new Guest(vm, disk)
    const ring = new Ring(vm, { size: 256 }).clear()
    if (guest instanceof MmioGuest) guest.start([ring])
    else guest.start(ring)
    await disk.device.changeBacking(marked(1000, 2 << 20))
    expect([guest.interruptStatus & CONFIG, guest.interrupted, guest.capacity]).toEqual([CONFIG, true, 4096])
    const request = ring.request(T.IN, 3, 512)
    guest.kick()
    expect(ring.status(request)).toBe(OK)
  })

  it("notifies a legacy guest by its line and the ISR", async () => {
    const guest = new RingGuest({ backing: marked(0), legacy: true, disk: { vectors: 0 } })
    await guest.disk.device.changeBacking(marked(1000))
    expect(guest.registers.readIsr() & 2).toBe(2)
  })
})

describe("setReadOnly", () => {
  it("takes effect when the writes in flight have ended, and the guest sees it after a reset", async () => {
    const disk = slow(0)
    const guest = new RingGuest({ backing: disk })
    const { device } = guest.disk
    const first = send(guest, { type: T.OUT, sector: 3, out: pattern(1, 1) })
    const change = device.setReadOnly(true)
    const second = send(guest, { type: T.OUT, sector: 3, out: pattern(2, 1) })
    await settled()
    expect([device.readOnly, first().status, second().status]).toEqual([false, UNTOUCHED, UNTOUCHED])
    await disk.finishNext()
    await change
    expect([device.readOnly, first().status, second().status]).toEqual([true, OK, IOERR])
    expect(disk.cache.subarray(3 * 512, 4 * 512)).toEqual(pattern(1, 1))
    disk.waits = () => false
    guest.start()
    expect([guest.offers(F.RO), guest.offers(F.WRITE_ZEROES)]).toEqual([true, false])
    await device.setReadOnly(false)
    guest.start()
    expect([guest.offers(F.RO), guest.write(3, pattern(2, 1)).status]).toEqual([false, OK])
  })

  it("obeys the last call, also while an earlier one is about to resolve", async () => {
    const disk = marked(0)
    const guest = new RingGuest({ backing: disk })
    const { device } = guest.disk
    const changes: Promise<void>[] = []
    disk.failing = () => void changes.push(device.setReadOnly(true))
    guest.write(3, pattern(1, 1))
    disk.failing = () => undefined
    await Promise.all([...changes, device.setReadOnly(false)])
    expect([changes.length, device.readOnly]).toEqual([1, false])
  })

  it("makes no read-only backing writable, and accepts only true and false", async () => {
    const guest = new RingGuest({ backing: new MemoryBacking({ size: 1 << 20, readOnly: true }) })
    await guest.disk.device.setReadOnly(false)
    expect(guest.disk.device.readOnly).toBe(true)
    expect(await failureOf(guest.disk.device.setReadOnly(1 as never))).toMatch(
      /^TypeError: VirtioBlk.setReadOnly: readOnly must be/,
    )
  })
})

describe("a disk that is pulled out", () => {
  it.each(["PCI", "MMIO"])("with requests in flight over %s reaches the guest no more, and a new disk works", async (kind) => {
    const old = slow(0)
    const vm = new Machine({ ramSize: 1 << 20 })
    let device: VirtioBlk
    if (kind === "MMIO") {
      const disk = vm.attachMmioDisk(old)
      device = disk.device
      const guest = new MmioGuest(vm, disk)
      const ring = new Ring(vm).clear()
      guest.start([ring])
      ring.request(T.OUT, 3, 512)
      guest.kick()
      vm.detachMmioDisk(disk.address)
    } else {
      const guest = new RingGuest({ backing: old })
      send(guest, { type: T.OUT, sector: 3, out: pattern(1, 1) })
      device = guest.machine.detachDisk(guest.disk.slot)
    }
    let isIdle = false
    const idle = device.whenIdle().then(() => (isIdle = true))
    await settled()
    expect([isIdle, old.waiting.length]).toEqual([false, 1])
    const ram = vm.ram.slice()
    await old.finishNext()
    await idle
    expect(Buffer.compare(ram, vm.ram)).toBe(0)
    const again = vm.attachDisk(marked(1000))
    expect(again.device.capacity).toBe(2048)
  })
})
