/**
 * RegionsFuzzer: three guests do the same, with RAM in several regions, several queues and chains of any shape: one whose kicks take the
 * short way where they can, one whose kicks all take the long way, and one whose requests are never rows. After each step RAM, disk, calls,
 * interrupts, counts and times must be the same; nothing that was kicked for may be lost, nothing come back unasked or silently, and
 * nothing be stored after a reset. Disks, interrupts and the memory call back into the device now and then.
 */
import type { Rng } from "../../support/rng.ts"
import { drawLife } from "./life.ts"
import { Side } from "./side.ts"
import { StepDrawing } from "./steps.ts"
import { WAYS } from "./ways.ts"

const STEPS = 40
/** The last steps, in which somebody acts in any look for RAM: the guests may differ then. */
const LOOKS = 3
/** Milliseconds that pass between two steps. */
const PAUSES = [0, 0.1, 3, 40, 5000] as const
/** Characters of an error that tell what a side did. */
const TOLD = 3000

export class RegionsFuzzer {
  /** Steps, and those that broke the device. */
  readonly counts = { steps: 0, broken: 0 }
  readonly #rng: Rng

  constructor(rng: Rng) {
    this.#rng = rng
  }

  /** One life of the guests. @throws Error where they differ, or one of them is wrong */
  async round(): Promise<void> {
    const rng = this.#rng
    const life = drawLife(rng)
    const sides = WAYS.map((way) => new Side(way, life))
    const steps = new StepDrawing(rng, life)
    const names: string[] = []
    try {
      for (let left = STEPS; left > 0; left--) {
        const looks = left <= LOOKS
        const { name, act, isDisturbed } = steps.draw({ looks })
        const pause = rng.pick(PAUSES)
        names.push(`${pause} ms, ${name}`)
        this.counts.steps++
        for (const side of sides) {
          side.now += pause
          await side.act(act)
        }
        for (const side of sides) {
          if (isDisturbed) await side.goOn()
          await side.collect()
        }
        // A way that has nothing more to do need not look for its ring: then the guests differ, and this is the end.
        if (!looks && new Set(sides.map((side) => side.looks)).size > 1) return
        // The same if the ways serve several queues in different orders, which is allowed, and both queues write to one sector.
        if (!looks && sides.every(({ served }) => served > 1) && isReordered(sides)) return
        if (!looks) compare(sides)
        if (sides[0]?.guest.disk.brokenBy !== undefined) this.counts.broken++
        for (const side of sides) side.endStep()
      }
    } catch (error) {
      const told = error instanceof Error ? error.message : String(error)
      throw new Error(`${told}\n${names.slice(-3).join(" | ")}; ${JSON.stringify(life)}`, { cause: error })
    }
  }
}

/** Whether the sides have done the same, in different orders. */
function isReordered(sides: readonly Side[]): boolean {
  const orders = new Set(sides.map(({ log }) => log.join()))
  return orders.size > 1 && new Set(sides.map(({ log }) => log.toSorted().join())).size === 1
}

/** @throws Error unless all sides are in the same state */
function compare([one, ...others]: readonly Side[]): void {
  if (one === undefined) return
  const [ram, rest] = [one.ram(), one.rest()]
  for (const [at, other] of others.entries()) {
    const otherRam = other.ram()
    const part = ram.findIndex((bytes, index) => Buffer.compare(bytes, otherRam[index] ?? bytes) !== 0)
    const isSameDisk = Buffer.compare(one.content, other.content) === 0
    if (part < 0 && isSameDisk && rest === other.rest()) continue
    const byte = ram[part]?.findIndex((value, index) => value !== otherRam[part]?.[index]) ?? -1
    const text = `${WAYS[0]} and ${WAYS[at + 1]} differ: part ${part} of RAM at ${byte}, ${isSameDisk ? "the same" : "another"} disk`
    throw new Error([text, rest.slice(0, TOLD), other.rest().slice(0, TOLD)].join("\n"))
  }
}
