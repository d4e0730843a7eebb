/**
 * A backing that drives the device from inside its own calls: it resets it, or switches bus mastering off. Each call of a batch of all
 * kinds of requests does so in turn, over backings that answer in each way there is.
 */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { totalLength, type VirtioBacking } from "../../../src/backing/backing.ts"
import { eio, settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest } from "../../harness/guest.ts"
import { pattern, ranges, type Request } from "../../harness/requests.ts"
import { F, OK, T } from "../../harness/words.ts"

const SECTORS = 6000
const CONTENT = pattern(0, SECTORS)
/** Sectors of a read that takes several calls. */
const LONG = 2048 + 5

interface Shape {
  readonly asynchronous?: true
  /** The calls that answer later. */
  readonly later?: (call: number) => boolean
  readonly vectored?: true
  readonly now?: true
}

const SHAPES: Readonly<Record<string, Shape>> = {
  "a synchronous backing": { vectored: true },
  "a backing without vectored calls": {},
  "an asynchronous backing that answers at once": { asynchronous: true },
  "an asynchronous backing that answers every other call at once": { asynchronous: true, later: (call) => call % 2 === 0 },
  "an asynchronous backing that answers later": { asynchronous: true, later: () => true },
  "an asynchronous backing that reads and writes in place": { asynchronous: true, now: true },
}

/** A disk that calls `hook` with the number of each call, from 0 on, when it has done its work. */
class CallingDisk {
  readonly content = CONTENT.slice()
  readonly backing: VirtioBacking
  calls = 0
  hook: (call: number) => void = () => {}
  /** The first read of the group's second sector fails, alone or with its neighbours. */
  failsOnce: boolean

  constructor(shape: Shape, { failsOnce }: { readonly failsOnce: boolean }) {
    this.failsOnce = failsOnce
    const answer = (work: () => void, hasFifthSector = false): void | Promise<void> => {
      const call = this.calls++
      const fails = hasFifthSector && this.failsOnce
      if (fails) this.failsOnce = false
      else work()
      this.hook(call)
      if (shape.later?.(call) === true) return fails ? Promise.reject(eio()) : Promise.resolve()
      if (fails) throw eio()
    }
    const read = (buffers: readonly Uint8Array[], offset: number) => {
      for (const buffer of buffers) {
        buffer.set(this.content.subarray(offset, offset + buffer.length))
        offset += buffer.length
      }
    }
    const write = (buffers: readonly Uint8Array[], offset: number) => {
      for (const buffer of buffers) {
        this.content.set(buffer, offset)
        offset += buffer.length
      }
    }
    const hasFifth = (buffers: readonly Uint8Array[], offset: number) => offset <= 5 * 512 && offset + totalLength(buffers) > 5 * 512
    this.backing = {
      size: 512 * SECTORS, readOnly: false, close() {},
      ...(shape.asynchronous === true ? { asynchronous: true } : {}),
      pread: (buffer, offset) => answer(() => read([buffer], offset), hasFifth([buffer], offset)),
      pwrite: (buffer, offset) => answer(() => write([buffer], offset)),
      ...(shape.vectored === true ? {
        preadv: (buffers: readonly Uint8Array[], offset: number) => answer(() => read(buffers, offset), hasFifth(buffers, offset)),
        pwritev: (buffers: readonly Uint8Array[], offset: number) => answer(() => write(buffers, offset)),
      } : {}),
      ...(shape.now === true ? {
        preadNow: (buffers: readonly Uint8Array[], offset: number) => (
          answer(() => read(buffers, offset), hasFifth(buffers, offset)), true
        ),
        pwriteNow: (buffers: readonly Uint8Array[], offset: number) => (answer(() => write(buffers, offset)), true),
      } : {}),
      flush: () => answer(() => {}),
      writeZeroes: (offset, length) => answer(() => void this.content.fill(0, offset, offset + length)),
    }
  }
}

const REQUESTS: readonly Request[] = [
  ...[4, 5, 6].map((sector): Request => ({ type: T.IN, sector, in: 512 })),
  { type: T.OUT, sector: 5000, out: pattern(1, 1) },
  ...[100, 101, 102].map((sector): Request => ({ type: T.OUT, sector, out: pattern(sector + 7, 1) })),
  { type: T.IN, sector: 200, in: 512 * LONG },
  { type: T.WRITE_ZEROES, out: ranges({ sector: 5800, sectors: 1 }, { sector: 5802, sectors: 1 }) },
  { type: T.GET_ID, in: 20 },
  { type: T.IN, sector: 20, in: 512 },
]

function expectDone(guest: RingGuest, disk: CallingDisk, placed: readonly Placed[]): void {
  expect(guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)).toEqual(placed.map((_, at) => at))
  for (const [at, request] of REQUESTS.entries()) {
    const { status, data } = guest.reply(placed[at] as Placed, 0)
    expect([at, status]).toEqual([at, OK])
    const from = 512 * Number(request.sector)
    if (request.type === T.IN) expect(Buffer.compare(data, CONTENT.subarray(from, from + data.length))).toBe(0)
    if (request.type === T.OUT) expect(disk.content.subarray(from, from + (request.out?.length ?? 0))).toEqual(request.out)
  }
  for (const sector of [5800, 5802]) expect(disk.content.subarray(512 * sector, 512 * sector + 512)).toEqual(new Uint8Array(512))
}

/** A guest whose requests are on their way. `hook` sees it with each call. */
function sent(
  shape: Shape, options: { readonly failsOnce: boolean; readonly writeThrough: boolean }, hook: (guest: RingGuest, call: number) => void,
): { guest: RingGuest; disk: CallingDisk; placed: Placed[] } {
  const disk = new CallingDisk(shape, options)
  const features = [F.INDIRECT_DESC, F.WRITE_ZEROES, ...(options.writeThrough ? [] : [F.FLUSH])]
  const guest = new RingGuest({ backing: disk.backing, features, ringSize: 16, machine: { ramSize: 2 << 20 } })
  const placed = REQUESTS.map((request) => guest.place(request))
  guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
  disk.hook = (call) => hook(guest, call)
  guest.kick()
  return { guest, disk, placed }
}

async function quiet(): Promise<void> {
  for (let round = 0; round < 8; round++) await settled()
}

const VARIANTS = Object.entries(SHAPES).flatMap(([name, shape]) => [false, true].flatMap((failsOnce) => [false, true].map(
  (writeThrough) => [`${name}, ${writeThrough ? "write-through" : "write-back"}${failsOnce ? ", a call that fails" : ""}`, shape, {
    failsOnce, writeThrough,
  }] as const,
)))

describe.each(VARIANTS)("%s", (_, shape, options) => {
  /** Calls that the requests take. */
  async function count(): Promise<number> {
    const { guest, disk, placed } = sent(shape, options, () => {})
    await quiet()
    expectDone(guest, disk, placed)
    expect(disk.failsOnce).toBe(false)
    return disk.calls
  }

  it("ST-02 ST-03 a reset inside any call ends all stores and calls, and the device is as new", async () => {
    const calls = await count()
    for (let at = 0; at < calls; at++) {
      let ram = new Uint8Array(0)
      const { guest, disk } = sent(shape, options, (one, call) => {
        if (call !== at) return
        one.status = 0
        ram = one.machine.ram.slice()
        one.irqs()
      })
      await quiet()
      expect([at, disk.calls, Buffer.compare(ram, guest.machine.ram), guest.irqs()]).toEqual([at, at + 1, 0, []])
      await guest.disk.device.whenIdle()
      expect(guest.disk.device.virtio.inFlight).toMatchObject({ count: 0, calls: 0, heldBytes: 0 })
      guest.start()
      guest.kick()
      expect(guest.status).toBe(0x0f)
    }
  })

  it("PCI-36 with bus mastering switched off inside any call nothing is stored until it is on, and no request is lost", async () => {
    const calls = await count()
    for (let at = 0; at < calls; at++) {
      let ram = new Uint8Array(0)
      const { guest, disk, placed } = sent(shape, options, (one, call) => {
        if (call !== at) return
        one.registers.command = 3
        ram = one.machine.ram.slice()
      })
      await quiet()
      expect([at, Buffer.compare(ram, guest.machine.ram)]).toEqual([at, 0])
      guest.registers.command = 7
      await quiet()
      expectDone(guest, disk, placed)
      expect(guest.disk.device.virtio.inFlight).toMatchObject({ count: 0, calls: 0, heldBytes: 0 })
    }
  })
})
