/** Draws what happens in a step of the regions fuzzer: some requests and a kick, and what somebody does to the device meanwhile. */
import { BackingError } from "../../../src/backing/backing.ts"
import type { Rng } from "../../support/rng.ts"
import { type Life, SECTORS } from "./life.ts"
import { RequestDrawing } from "./requests.ts"
import type { Moment, Step } from "./side.ts"
import { Injected } from "./ways.ts"

export interface NamedStep {
  readonly name: string
  readonly act: Step
}

/** All that happens in a step. */
export interface WholeStep extends NamedStep {
  /** Somebody does something to the device in it, or its disk fails. */
  readonly isDisturbed: boolean
}

type Hook = readonly [name: string, act: Step]

/** Buffers of RAM are not replaced while somebody works in them, or looks for them. */
const MAY_REPLACE: readonly Moment[] = ["at the end of a call", "in an interrupt"]

export class StepDrawing {
  readonly #rng: Rng
  readonly #life: Life
  readonly #requests: RequestDrawing

  constructor(rng: Rng, life: Life) {
    this.#rng = rng
    this.#life = life
    this.#requests = new RequestDrawing(rng, life)
  }

  /** `looks`: somebody does something in a look for RAM, of which the ways take different numbers. RAM is replaced for that mostly. */
  draw({ looks }: { readonly looks: boolean }): WholeStep {
    const rng = this.#rng
    this.#requests.begin()
    const queue = rng.below(3)
    const requests = Array.from({ length: rng.pick([1, 1, 1, 1, 1, 1, 2, 3]) }, () => this.#requests.draw(queue))
    const hooks = [...this.#moments(looks, queue), ...(rng.chance(0.1) ? [this.#hook("before", queue)] : [])]
    const disturbing = [...(rng.chance(0.08) ? [this.#failure()] : []), ...hooks]
    const before = [this.#events(), ...disturbing]
    return {
      isDisturbed: disturbing.length > 0,
      name: [...before, ...requests].map(({ name }) => name).filter((name) => name !== "").join(", ") + `, kick ${queue}`,
      act: (side) => {
        for (const { act } of before) act(side)
        for (const request of requests) side.publish(request)
        side.kick(queue)
      },
    }
  }

  /** Which interrupts the driver asks for: mostly for all, or for the same as before. */
  #events(): NamedStep {
    const rng = this.#rng
    const { hasEventIdx } = this.#life
    const how = rng.chance(0.9) ? "each" : { flags: rng.below(4), event: rng.u32() & 0xffff }
    if (how === "each" && rng.chance(0.3)) return { name: "", act: () => undefined }
    return {
      name: how === "each" ? "" : `events ${how.flags} ${how.event}`,
      act: ({ queues }) => queues.forEach((queue) => queue.want(how, hasEventIdx)),
    }
  }

  #moments(looks: boolean, queue: number): NamedStep[] {
    const rng = this.#rng
    const { hasObserver, hasWritten } = this.#life
    const told: readonly Moment[] = [
      ...(hasObserver ? (["told of a request"] as const) : []),
      ...(hasWritten ? (["told of a store"] as const) : [])
    ]
    const moments: readonly Moment[] = ["in a call", "at the end of a call", "in an interrupt", ...told]
    const hooks = moments.filter(() => rng.chance(0.08)).map((moment) => this.#hook(moment, queue))
    const replacing = rng.chance(looks ? 0.7 : 0.1) ? [this.#timed(rng.pick(MAY_REPLACE), RAM_REPLACED)] : []
    if (looks) return [...hooks, ...replacing, this.#look("in a look for RAM", queue)]
    return [...hooks, ...replacing.flatMap((one) => [one, this.#look("in a look for a ring", queue)])]
  }

  #timed(moment: Moment, [name, act]: Hook): NamedStep {
    return { name: `${name} ${moment}`, act: (side) => void side.moments.set(moment, act) }
  }

  /** What somebody does in a look, which may find nothing. Mostly he ends the requests, or lets them wait. */
  #look(moment: "in a look for RAM" | "in a look for a ring", queue: number): NamedStep {
    const all = this.#hooks(queue)
    const [name, act] = this.#rng.pick(this.#rng.chance(0.4) ? all : all.filter(([each]) => ENDS.includes(each)))
    if (this.#rng.chance(0.7)) return this.#timed(moment, [name, act])
    return this.#timed(moment, [`nothing found, ${name}`, (side) => side.findNothing(act)])
  }

  #failure(): NamedStep {
    const kind = this.#rng.pick(["io", "no-space", "bug"] as const)
    const error = kind === "bug" ? new Injected("of the disk") : new BackingError(kind, "it fails")
    return { name: `failure by ${kind}`, act: (side) => void (side.failure = error) }
  }

  /** What somebody does to the device at that moment. */
  #hook(moment: Moment | "before", queue: number): NamedStep {
    const all = this.#hooks(this.#rng.chance(0.7) ? queue : this.#rng.below(3))
    const hook = this.#rng.pick(moment === "before" || MAY_REPLACE.includes(moment) ? [...all, RAM_REPLACED] : all)
    return moment === "before" ? { name: `${hook[0]} before`, act: hook[1] } : this.#timed(moment, hook)
  }

  #hooks(queue: number): readonly Hook[] {
    const rng = this.#rng
    const request = this.#requests.draw(queue)
    const flag = rng.chance(0.5)
    // One that is far away, one that holds all but a few requests until the step is over, and none.
    const limit = rng.pick([1e9, 2, 0])
    const sectors = rng.pick([SECTORS, SECTORS - 8, 100])
    return [
      ["request and kick", (side) => { side.publish(request); side.kick(queue) }],
      ["request", (side) => side.publish(request)],
      ["size", (side) => { side.sectors = sectors; side.guest.disk.capacityChanged() }],
      ["another disk", (side) => side.anotherDisk({ atOnce: flag })],
      ["save", (side) => side.save()],
      ["restore", (side) => side.restore()],
      ["queue reset", (side) => side.resetQueue(queue)],
      ["reset", (side) => side.reset()],
      ["restart", (side) => side.restart()],
      ["read-only", ({ guest }) => void guest.disk.setReadOnly(flag).catch(() => undefined)],
      ["cache mode", ({ guest }) => guest.disk.virtio.writeConfig(0x20, 1, flag ? 1 : 0)],
      ["throttle", ({ guest }) => guest.disk.setThrottle(limit === 0 ? undefined : { requests: limit })],
      ...STEADY,
    ]
  }
}

/** Hooks that end the requests, or let them wait. */
const ENDS: readonly string[] = ["queue reset", "reset", "restart", "restore", "bus mastering off"]

const RAM_REPLACED: Hook = ["other RAM", (side) => side.replaceRam()]

const STEADY: readonly Hook[] = [
  ["pause", (side) => side.pause()],
  ["pause and resume", (side) => { side.pause(); side.resume() }],
  ["bus mastering off", (side) => side.setBusMaster(false)],
  ["bus mastering off and on", (side) => { side.setBusMaster(false); side.setBusMaster(true) }],
  ["an exception", () => { throw new Injected("of the embedder") }],
]
