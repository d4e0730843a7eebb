/**
 * WatchedFuzzer: three worlds of disks with throttles and timed requests do the same: one with short kicks, one with batches of rows, and
 * one in which every request is served in the general way. After each step RAM, disks, calls, interrupts, statistics, levels of throttles
 * and latencies must be the same.
 */
import { Throttle, type ThrottleLimits } from "../../../src/index.ts"
import { settled } from "../../harness/fake-disk.ts"
import type { Request } from "../../harness/requests.ts"
import { T } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { SHAPES } from "./kick-shapes.ts"
import { type Act, QUEUES, SECTORS, WatchedWorld, type WorldPlan } from "./watched-world.ts"

const DISKS = 2
/** Requests of one buffer, and of two. */
const USUAL = SHAPES.slice(0, 2)
const NAMES = ["requests", "bytes", "readRequests", "readBytes", "writeRequests", "writeBytes"] as const

/** What is done in every world, and its name. */
type Step = readonly [name: string, act: Act]

export class WatchedFuzzer {
  /** The world that acts. */
  current: WatchedWorld | undefined
  /** Steps after which a request waited. */
  waits = 0
  readonly #rng: Rng
  readonly #isPacked: boolean

  constructor(rng: Rng, { packed }: { readonly packed: boolean }) {
    this.#rng = rng
    this.#isPacked = packed
  }

  /** The worlds from beginning to end. @throws Error where they differ */
  async round(): Promise<void> {
    const rng = this.#rng
    const plan: WorldPlan = {
      seed: rng.u32(), packed: this.#isPacked, eventIdx: rng.chance(0.5), limits: this.#limits(),
      disks: Array.from({ length: DISKS }, () => ({
        latency: rng.pick(["off", "sampled", "sampled", "all"]), isDirect: rng.chance(0.7),
      })),
    }
    const worlds = [new WatchedWorld(plan, "short"), new WatchedWorld(plan, "rows"), new WatchedWorld(plan, "general")] as const
    const names: string[] = []
    for (let count = 60; count > 0; count--) {
      const [name, act] = this.#step()
      names.push(name)
      await this.#do(worlds, act)
      compare(names, worlds)
      await this.#do(worlds, (world) => world.tidy())
      if (worlds[0].group.waiting > 0) this.waits++
    }
    await this.#do(worlds, (world) => world.noteLevels())
    compare([...names, "the end"], worlds)
  }

  async #do(worlds: readonly WatchedWorld[], act: Act): Promise<void> {
    for (const world of worlds) {
      this.current = world
      act(world)
      await settled()
    }
  }

  #step(): Step {
    const rng = this.#rng
    const kick = this.#kick()
    if (rng.chance(0.3)) return ["kick", kick]
    const kicks = Array.from({ length: rng.between(2, 12) }, () => this.#kick())
    const others = this.#others()
    const [name, other] = rng.pick(others)
    return rng.pick<Step>([
      ["kicks", (world) => { for (const each of kicks) each(world) }],
      ["kicks", (world) => { for (const each of kicks) each(world) }],
      ["batch", this.#kick(rng.between(2, 3))],
      [`${name} in a call`, (world) => { world.onCall = other; kick(world) }],
      ["failure", (world) => { world.fails = true; kick(world) }],
      rng.pick(others),
    ])
  }

  /** What may happen at any time. */
  #others(): readonly Step[] {
    const rng = this.#rng
    const [kick, disk, limits] = [this.#kick(), rng.below(DISKS), this.#limits()]
    // A clock may also be set back.
    const ms = rng.chance(0.1) ? -rng.below(100) : rng.pick([0.1, 1, 5, 20, 200, 2000])
    return [
      ["kick", kick],
      ["levels", (world) => world.noteLevels()],
      ["limits", (world) => world.group.setLimits(limits)],
      ["own throttle", (world) => world.disk(disk).guest.disk.device.setThrottle(new Throttle(limits, { clock: world.clock }))],
      ["no throttle", (world) => world.disk(disk).guest.disk.device.setThrottle(undefined)],
      ["group", (world) => world.disk(disk).guest.disk.device.setThrottle(world.group)],
      ["time", (world) => { world.clock.time += ms }],
      ["alarms", (world) => world.clock.runTo(world.clock.time + Math.abs(ms))],
      ["pause", (world) => void world.disk(disk).guest.disk.device.pause()],
      ["reset", (world) => { world.disk(disk).guest.status = 0 }],
    ]
  }

  /** A kick of some queue, with `count` requests. */
  #kick(count = 1): Act {
    const rng = this.#rng
    const [disk, queue, indirect] = [rng.below(DISKS), rng.below(QUEUES), rng.chance(0.5)]
    const requests = Array.from({ length: count }, () => [this.#request(), rng.pick(USUAL)] as const)
    return (world) => {
      for (const [request, shape] of requests) world.disk(disk).send(queue, request, shape, indirect)
      world.disk(disk).kick(queue)
    }
  }

  #request(): Request {
    const rng = this.#rng
    const sector = rng.below(SECTORS - 1)
    const bytes = rng.pick([512, 512, 1024])
    if (rng.chance(0.03)) return { type: T.FLUSH }
    return rng.chance(0.5) ? { type: T.IN, sector, in: bytes } : { type: T.OUT, sector, out: rng.bytes(bytes) }
  }

  /** Limits that are far, near, or both. */
  #limits(): ThrottleLimits {
    const rng = this.#rng
    const most = rng.pick([2, 4, 4, 6])
    const names = NAMES.filter(() => rng.chance(0.4))
    return Object.fromEntries(names.map((name) => {
      const perSecond = Math.floor(10 ** (1.5 + (rng.below(1000) / 1000) * (most - 1))) * (name.toLowerCase().endsWith("bytes") ? 512 : 1)
      return [name, rng.chance(0.7) ? perSecond : { perSecond, burst: 3 * perSecond, burstSeconds: rng.pick([0.1, 1]) }]
    }))
  }
}

/** @throws Error unless all worlds are in the same state */
function compare(names: readonly string[], [short, rows, general]: readonly [WatchedWorld, WatchedWorld, WatchedWorld]): void {
  compareTwo(names, short, general)
  compareTwo(names, rows, general)
}

function compareTwo(names: readonly string[], fast: WatchedWorld, general: WatchedWorld): void {
  const different = fast.bytes.findIndex((bytes, at) => Buffer.compare(bytes, general.bytes[at] ?? new Uint8Array(0)) !== 0)
  const [one, other] = [fast.rest, general.rest]
  if (different < 0 && one === other) return
  const from = Math.max([...one].findIndex((char, index) => char !== other[index]) - 100, 0)
  const [rest, otherRest] = [one, other].map((each) => each.slice(from, from + 200))
  throw new Error(`${names.join(", ")}: bytes ${different}; ${fast.way} ...${rest}... and ...${otherRest}...`)
}
