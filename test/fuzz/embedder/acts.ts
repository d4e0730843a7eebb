/** What an embedder may do to a device at any moment. */
import { Throttle } from "../../../src/index.ts"
import type { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { BackingError } from "../../../src/backing/backing.ts"
import type { RingGuest } from "../../harness/guest.ts"
import { COMMON } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import type { ManualClock } from "../../virtio/blk/throttling/manual-clock.ts"
import type { CallingDisk, Waiting } from "./calling-disk.ts"

/** Who does it. */
export interface Acting {
  readonly rng: Rng
  readonly clock: ManualClock
  readonly guest: RingGuest
  readonly device: VirtioBlk
  readonly waiting: Waiting[]
  /** What the disk holds. */
  readonly content: Uint8Array
  /** What the disk says that it has, in bytes. */
  size: number
  /** The device has been reset, or is another one: the guest has to start it. */
  needsStart: boolean
  isAttached: boolean
  diskOver(content: Uint8Array): CallingDisk
  inside(where: string): void
  /** Some request may fail from now on. */
  noteFailure(): void
  endLife(end: () => void): void
  forgetRing(ring: RingGuest["ring"]): void
}

export interface Act {
  readonly name: string
  /** It reaches for registers of the disk. */
  readonly needsDisk: boolean
  readonly act: () => void
}

/** What an embedder that asks for what cannot be is told. */
const REFUSALS = /injected|saved state|in flight|must be|cannot be|driver uses|called again|not a number|no disk|at byte/

/** @throws `error`, unless it tells an embedder that it cannot have what it asked for */
export function tolerate(error: unknown): void {
  if (error instanceof BackingError || (error instanceof Error && REFUSALS.test(error.message))) return
  throw error
}

/** Each as likely as the others; a kick twice. */
export function actsOf(embedder: Acting): Act[] {
  const of = (name: string, act: () => void, needsDisk = true): Act => ({ name, needsDisk, act })
  return [...guestActs(embedder, of), ...diskActs(embedder, of), ...deviceActs(embedder, of), ...stateActs(embedder, of)]
}

type Make = (name: string, act: () => void, needsDisk?: boolean) => Act

function guestActs(embedder: Acting, of: Make): Act[] {
  const { rng } = embedder
  const kick = (): void => {
    const { rings } = embedder.guest
    if (rings.length > 0) embedder.guest.kick(rng.pick(rings))
  }
  return [
    of("kick", kick), of("kick", kick),
    of("device reset", () => embedder.endLife(() => void (embedder.guest.status = 0))),
    of("machine reset", () => embedder.endLife(() => embedder.guest.machine.reset())),
    of("queue reset", () => resetQueue(embedder)),
    of("bus mastering off", () => void (embedder.guest.modern.command = 3)),
    of("bus mastering on", () => void (embedder.guest.modern.command = 7)),
    of("configuration read", () => void embedder.guest.capacity),
    of("ISR read", () => void embedder.guest.modern.readIsr()),
    of("unplug", () => embedder.endLife(() => {
      embedder.isAttached = false
      embedder.guest.machine.detachDisk(embedder.guest.disk.slot)
    })),
  ]
}

function resetQueue(embedder: Acting): void {
  const { guest, needsStart, rng } = embedder
  if (guest.rings.length === 0 || needsStart) return
  const ring = rng.pick(guest.rings)
  embedder.forgetRing(ring)
  guest.modern.setQueueRegister(ring.index, COMMON.queueReset, 2, 1)
  guest.rings = guest.rings.filter((other) => other !== ring)
  if (guest.rings.length === 0) embedder.needsStart = true
}

function diskActs(embedder: Acting, of: Make): Act[] {
  const { rng } = embedder
  const length = embedder.size
  const sizes = [0, 511, 512, length, length, length - 512, length + 100, 2 ** 52, 2 ** 53 - 1]
  return [
    of("another size", () => {
      embedder.noteFailure()
      embedder.size = rng.pick(sizes)
      embedder.device.capacityChanged()
    }, false),
    of("the size that it has", () => {
      embedder.size = embedder.content.length
      embedder.device.capacityChanged()
    }),
    of("another disk", () => void embedder.device.changeBacking(embedder.diskOver(embedder.content)).catch(tolerate)),
    of("another disk at once", () => {
      const next = embedder.diskOver(embedder.content.slice())
      void embedder.device.changeBacking(next, { atOnce: true }).catch(tolerate)
    }),
    of("another content", () => void embedder.device.changeContent(() => embedder.inside("changeContent")).catch(tolerate)),
    of("resize", () => void embedder.device.resize(embedder.content.length).catch(tolerate)),
    of("answer", () => embedder.waiting.splice(rng.below(Math.max(embedder.waiting.length, 1)), 1)[0]?.answer(), false),
  ]
}

function deviceActs(embedder: Acting, of: Make): Act[] {
  const { rng, clock } = embedder
  return [
    of("pause", () => void embedder.device.pause(), false),
    of("resume", () => embedder.device.resume(), false),
    of("other limits", () => {
      embedder.device.setThrottle(rng.chance(0.5) ? undefined : new Throttle({ requests: 500, bytes: 1_000_000 }, { clock }))
    }, false),
    of("read-only", () => {
      embedder.noteFailure()
      void embedder.device.setReadOnly(rng.chance(0.5)).catch(tolerate)
    }),
    of("writable", () => void embedder.device.setReadOnly(false).catch(tolerate)),
    of("time passes", () => clock.runTo(clock.time + rng.below(50)), false),
    of("wait until idle", () => void embedder.device.whenIdle(), false),
    of("statistics", () => void JSON.stringify([embedder.device.statistics, String(embedder.device.lastError)]), false),
  ]
}

function stateActs(embedder: Acting, of: Make): Act[] {
  const save = (options: { readonly inFlight?: "again" }): string => JSON.stringify(embedder.guest.disk.function.saveState(options))
  return [
    of("save", () => void save(embedder.rng.chance(0.5) ? { inFlight: "again" } : {}), false),
    of("save and restore", () => {
      const text = save({ inFlight: "again" })
      embedder.guest.disk.function.restoreState(JSON.parse(text))
      embedder.device.resume()
    }, false),
  ]
}
