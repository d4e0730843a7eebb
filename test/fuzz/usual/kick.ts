/**
 * KickFuzzer: three guests do the same: one over a disk whose usual kicks take the short way, one over a disk that wants views, whose kicks
 * take it as rows, and one whose kicks all take the long way. After each step RAM, disk, calls, interrupts and counts of the three must
 * be the same. Disks and interrupts call back into the device now and then.
 */
import { settled } from "../../harness/fake-disk.ts"
import type { Request } from "../../harness/requests.ts"
import { T, UP } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { type Shape, SHAPES } from "./kick-shapes.ts"
import { type Life, RAM, RING, SECTORS, Side, type Step } from "./kick-side.ts"

/** The last one takes the long way. */
type Sides = readonly [Side, Side, Side]

export class KickFuzzer {
  /** Steps of all rounds. */
  steps = 0
  readonly #rng: Rng
  readonly #isPacked: boolean
  readonly #isShared: boolean
  #habit: Shape = (pieces) => pieces

  constructor(rng: Rng, { packed, shared }: { readonly packed: boolean; readonly shared: boolean }) {
    this.#rng = rng
    this.#isPacked = packed
    this.#isShared = shared
  }

  /** One life of the guests. @throws Error where they differ */
  async round(): Promise<void> {
    const rng = this.#rng
    const life: Life = {
      eventIdx: rng.chance(0.7), inOrder: rng.chance(0.3), position: rng.pick([0, 65536 - rng.below(20)]) & 0xffff,
      packed: this.#isPacked,
      // Sizes of packed rings are any: chains end at, before and behind the end of the ring.
      ringSize: this.#isPacked ? rng.pick([2, 3, 4, 7, 11, 12, RING]) : RING,
      shared: this.#isShared,
      vectored: rng.chance(0.7),
    }
    const sides = [new Side("read by itself", life), new Side("as a row", life), new Side("long", life)] as const
    const names: string[] = []
    for (let count = 30; count > 0; count--) {
      const [name, step] = this.#step()
      names.push(name)
      this.steps++
      for (const side of sides) {
        await step(side)
        await settled()
      }
      compare(names, sides, isPlain(name) ? "all" : "nothing of avail_event")
      for (const side of sides) this.#goOn(side)
      // Whoever is paused by an interrupt has, or has not, asked for a kick before: it is the same once the device goes on.
      if (sides[0].guest.status === UP) compare(names, sides, "all")
      for (const side of sides) this.#tidy(side)
    }
    for (const side of sides) side.save()
    compare(names, sides, "nothing of avail_event")
  }

  /** Whatever the step has left: the device takes requests. */
  #goOn(side: Side): void {
    side.onCall = undefined
    side.atEndOfCall = undefined
    side.onInterrupt = undefined
    side.fails = false
    side.guest.registers.command = 7
    side.guest.disk.device.resume()
  }

  #tidy({ guest, log }: Side): void {
    log.length = 0
    guest.takeUsed()
    if (guest.status !== UP || guest.top > RAM - 0x4000) guest.start()
  }

  #step(): readonly [string, Step] {
    const rng = this.#rng
    const request = this.#request()
    const usual: readonly [string, Step] = ["usual", (side) => { request(side); side.kick() }]
    if (rng.chance(0.4)) return usual
    const more = this.#request()
    const many = Array.from({ length: rng.pick([3, 4, 5]) }, () => this.#request())
    const [name, hook] = rng.pick(this.#hooks())
    const value = rng.u32() & 0xffff
    return rng.pick<readonly [string, Step]>([
      ["two", (side) => { request(side); more(side); side.kick() }],
      ["many", (side) => { for (const one of many) one(side); side.kick() }],
      ["nothing", (side) => side.kick()],
      [`${name} in a call`, (side) => { side.onCall = hook; request(side); side.kick() }],
      [`${name} at the end of a call`, (side) => { side.atEndOfCall = hook; request(side); side.kick() }],
      ["growth at the end of a call", (side) => { side.atEndOfCall = grow; request(side); side.kick() }],
      ["request in an interrupt", (side) => { side.onInterrupt = more; request(side); side.kick() }],
      ["growth in an interrupt", (side) => { side.onInterrupt = grow; request(side); side.kick() }],
      [`${name} in an interrupt`, (side) => { side.onInterrupt = hook; request(side); side.kick() }],
      ["failure", (side) => { side.fails = true; request(side); side.kick() }],
      [`${name} before`, async (side) => { await attempt(side, hook); request(side); side.kick() }],
      ...(this.#isPacked ? this.#stepsOfPacked(request, value) : stepsOfSplit(request, value)),
    ])
  }

  #stepsOfPacked(request: (side: Side) => void, value: number): readonly (readonly [string, Step])[] {
    const rng = this.#rng
    const [flags, event] = [rng.pick([0, 1, 2, 2, 2, 3]), (value & 0x8000) | (value % (2 * RING))]
    const [word, bit, field] = [rng.below(4), 1 << rng.below(16), rng.pick([8, 12, 14])]
    return [
      ["events", (side) => { side.guest.packedRing.setEvents(flags, event); request(side); side.kick() }],
      ["flags", (side) => { side.guest.packedRing.setEvents(value & 3); request(side); side.kick() }],
      ["mutation", (side) => {
        const { guest } = side
        const { desc, driver: { slot }, size } = guest.packedRing
        request(side)
        const at = desc + 16 * ((slot + word) % size) + field
        guest.data.setUint16(at, guest.data.getUint16(at, true) ^ bit, true)
        side.kick()
      }],
    ]
  }

  /** What somebody does to the device, at any time. */
  #hooks(): readonly (readonly [string, Step])[] {
    const request = this.#request()
    const flag = this.#rng.chance(0.5)
    const command = this.#rng.pick([3, 7])
    return [
      ["reset", ({ guest }) => { guest.status = 0 }],
      ["restart", ({ guest }) => void guest.start()],
      ["bus mastering", ({ guest }) => { guest.registers.command = command }],
      ["bus mastering off and on", ({ guest }) => { guest.registers.command = 3; guest.registers.command = 7 }],
      ["pause", ({ guest }) => void guest.disk.device.pause()],
      ["pause and resume", ({ guest }) => { void guest.disk.device.pause(); guest.disk.device.resume() }],
      ["kick", (side) => side.kick()],
      ["request", (side) => request(side)],
      ["request and kick", (side) => { request(side); side.kick() }],
      ["cache mode", ({ guest }) => guest.setConfig(0x20, 1, flag ? 1 : 0)],
      ["throttle", ({ guest }) => guest.disk.device.setThrottle(flag ? { requests: 1e9 } : undefined)],
      ["read-only", ({ guest }) => guest.disk.device.setReadOnly(flag).then(() => guest.disk.device.setReadOnly(false))],
      ["another disk", (side) => side.guest.disk.device.changeBacking(side.backing(), { atOnce: flag })],
      ["a state that is saved", (side) => side.save()],
      ["an exception", () => { throw new Error("of the embedder") }],
      ["queue reset", ({ guest }) => { guest.modern.setQueueRegister(0, 0x3a, 2, 1) }],
    ]
  }

  /** Makes a request available, most often a usual one. */
  #request(): (side: Side) => void {
    const rng = this.#rng
    const indirect = rng.chance(0.5)
    const sector = rng.below(SECTORS + (rng.chance(0.1) ? 2 : 0))
    const bytes = rng.pick([512, 512, 512, 1024, 100, 0])
    const content = rng.bytes(bytes)
    const request: Request = rng.pick([
      { type: T.IN, sector, in: bytes }, { type: T.OUT, sector, out: content }, { type: T.IN, sector, in: 512 },
      ...(rng.chance(0.2) ? [{ type: T.FLUSH }, { type: T.GET_ID, in: 20 }, { type: 99, in: 4 }] : []),
    ])
    const shape = this.#shape()
    return (side) => side.send(request, shape, indirect)
  }

  /** Most are those of the driver's habit: usual, or not. */
  #shape(): Shape {
    const rng = this.#rng
    if (rng.chance(0.1)) this.#habit = rng.pick(SHAPES)
    return rng.chance(0.8) ? this.#habit : rng.pick(SHAPES)
  }
}

function stepsOfSplit(request: (side: Side) => void, value: number): readonly (readonly [string, Step])[] {
  return [
    ["head outside", (side) => { side.guest.publish([RING + (value & 3)]); side.kick() }],
    ["index too far ahead", (side) => { const { guest } = side; guest.data.setUint16(guest.ring.avail + 2, value, true); side.kick() }],
    ["events", (side) => { side.guest.ring.usedEvent = value; request(side); side.kick() }],
    ["flags", (side) => { side.guest.ring.availFlags = value & 1; request(side); side.kick() }],
  ]
}

/** Nobody calls the device meanwhile, so it asks for a kick in the end. */
function isPlain(name: string): boolean {
  return ["usual", "two", "many", "nothing", "events", "flags"].includes(name)
}

function grow({ memory }: Side): void {
  memory.grow(1)
}

async function attempt(side: Side, step: Step): Promise<void> {
  try {
    await step(side)
  } catch (error) {
    side.log.push(String(error))
  }
}

/** @throws Error unless all sides are in the same state */
function compare(names: readonly string[], [one, other, long]: Sides, what: "all" | "nothing of avail_event"): void {
  const expected = long.state(what)
  compareTwo(names, one.state(what), expected)
  compareTwo(names, other.state(what), expected)
}

function compareTwo(names: readonly string[], one: ReturnType<Side["state"]>, other: ReturnType<Side["state"]>): void {
  const [rest, otherRest] = [JSON.stringify(one.rest), JSON.stringify(other.rest)]
  if (Buffer.compare(one.ram, other.ram) === 0 && Buffer.compare(one.disk, other.disk) === 0 && rest === otherRest) return
  const firstByte = (a: Uint8Array, b: Uint8Array): number => a.findIndex((byte, at) => byte !== b[at])
  const places = [firstByte(one.ram, other.ram), firstByte(one.disk, other.disk)]
  throw new Error(`${names.join(", ")}: bytes ${places.join()} of RAM and disk; ${rest} and ${otherRest}`)
}
