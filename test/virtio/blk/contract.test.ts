/** What the device expects of a backing that answers later, and what it lends it. */
import { describe, expect, it as once } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import { FakeDisk, settled } from "../../harness/fake-disk.ts"
import { RingGuest, type RingGuestOptions } from "../../harness/guest.ts"
import { pattern, ranges } from "../../harness/requests.ts"
import { F, IOERR, OK, T, UNTOUCHED } from "../../harness/words.ts"

function guestOf(backing: VirtioBacking, options: Partial<RingGuestOptions> = {}): RingGuest {
  return new RingGuest({ backing, ...options })
}

describe("a backing that returns a promise and does not say that it is asynchronous", () => {
  const base = (): VirtioBacking => ({
    size: 4096,
    readOnly: false,
    pread() {},
    pwrite() {},
    flush() {},
    discard() {},
    writeZeroes() {},
    close() {},
  })
  const later = () => new Promise<void>(() => {})

  it.each([
    ["pread", { pread: later }, { type: T.IN, in: 512 }],
    ["pwrite", { pwrite: later }, { type: T.OUT, out: pattern(0, 1) }],
    ["preadInto", { preadInto: later }, { type: T.IN, in: 512 }],
    ["pwriteFrom", { pwriteFrom: later }, { type: T.OUT, out: pattern(0, 1) }],
    ["flush", { flush: later }, { type: T.FLUSH }],
    ["discard", { discard: later }, { type: T.DISCARD, out: ranges({ sector: 0, sectors: 1 }) }],
    ["writeZeroes", { writeZeroes: later }, { type: T.WRITE_ZEROES, out: ranges({ sector: 0, sectors: 1 }) }],
  ] as const)("makes %s an IOERR for the guest, and throws a TypeError that names the remedy", (name, method, request) => {
    const guest = guestOf({ ...base(), ...method })
    const placed = guest.place(request)
    guest.publish([guest.chain(placed.pieces)])
    const message = `the backing's ${name} returned a promise: a backing that answers later must have the property asynchronous: true`
    expect(() => guest.kick()).toThrow(new TypeError(message))
    expect([guest.usedIdx(), guest.reply(placed, 0).status, guest.disk.device.lastError]).toEqual([1, IOERR, new TypeError(message)])
    // The device is sound, and the embedder is told once.
    guest.takeUsed()
    expect(guest.run({ type: T.GET_ID, in: 20 }).status).toBe(OK)
  })

  it("is found out in vectored methods as well, and in the flush of write-through mode", () => {
    const guest = guestOf({ ...base(), preadv: later, pwritev: later, flush: later }, { features: [F.INDIRECT_DESC] })
    const place = (type: number) => {
      const placed = [0, 1].map((sector) => guest.place(type === T.IN ? { type, sector, in: 512 } : { type, sector, out: pattern(0, 1) }))
      guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
      return placed
    }
    for (const [type, status] of [[T.IN, OK], [T.OUT, IOERR]] as const) {
      const placed = place(type)
      if (type === T.IN) guest.kick()
      else expect(() => guest.kick()).toThrow("flush returned a promise")
      expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([status, status])
    }
  })

  it("may, in plain JavaScript, return the number of bytes that it has read", () => {
    const guest = guestOf({ ...base(), pread: ((buffer: Uint8Array) => buffer.fill(7).length) as unknown as VirtioBacking["pread"] })
    expect(guest.read(0, 1)).toMatchObject({ status: OK, data: new Uint8Array(512).fill(7) })
  })
})

describe("buffers and results", () => {
  it("an asynchronous backing gets buffers outside guest RAM, which it may change after its answer without harm", async () => {
    const lent: Uint8Array[] = []
    const backing: VirtioBacking = {
      size: 4096, readOnly: false, asynchronous: true, close() {},
      pread: async (buffer) => {
        lent.push(buffer)
        buffer.fill(1)
      },
      pwrite: async (buffer) => void lent.push(buffer),
    }
    const guest = guestOf(backing)
    const [read, write] = [guest.place({ type: T.IN, sector: 0, in: 1024 }), guest.place({ type: T.OUT, sector: 0, out: pattern(0, 2) })]
    guest.publish([guest.chain(read.pieces), guest.chain(write.pieces)])
    guest.kick()
    // The guest changes its mind: what is written is what it was when it was made available.
    guest.fill(write.out, 1024, 0xee)
    await settled()
    const ram = guest.machine.ram.slice()
    expect(lent.map(({ buffer }) => buffer === guest.machine.ram.buffer)).toEqual([false, false])
    expect(lent[1]).toEqual(pattern(0, 2))
    for (const buffer of lent) buffer.fill(0xdd)
    await settled()
    expect(Buffer.compare(ram, guest.machine.ram)).toBe(0)
    expect(guest.reply(read, 0)).toMatchObject({ status: OK, data: new Uint8Array(1024).fill(1) })
  })

  it("preadNow and pwriteNow work in guest RAM without a copy; what they decline goes through a buffer of the device's own", async () => {
    const inner = new FakeDisk({ size: 1 << 18 })
    inner.cache.set(pattern(0, 512))
    let hit = true
    const log: string[] = []
    const now = (name: string, act: () => void): boolean => {
      log.push(`${name} ${hit}`)
      if (hit) act()
      return hit
    }
    const backing: VirtioBacking = {
      size: inner.size, readOnly: false, asynchronous: true, close() {},
      preadNow: (buffers, offset) => now("read", () => {
        expect(buffers.every(({ buffer }) => buffer === guest.machine.ram.buffer)).toBe(true)
        inner.preadv?.(buffers, offset)
      }),
      pwriteNow: (buffers, offset) => now("write", () => void inner.pwritev?.(buffers, offset)),
      pread: async (buffer, offset) => inner.pread(buffer, offset),
      pwrite: async (buffer, offset) => inner.pwrite(buffer, offset),
    }
    const guest: RingGuest = guestOf(backing)
    expect(guest.read(3, 2)).toMatchObject({ status: OK, data: pattern(3, 2) })
    expect(guest.write(3, pattern(9, 2)).status).toBe(OK)
    // Neighbours, in one call.
    const placed = [10, 11].map((sector) => guest.place({ type: T.IN, sector, in: 512 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    guest.kick()
    expect(guest.takeUsed()).toHaveLength(2)
    expect(log.splice(0)).toEqual(["read true", "write true", "read true"])
    hit = false
    const missed = guest.place({ type: T.IN, sector: 3, in: 1024 })
    guest.publish([guest.chain(missed.pieces)])
    guest.kick()
    expect([guest.takeUsed(), guest.reply(missed, 0).status]).toEqual([[], UNTOUCHED])
    await settled()
    expect(guest.reply(missed, 0)).toMatchObject({ status: OK, data: pattern(9, 2) })
    expect(log).toEqual(["read false"])
  })

  it.each([
    ["preadNow", { type: T.IN, in: 512 }],
    ["pwriteNow", { type: T.OUT, out: pattern(0, 1) }],
  ] as const)("%s that answers neither true nor false throws a TypeError, and the request is IOERR", (name, request) => {
    const answers = [Promise.resolve(true), Promise.reject(new Error("late")), 512, undefined] as const
    const backing: VirtioBacking = { size: 4096, readOnly: false, asynchronous: true, pread() {}, pwrite() {}, close() {} }
    for (const answer of answers) {
      const guest = guestOf({ ...backing, [name]: () => answer })
      const placed = guest.place(request)
      guest.publish([guest.chain(placed.pieces)])
      const shown = answer instanceof Promise ? "a promise" : String(answer)
      expect(() => guest.kick()).toThrow(new TypeError(`the backing's ${name} returned ${shown}: it must answer true or false at once`))
      expect(guest.reply(placed, 0).status).toBe(IOERR)
    }
  })

  it("an asynchronous backing may answer at once, and the request completes at once", () => {
    const disk = new FakeDisk()
    disk.waits = () => false
    const guest = guestOf(disk)
    expect(guest.write(1, pattern(1, 3)).status).toBe(OK)
    expect(guest.read(1, 3).data).toEqual(pattern(1, 3))
  })

  it("preadInto and pwriteFrom get the RAM of the region and a place in it", () => {
    const log: unknown[] = []
    const disk = new FakeDisk()
    const guest = guestOf(Object.assign(disk, {
      preadInto: (ram: Uint8Array, start: number, length: number, offset: number) => {
        log.push([ram.buffer === guest.machine.ram.buffer, start, length, offset])
        ram.fill(5, start, start + length)
      },
      pwriteFrom: (ram: Uint8Array, start: number, length: number, offset: number) => void log.push([ram[start], start, length, offset]),
    }))
    const read = guest.place({ type: T.IN, sector: 2, in: 512 })
    const write = guest.place({ type: T.OUT, sector: 7, out: pattern(7, 2) })
    guest.publish([read, write].map(({ pieces }) => guest.chain(pieces)))
    guest.kick()
    expect(log).toEqual([[true, read.in, 512, 1024], [pattern(7, 1)[0], write.out, 1024, 7 * 512]])
    expect(guest.reply(read, 0)).toMatchObject({ status: OK, data: new Uint8Array(512).fill(5) })
    expect(disk.log).toEqual([])
  })
})

describe("a backing that resets the device inside a call", () => {
  once.each([
    "read", "write", "flush", "discard", "writeZeroes",
  ] as const)("of %s leaves no used entry, no status and the rest undone, and the device can be started", async (name) => {
    for (const waits of [false, true]) {
      const disk = new FakeDisk()
      if (waits) disk.waits = (call) => call.name === name
      const guest = guestOf(disk)
      const requests = {
        read: { type: T.IN, sector: 1, in: 512 },
        write: { type: T.OUT, sector: 1, out: pattern(0, 1) },
        flush: { type: T.FLUSH },
        discard: { type: T.DISCARD, out: ranges({ sector: 1, sectors: 1 }) },
        writeZeroes: { type: T.WRITE_ZEROES, out: ranges({ sector: 1, sectors: 1 }) },
      }
      const placed = [requests[name], { type: T.IN, sector: 9, in: 512 }].map((request) => guest.place(request))
      guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
      const { used } = guest.ring
      disk.failing = () => {
        disk.failing = () => undefined
        guest.status = 0
        return undefined
      }
      guest.kick()
      const silent = () => [guest.bytes(used, 8), placed.map((one) => guest.reply(one, 0).status), guest.irqs()]
      expect([disk.takeNames(), ...silent()]).toEqual([[name], new Uint8Array(8), [UNTOUCHED, UNTOUCHED], []])
      // What waits is of an ended life, from the start.
      disk.waiting.splice(0).forEach((waiting) => waiting.finish())
      await settled()
      expect(silent()).toEqual([new Uint8Array(8), [UNTOUCHED, UNTOUCHED], []])
      await guest.disk.device.whenIdle()
      disk.waits = () => false
      guest.start()
      expect(guest.read(3, 1).status).toBe(OK)
    }
  })
})

describe("options of the device", () => {
  it("onError gets every failure with its reason, and an error that it throws reaches the caller", () => {
    const seen: unknown[] = []
    const disk = new FakeDisk()
    const guest = guestOf(disk, { disk: { onError: (error) => seen.push(error) } })
    const reasons = [new Error("first"), new Error("second")]
    disk.failing = ({ offset }) => reasons[offset / 512]
    for (const sector of [0, 1]) {
      const placed = guest.place({ type: T.IN, sector, in: 512 })
      guest.publish([guest.chain(placed.pieces)])
      expect(() => guest.kick()).toThrow(reasons[sector]?.message)
      expect(guest.reply(placed, 0).status).toBe(IOERR)
    }
    expect(seen).toEqual(reasons)
    expect(guest.disk.device.lastError).toBe(reasons[1])
  })

  it("onError also gets failures after a reset, which the guest does not see", async () => {
    const seen: unknown[] = []
    const disk = new FakeDisk()
    disk.waits = () => true
    const guest = guestOf(disk, { disk: { onError: (error) => seen.push(error) }, features: [F.INDIRECT_DESC] })
    const requests = [{ type: T.OUT, sector: 1, out: pattern(1, 1) }, { type: T.OUT, sector: 7, out: pattern(1, 1) }, {
      type: T.IN, in: 512,
    }]
    guest.publish(requests.map((request) => guest.chain(guest.place(request).pieces, { indirect: true })))
    guest.kick()
    // The first write waits for its flush (write-through) when the reset comes.
    await disk.finishNext()
    expect(disk.waiting.map(({ call }) => call.name)).toEqual(["write", "read", "flush"])
    guest.status = 0
    const reasons = disk.waiting.map(({ call }) => new BackingError("io", `injected: ${call.name}`))
    disk.waiting.splice(0).forEach((waiting, at) => waiting.fail(reasons[at]))
    await settled()
    expect([seen, guest.disk.device.lastError]).toEqual([reasons, reasons[2]])
    await guest.disk.device.whenIdle()
  })

  it("a BackingError has a known code; one with an unknown code, from JavaScript, is IOERR and never OK", () => {
    expect(() => new BackingError("EIO" as never, "gone")).toThrow(/^BackingError: code must be "io", .* did you mean "io"/)
    class OddError extends BackingError {
      override readonly code = "odd" as never
    }
    const fail = (): never => {
      throw new OddError("io", "gone")
    }
    const guest = guestOf({ size: 4096, readOnly: false, pread: fail, pwrite: fail, close() {} })
    expect(guest.write(0, pattern(0, 1)).status).toBe(IOERR)
    expect(guest.read(0, 1).status).toBe(IOERR)
  })

  it("readOnly offers a writable backing as a read-only disk, and never writes it", () => {
    const disk = new FakeDisk()
    const guest = guestOf(disk, { disk: { readOnly: true } })
    expect([
      guest.offers(F.RO), guest.offers(F.DISCARD), guest.offers(F.WRITE_ZEROES), guest.disk.device.readOnly,
    ]).toEqual([true, false, false, true])
    expect(guest.write(0, pattern(0, 1)).status).toBe(IOERR)
    for (const type of [T.DISCARD, T.WRITE_ZEROES]) expect(guest.run({ type, out: ranges({ sector: 0, sectors: 1 }) }).status).toBe(IOERR)
    expect(disk.log).toEqual([])
  })

  it("BC-10 canUnmap false offers no DISCARD and no write_zeroes_may_unmap; without discard, zeroing may still unmap", () => {
    const offer = (more: Partial<VirtioBacking>) => {
      const guest = guestOf(Object.assign(new FakeDisk("discard" in more ? { without: ["discard"] } : {}), more))
      return [guest.offers(F.DISCARD), guest.offers(F.WRITE_ZEROES), guest.config(0x38, 1)]
    }
    expect(offer({})).toEqual([true, true, 1])
    expect(offer({ canUnmap: false })).toEqual([false, true, 0])
    expect(offer({ canUnmap: true })).toEqual([true, true, 1])
  })
})
