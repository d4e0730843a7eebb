/**
 * An embedder that replaces the guest's memory (a WebAssembly memory that grows) from inside of what the device calls: the observer,
 * `onError`, the calls of the backing. The old buffer is gone then: nothing is lost, and nothing throws.
 */
import { describe, expect } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { it } from "../../harness/both-rings.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { growingMemory } from "../../harness/growing-memory.ts"
import { type Placed, RingGuest } from "../../harness/guest.ts"
import { pattern, ranges, type Request } from "../../harness/requests.ts"
import { F, IOERR, OK, T } from "../../harness/words.ts"

const SECTORS = 3100
const CONTENT = pattern(0, SECTORS)
const RAM = 2 << 20
/** Of a read that takes several calls. */
const LONG = 2048 + 5

interface Shape {
  /** The calls that answer later. */
  readonly later?: (call: number) => boolean
  readonly without?: readonly ("preadv" | "pwritev")[]
  /** It reads and writes RAM without views. */
  readonly inPlace?: true
}

const SHAPES: Readonly<Record<string, Shape>> = {
  "at once": {},
  "at once, a buffer at a time": { without: ["preadv", "pwritev"] },
  "in place": { inPlace: true },
  "later": { later: () => true },
  "later every other time": { later: (call) => call % 2 === 0 },
}

const REQUESTS: readonly Request[] = [
  { type: T.IN, sector: 9, in: 512 }, { type: T.OUT, sector: 200, out: pattern(1, 3) }, { type: T.IN, sector: 30, in: 1024 },
  ...[4, 5, 6].map((sector): Request => ({ type: T.IN, sector, in: 512 })), { type: T.GET_ID, in: 20 }, { type: T.FLUSH },
  { type: T.IN, sector: 100, in: 512 * LONG }, { type: T.WRITE_ZEROES, out: ranges({ sector: 3000, sectors: 2 }) },
  { type: T.IN, sector: 20, in: 512 },
]

interface Sent {
  readonly guest: RingGuest
  readonly disk: FakeDisk
  readonly placed: readonly Placed[]
}

type Callback = "observer" | "onError" | "a call"

function backingOf(disk: FakeDisk, { inPlace }: Shape): VirtioBacking {
  if (inPlace !== true) return disk
  return Object.assign(disk, {
    preadInto: (ram: Uint8Array, start: number, length: number, offset: number) => disk.pread(ram.subarray(start, start + length), offset),
    pwriteFrom: (
      ram: Uint8Array, start: number, length: number, offset: number,
    ) => disk.pwrite(ram.subarray(start, start + length), offset),
  })
}

/** A guest whose requests are on their way. `act` is called whenever `callback` is, once the memory has grown. */
function send(shape: Shape, callback: Callback, act: (sent: Sent) => void, options: { readonly writeThrough?: true } = {}): Sent {
  const disk = new FakeDisk({ content: CONTENT.slice(), without: shape.without ?? [] })
  const memory = growingMemory(RAM)
  let calls = 0
  const callBack = (name: Callback) => {
    if (name !== callback || memory.buffer.byteLength >= RAM + (10 << 16)) return
    memory.grow(1)
    act(sent)
  }
  const guest = new RingGuest({
    backing: backingOf(disk, shape), features: [F.INDIRECT_DESC, F.WRITE_ZEROES, ...(options.writeThrough === true ? [] : [F.FLUSH])],
    machine: { memory }, ringSize: 16,
    disk: {
      readErrors: callback === "onError" ? "ignore" : "report",
      ...(callback === "observer" && { observer: () => callBack("observer") }), onError: () => callBack("onError"),
    },
  })
  const sent = { guest, disk, placed: REQUESTS.map((request) => guest.place(request)) }
  const { later } = shape
  if (later !== undefined) disk.waits = () => later(calls)
  disk.failing = ({ offset, name }) => {
    calls++
    return callback === "onError" && name === "read" && offset === 9 * 512 ? eio() : undefined
  }
  if (callback === "a call") disk.answered = () => callBack("a call")
  guest.publish(sent.placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
  guest.kick()
  return sent
}

async function end({ disk, guest }: Sent): Promise<void> {
  for (let round = 0; round < 60 && (guest.usedIdx() < REQUESTS.length || disk.waiting.length > 0); round++) {
    disk.waiting[0]?.finish()
    await settled()
  }
  await settled()
}

function expectDone({ guest, disk, placed }: Sent, failed: readonly number[] = []): void {
  expect(guest.takeUsed()).toHaveLength(REQUESTS.length)
  for (const [at, request] of REQUESTS.entries()) {
    const { status, data } = guest.reply(placed[at] as Placed, 0)
    expect([at, status]).toEqual([at, OK])
    if (request.type !== T.IN) continue
    const from = 512 * Number(request.sector)
    const expected = failed.includes(at) ? new Uint8Array(data.length) : CONTENT.subarray(from, from + data.length)
    // What lies within the long read is written meanwhile.
    if (at !== 8) expect([at, Buffer.compare(data, expected)]).toEqual([at, 0])
  }
  expect(disk.cache.subarray(512 * 200, 512 * 203)).toEqual(pattern(1, 3))
  expect(disk.cache.subarray(512 * 3000, 512 * 3002)).toEqual(new Uint8Array(1024))
  expect(guest.disk.device.virtio.inFlight).toMatchObject({ count: 0, calls: 0, heldBytes: 0 })
}

const VARIANTS = Object.entries(SHAPES).flatMap(([name, shape]) => (["observer", "onError", "a call"] as const).flatMap((callback) =>
  [{}, { writeThrough: true } as const].map((options) => [name, callback, shape, options] as const)))

describe.each(VARIANTS)("a disk that answers %s, memory that %s replaces", (_, callback, shape, options) => {
  it("VQ-16 answers every request in the new memory", async () => {
    const sent = send(shape, callback, () => undefined, options)
    await end(sent)
    expectDone(sent, callback === "onError" ? [0] : [])
  })

  it("and may then save its state at once, or take another disk", async () => {
    for (const act of [
      ({ guest }: Sent) => void guest.disk.function.saveState({ inFlight: "again" }),
      ({ guest, disk }: Sent) => {
        const next = new FakeDisk({ content: disk.cache })
        if (guest.disk.device.backing === disk) void guest.disk.device.changeBacking(next, { atOnce: true })
      },
    ]) {
      const sent = send(shape, callback, act, options)
      await end(sent)
      const { guest, placed } = sent
      expect(guest.takeUsed()).toHaveLength(REQUESTS.length)
      for (const one of placed) expect([OK, IOERR]).toContain(guest.reply(one, 0).status)
    }
  })
})
