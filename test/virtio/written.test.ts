/**
 * GuestMemory.written: every byte that a device stores into RAM is announced, after it was stored: an emulator drops compiled code by it.
 */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { zonedDisk } from "../../src/backing/zoned/zoned-disk.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { it as onBothRings } from "../harness/both-rings.ts"
import { eio, FakeDisk, settled } from "../harness/fake-disk.ts"
import { RingGuest } from "../harness/guest.ts"
import { pattern, ranges, type Request } from "../harness/requests.ts"
import { F, OK, T, ZONE } from "../harness/words.ts"

/** RAM as somebody sees it who copies only what is announced. */
function follow(options: { readonly eventIdx: boolean; readonly waits: boolean }): { guest: RingGuest; disk: FakeDisk; check: () => void } {
  const disk = new FakeDisk({ size: 1 << 16 })
  disk.cache.set(pattern(0, 128))
  const ram = new Uint8Array(1 << 16)
  let copy = ram.slice()
  const features = [F.INDIRECT_DESC, F.DISCARD, F.WRITE_ZEROES, F.FLUSH, ...(options.eventIdx ? [F.EVENT_IDX] : [])]
  const written = (address: number, length: number) => {
    if (length < 0 || address + length > ram.length) throw new Error(`announced ${length} bytes at ${address}`)
    copy.set(ram.subarray(address, address + length), address)
  }
  const guest = new RingGuest({ backing: disk, features, ringSize: 8, machine: { memory: ram, written } })
  disk.waits = () => options.waits
  const check = () => {
    const at = ram.findIndex((byte, index) => byte !== copy[index])
    const { used, avail } = guest.ring
    if (at >= 0) throw new Error(`byte ${at} has changed and was not announced (used ring at ${used}, available ring at ${avail})`)
  }
  // What the guest itself stores is no device's business.
  guest.kick = (ring = guest.ring) => {
    copy = ram.slice()
    guest.registers.kick(ring.index)
  }
  return { guest, disk, check }
}

const REQUESTS: readonly Request[] = [
  { type: T.IN, sector: 1, in: 512 },
  { type: T.IN, sector: 5, in: 1536 },
  { type: T.OUT, sector: 9, out: pattern(3, 2) },
  { type: T.FLUSH },
  { type: T.GET_ID, in: 20 },
  { type: T.GET_ID, in: 40 },
  { type: T.DISCARD, out: ranges({ sector: 3, sectors: 1 }) },
  { type: 99, in: 20 },
  { type: T.IN, sector: 500, in: 512 },
]

describe("`written` gets every store of the device", () => {
  for (const eventIdx of [false, true]) {
    it(`of data, status, used rings and avail_event, over many wraps and failing reads; EVENT_IDX ${eventIdx ? "on" : "off"}`, () => {
      const rng = new Rng(seedFromEnvironment(20260807))
      const { guest, disk, check } = follow({ eventIdx, waits: false })
      disk.failing = ({ name }) => (name === "read" && rng.chance(0.2) ? eio() : undefined)
      const mark = guest.top
      for (let round = 0; round < 400; round++) {
        guest.top = mark
        guest.publish(
          Array.from({ length: rng.between(1, 8) }, () => guest.chain(guest.place(rng.pick(REQUESTS)).pieces, { indirect: true })),
        )
        guest.kick()
        check()
      }
      expect(guest.usedIdx()).toBe(guest.ring.availIdx)
    })

    it(`of late answers; a kick that returns nothing stores at most avail_event; EVENT_IDX ${eventIdx ? "on" : "off"}`, async () => {
      const { guest, disk, check } = follow({ eventIdx, waits: true })
      for (let round = 0; round < 20; round++) {
        const mark = guest.top
        guest.publish([guest.chain(guest.place({ type: T.IN, sector: 2, in: 512 }).pieces, { indirect: true })])
        guest.kick()
        check()
        expect(guest.ring.availEvent).toBe(eventIdx ? guest.ring.availIdx : 0)
        disk.next().finish()
        await settled()
        check()
        guest.kick()
        check()
        guest.top = mark
      }
    })
  }

  it("of data that arrive while a reset waits for them", async () => {
    const { guest, disk, check } = follow({ eventIdx: false, waits: true })
    guest.publish([guest.chain(guest.place({ type: T.IN, sector: 2, in: 512 }).pieces)])
    guest.kick()
    guest.status = 0
    disk.next().finish()
    await settled()
    expect(guest.status).toBe(0)
    check()
  })
})

describe("a `written` that throws or acts", () => {
  const COUNT = 6

  /** A guest with requests that it has not kicked for; `written` calls `act` with the number of each call from now on, until `stop`. */
  function observed(waits: boolean, act: (guest: RingGuest, call: number) => void): { guest: RingGuest; disk: FakeDisk; stop: () => void } {
    const disk = new FakeDisk({ content: pattern(0, 64) })
    disk.waits = () => waits
    let calls = -1
    const written = () => {
      if (calls >= 0) act(guest, calls++)
    }
    const guest: RingGuest = new RingGuest({
      backing: disk, features: [F.INDIRECT_DESC, F.EVENT_IDX], ringSize: 8, machine: { ramSize: 1 << 17, written },
    })
    guest.publish(Array.from({ length: COUNT }, (_, at) => {
      const request: Request = at % 2 === 0 ? { type: T.IN, sector: 3 * at, in: 512 } : { type: T.OUT, sector: 3 * at, out: pattern(at, 1) }
      return guest.chain(guest.place(request).pieces, { indirect: true })
    }))
    calls = 0
    return {
      guest, disk,
      stop() {
        calls = -1
        disk.waits = () => false
      },
    }
  }

  /** What reaches the process uncaught, as an exception or as a promise that is rejected, while `act` runs. */
  async function uncaught(act: () => Promise<void>): Promise<unknown[]> {
    const seen: unknown[] = []
    const events = ["uncaughtException", "unhandledRejection"] as const
    const before = events.map((event) => process.rawListeners(event))
    const take = (reason: unknown) => void seen.push(reason)
    for (const event of events) process.removeAllListeners(event).on(event, take)
    try {
      await act()
      for (let round = 0; round < 30; round++) await settled()
    } finally {
      for (const [at, event] of events.entries()) {
        process.removeAllListeners(event)
        for (const listener of before[at] ?? []) process.on(event, listener as () => void)
      }
    }
    return seen
  }

  async function finishAll(disk: FakeDisk): Promise<void> {
    for (let round = 0; round < 10; round++) {
      for (const waiting of disk.waiting.splice(0)) waiting.finish()
      await settled()
    }
  }

  for (const waits of [false, true]) {
    const kind = waits ? "answers that come later" : "answers at once"

    it(`VQ-22 may throw at any of its calls: each request completes once, and the driver is interrupted; ${kind}`, async () => {
      let thrown = true
      for (let at = 0; thrown; at++) {
        thrown = false
        const oops = new Error(`injected: the embedder's own bug, call ${at}`)
        const { guest, disk, stop } = observed(waits, (_, call) => {
          if (call !== at) return
          thrown = true
          throw oops
        })
        const seen = await uncaught(async () => {
          try {
            guest.kick()
          } catch (error) {
            expect(error).toBe(oops)
          }
          await finishAll(disk)
        })
        expect(seen.every((error) => error === oops)).toBe(true)
        expect([at, guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)]).toEqual([at, [0, 1, 2, 3, 4, 5]])
        expect([at, guest.queueIrqs() > 0, guest.disk.device.statistics.read.requests]).toEqual([at, true, COUNT / 2])
        stop()
        expect(guest.read(5, 1).data).toEqual(disk.cache.slice(5 * 512, 6 * 512))
        if (!thrown) expect(at).toBeGreaterThan(COUNT)
      }
    })

    it(`ST-03 may reset the device at any of its calls: nothing is stored after that, and no interrupt is raised; ${kind}`, async () => {
      let isReset = true
      for (let at = 0; isReset; at++) {
        isReset = false
        let ram = new Uint8Array(0)
        const { guest, disk, stop } = observed(waits, (one, call) => {
          if (call !== at) return
          isReset = true
          one.status = 0
          ram = one.machine.ram.slice()
          one.irqs()
        })
        guest.kick()
        await finishAll(disk)
        if (!isReset) break
        expect([at, Buffer.compare(ram, guest.machine.ram), guest.irqs()]).toEqual([at, 0, []])
        stop()
        guest.start()
        expect(guest.read(5, 1).data).toEqual(disk.cache.slice(5 * 512, 6 * 512))
      }
    })

    it(`PCI-36 may switch bus mastering off at any of its calls: nothing is stored until it is on again; ${kind}`, async () => {
      let isOff = true
      for (let at = 0; isOff; at++) {
        isOff = false
        let ram = new Uint8Array(0)
        const { guest, disk } = observed(waits, (one, call) => {
          if (call !== at) return
          isOff = true
          one.registers.command = 3
          ram = one.machine.ram.slice()
        })
        guest.kick()
        await finishAll(disk)
        if (isOff) expect([at, Buffer.compare(ram, guest.machine.ram)]).toEqual([at, 0])
        guest.registers.command = 7
        await finishAll(disk)
        expect([at, guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)]).toEqual([at, [0, 1, 2, 3, 4, 5]])
        expect([at, guest.queueIrqs() > 0]).toEqual([at, true])
      }
    })

    const title = `PCI-36 may do so before the device moves to another machine, where completed requests are shown; ${kind}`
    onBothRings(title, async () => {
      let isOff = true
      for (let at = 0; isOff; at++) {
        isOff = false
        const { guest, disk, stop } = observed(waits, (one, call) => {
          if (call !== at) return
          isOff = true
          one.registers.command = 3
        })
        guest.kick()
        await finishAll(disk)
        stop()
        const state: unknown = JSON.parse(JSON.stringify(guest.disk.function.saveState()))
        const told = guest.queueIrqs() > 0
        guest.machine.detachDisk(guest.disk.slot)
        const again = guest.machine.attachDisk(disk, { slot: guest.disk.slot, withFeatures: ["RING_PACKED"] })
        again.function.restoreState(state)
        again.device.resume()
        guest.registers.command = 7
        await finishAll(disk)
        expect([at, guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)]).toEqual([at, [0, 1, 2, 3, 4, 5]])
        expect([at, told || guest.queueIrqs() > 0]).toEqual([at, true])
      }
    })
  }
})

it("the stores of a write do not include those of an earlier append to a zone", () => {
  let announced: number[] = []
  const written = (address: number) => announced.push(address)
  const backing = zonedDisk(new MemoryBacking({ size: 64 * 512 }), { zoneSize: 8 * 512, conventionalZones: 1 })
  const guest = new RingGuest({ backing, features: [F.ZONED], machine: { memory: new Uint8Array(1 << 16), written } })
  const announcements = (act: () => { readonly status: number }): number => {
    announced = []
    expect(act().status).toBe(OK)
    return announced.length
  }
  const before = announcements(() => guest.write(0, pattern(1, 1)))
  announcements(() => guest.run({ type: ZONE.APPEND, sector: 8, out: pattern(2, 1), in: 8 }))
  expect(announcements(() => guest.write(0, pattern(3, 1)))).toBe(before)
})
