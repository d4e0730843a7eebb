/** One round: an image of any kind, with guest and host at work on it, long work now and then, reopenings, and a look at the end. */
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { Rng } from "../../support/rng.ts"
import { doLater, guestAction } from "./actions.ts"
import { drawWorld, isLong } from "./draw-world.ts"
import { Expected } from "./expected.ts"
import { hostAction, sweep } from "./host-actions.ts"
import { failLate } from "./late-failures.ts"
import { commit, rebase, stream } from "./long-work.ts"
import { mirror } from "./machine.ts"
import { amend, changeKeySlots, lookByQemu } from "./offline.ts"
import { Run } from "./run.ts"
import { contentOf } from "./world.ts"

export interface RoundOptions {
  readonly seed: number
  /** "clean": no call fails. "faults": some do. Default: drawn. */
  readonly mode?: "clean" | "faults" | undefined
  /** Share of the rounds that end with a look by QEMU. */
  readonly qemu: number
  /** What the guest gets in place of the disk: to see that a lie is found. */
  readonly guest?: (disk: VirtioBacking) => VirtioBacking
}

/** What a round has done. */
export interface RoundCounts {
  readonly steps: number
  /** Errors that were injected, and came out. */
  readonly faults: number
}

const LONG_WORK = { stream, rebase, commit, mirror, amend, changeKeySlots, sweep, failLate } as const

/**
 * Milliseconds that pass at each look at the clock: what gives up the thread after some of them does so at the same steps each time. By the
 * last of them long work gives it up after each piece.
 */
const TICKS = [0.05, 1, 5]

/** Calls `work` while the clock shows nothing but how often it was looked at. */
async function byOwnClock<T>(tick: number, work: () => Promise<T>): Promise<T> {
  const { now } = performance
  let time = 0
  performance.now = () => (time += tick)
  try {
    return await work()
  } finally {
    performance.now = now
  }
}

/** @throws Error that names the seed, and tells what was done last */
export async function workRound({ seed, mode, qemu, guest }: RoundOptions): Promise<RoundCounts> {
  const rng = new Rng(seed)
  const hasFaults = rng.chance(0.5)
  const run = new Run(rng, { hasFaults: mode === undefined ? hasFaults : mode === "faults", guest })
  try {
    await byOwnClock(rng.pick(TICKS), () => work(run, { isSeenByQemu: rng.chance(qemu) }))
    return { steps: run.history.length, faults: run.faults }
  } catch (error) {
    const told = error instanceof Error ? error.message : String(error)
    throw new Error(`seed ${seed}: ${told}\nthe last steps were:\n${run.history.slice(-25).join("\n")}`, { cause: error })
  }
}

async function work(run: Run, { isSeenByQemu }: { readonly isSeenByQemu: boolean }): Promise<void> {
  const { rng, world } = run
  drawWorld(rng, world)
  if (!isSeenByQemu && rng.chance(0.15)) run.addTrailer()
  await run.open()
  run.expected = new Expected(FlatModel.of(await contentOf(run.opened.disk)))
  for (let turn = rng.between(2, 8); turn > 0; turn--) {
    for (let steps = rng.between(0, 15); steps > 0; steps--) await doLater(rng.chance(0.75) ? guestAction(run) : hostAction(run))
    if (rng.chance(0.5)) await run.check("now and then")
    await turnOf(run)
  }
  await run.check("at the end")
  await run.close()
  if (isSeenByQemu) lookByQemu(run)
  await run.open({ now: true })
  await run.check("opened at the end")
  await run.close()
}

/** What moves content along the chain; onto a layer further behind where there is one. */
function onChainOf({ chain }: Run): readonly ("stream" | "commit" | "rebase")[] {
  if (chain.length > 2) return ["stream", "stream", "commit", "rebase", "rebase", "rebase", "rebase"]
  return chain.length > 1 ? ["stream", "stream", "stream", "commit", "rebase"] : ["rebase", "rebase"]
}

/** What changes more than a step does. */
async function turnOf(run: Run): Promise<void> {
  const { rng } = run
  if (isLong(run.expected.disk.size) && rng.chance(0.5)) return await mirror(run)
  const kind = rng.pick([...onChainOf(run), "mirror", "amend", "changeKeySlots", "sweep", "sweep", "failLate", "reopen", "reopen"] as const)
  if (kind !== "reopen") return await LONG_WORK[kind](run)
  run.note("close")
  if (run.hasFaults && rng.chance(0.4)) {
    await run.closeBadly()
    await run.open()
    await run.dropBitmaps()
  } else {
    await run.close()
    await run.open()
  }
  await run.check("opened again")
}
