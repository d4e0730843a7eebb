/**
 * KickFuzzer: two guests do the same, one over a disk whose usual kicks take the short way, the other over one that wants views: all of
 * its kicks take the long way. After each step RAM, disk, calls, interrupts and counts of the two must be the same. Disks and interrupts
 * call back into the device now and then.
 */
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import { RingGuest } from "../../harness/guest.ts"
import { settled } from "../../harness/fake-disk.ts"
import { type GrowingMemory, growingMemory } from "../../harness/growing-memory.ts"
import { PackedRing } from "../../harness/packed-ring.ts"
import { F, T, UP } from "../../harness/words.ts"
import type { Request } from "../../harness/requests.ts"
import type { AttachDiskOptions } from "../../../src/vmm/machine.ts"
import type { Rng } from "../../support/rng.ts"

const SECTORS = 16
const RAM = 1 << 16
const RING = 16

/** What the guests of a round have in common. */
interface Life {
  readonly eventIdx: boolean
  readonly inOrder: boolean
  /** Where the indices of a split ring begin. */
  readonly position: number
  readonly packed: boolean
  readonly ringSize: number
}

/** A step, of either guest. */
type Step = (side: Side) => void | Promise<void>

/** A guest and its disk. */
class Side {
  readonly content = new Uint8Array(512 * SECTORS)
  readonly guest: RingGuest
  readonly memory: GrowingMemory
  /** Calls of the disk, and interrupts, in their order. */
  readonly log: string[] = []
  /** Called inside of the next call of the disk, before and behind its work, or the next interrupt. */
  onCall: Step | undefined
  atEndOfCall: Step | undefined
  onInterrupt: Step | undefined
  fails = false
  readonly #isDirect: boolean

  constructor(isDirect: boolean, { eventIdx, inOrder, position, packed, ringSize }: Life) {
    this.#isDirect = isDirect
    const features = [F.INDIRECT_DESC, F.FLUSH, F.CONFIG_WCE, F.IN_ORDER, ...(eventIdx ? [F.EVENT_IDX] : [])]
    this.memory = growingMemory(RAM)
    const machine = { memory: this.memory }
    const names = (["IN_ORDER", "RING_PACKED"] as const).filter((_, at) => [inOrder, packed][at])
    const disk: AttachDiskOptions = { withFeatures: names }
    this.guest = new RingGuest({ backing: this.backing(), features, ringSize, machine, disk, packed })
    if (!packed) this.#beginAt(position)
    this.guest.machine.interrupts.subscribe((change) => {
      this.log.push(JSON.stringify(change))
      const { onInterrupt } = this
      this.onInterrupt = undefined
      void onInterrupt?.(this)
    })
  }

  save(): void {
    this.log.push(JSON.stringify(this.guest.disk.device.virtio.saveState({ inFlight: "again" })))
  }

  /** The ring has come so far already. */
  #beginAt(position: number): void {
    const { ring, data, disk: { device } } = this.guest
    data.setUint16(ring.avail + 2, position, true)
    data.setUint16(ring.used + 2, position, true)
    ring.lastUsed = position
    const state = device.virtio.saveState()
    device.virtio.restoreState({ ...state, queues: state.queues.map((queue) => ({ ...queue, position })) })
    device.resume()
  }

  backing(): VirtioBacking {
    const call = (name: string, offset: number, buffer: Uint8Array, work: (part: Uint8Array) => void): void => {
      this.log.push(`${name} ${offset} ${buffer.length}`)
      const { onCall, fails } = this
      this.onCall = undefined
      this.fails = false
      void onCall?.(this)
      if (fails) throw new BackingError("io", "it fails")
      work(this.content.subarray(offset, offset + buffer.length))
      const { atEndOfCall } = this
      this.atEndOfCall = undefined
      void atEndOfCall?.(this)
    }
    const pread = (buffer: Uint8Array, offset: number): void => call("read", offset, buffer, (part) => buffer.set(part))
    const pwrite = (buffer: Uint8Array, offset: number): void => call("write", offset, buffer, (part) => part.set(buffer))
    return {
      size: this.content.length, readOnly: false, close() {}, pread, pwrite, flush: () => call("flush", 0, new Uint8Array(0), () => {}),
      ...(this.#isDirect && {
        preadInto: (ram, start, length, offset) => pread(ram.subarray(start, start + length), offset),
        pwriteFrom: (ram, start, length, offset) => pwrite(ram.subarray(start, start + length), offset),
      } satisfies Partial<VirtioBacking>),
    }
  }

  send(request: Request, indirect: boolean): void {
    const { guest } = this
    const { pieces } = guest.place(request)
    guest.publish([guest.chain(pieces, { indirect })])
  }

  /** A kick, which throws what an interrupt handler, or a bug of the disk's, throws. */
  kick(): void {
    try {
      this.guest.kick()
    } catch (error) {
      this.log.push(String(error))
    }
  }

  /** All that can be seen of it. */
  state(what: "all" | "nothing of avail_event"): { readonly ram: Buffer; readonly disk: Buffer; readonly rest: unknown } {
    const { machine, disk: { device }, status, ring } = this.guest
    const { statistics, brokenBy, virtio } = device
    const ram = Buffer.from(machine.ram)
    const event = ring instanceof PackedRing ? ring.used : ring.used + 4 + 8 * ring.size
    if (what !== "all") ram.fill(0, event, event + 2)
    const rest = { log: this.log, statistics, broken: brokenBy?.message, status, idle: virtio.isIdle }
    return { ram, disk: Buffer.from(this.content), rest }
  }
}

export class KickFuzzer {
  /** Steps of all rounds. */
  steps = 0
  readonly #rng: Rng
  readonly #isPacked: boolean

  constructor(rng: Rng, { packed }: { readonly packed: boolean }) {
    this.#rng = rng
    this.#isPacked = packed
  }

  /** One life of the two guests. @throws Error where they differ */
  async round(): Promise<void> {
    const rng = this.#rng
    const life: Life = {
      eventIdx: rng.chance(0.7), inOrder: rng.chance(0.3), position: rng.pick([0, 65536 - rng.below(20)]) & 0xffff,
      packed: this.#isPacked,
      // Sizes of packed rings are any: chains end at, before and behind the end of the ring.
      ringSize: this.#isPacked ? rng.pick([2, 3, 4, 7, 11, 12, RING]) : RING,
    }
    const sides = [new Side(true, life), new Side(false, life)] as const
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
    const [name, hook] = rng.pick(this.#hooks())
    const value = rng.u32() & 0xffff
    return rng.pick<readonly [string, Step]>([
      ["two", (side) => { request(side); more(side); side.kick() }],
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
    return (side) => side.send(request, indirect)
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
  return ["usual", "two", "nothing", "events", "flags"].includes(name)
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

/** @throws Error unless both sides are in the same state */
function compare(names: readonly string[], sides: readonly Side[], what: "all" | "nothing of avail_event"): void {
  const [one, other] = sides.map((side) => side.state(what))
  if (one === undefined || other === undefined) return
  const [rest, otherRest] = [JSON.stringify(one.rest), JSON.stringify(other.rest)]
  if (Buffer.compare(one.ram, other.ram) === 0 && Buffer.compare(one.disk, other.disk) === 0 && rest === otherRest) return
  const firstByte = (a: Uint8Array, b: Uint8Array): number => a.findIndex((byte, at) => byte !== b[at])
  const places = [firstByte(one.ram, other.ram), firstByte(one.disk, other.disk)]
  throw new Error(`${names.join(", ")}: bytes ${places.join()} of RAM and disk; ${rest} and ${otherRest}`)
}
