/**
 * The long crash tests: `tsx test/crash/main.ts --seconds 600 [--seed N] [--only SHAPE]` replays power cuts at every write of recorded
 * images; with `--kill` it kills real processes instead. Ends with one line; exits with 1 at the first failure and says how to see it
 * again.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inspect, parseArgs } from "node:util"
import type { MemoryFile } from "../support/memory-file.ts"
import { Rng } from "../support/rng.ts"
import { qcow2Shapes } from "../support/shapes.ts"
import { bitmapCrashRound } from "./bitmap-replay.ts"
import { keySlotCrashRound } from "./key-slots.ts"
import { killRound, makeKillImage } from "./kill.ts"
import { commitCrashRound, rebaseCrashRound, streamCrashRound } from "./layers.ts"
import { crashRound } from "./replay.ts"
import { type CrashShape, crashShapes, roundFor } from "./shapes.ts"
import { wholeCrashRound, wholeRoundFor } from "./whole/replay.ts"

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string" },
    only: { type: "string", default: "" },
    kill: { type: "boolean", default: false },
  },
})
const first = values.seed === undefined ? Date.now() % 2 ** 32 : Number(values.seed)
const end = Date.now() + Number(values.seconds) * 1000
let seed = first
try {
  console.log(values.kill ? await killAll() : await replayAll())
} catch (error) {
  const repeat = `--seed ${seed}${values.kill ? " --kill" : ""} --only "${values.only}"`
  console.error(`crash test failed: ${repeat}: ${inspect(error)}`)
  process.exitCode = 1
}

async function replayAll(): Promise<string> {
  const named = <T extends { readonly name: string }>(shapes: readonly T[]): T[] => shapes.filter(({ name }) => name.includes(values.only))
  const [shapes, wholeShapes] = [named(crashShapes), named(qcow2Shapes.filter(({ options }) => (options.clusterSize ?? 0) <= 65536))]
  console.log(`crash replay: seed ${first}, ${shapes.length} shapes, ${values.seconds} seconds`)
  let points = 0
  for (; Date.now() < end; seed++) {
    const rng = new Rng(seed)
    const kind = rng.below(10)
    const whole = wholeShapes.length === 0 ? undefined : rng.pick(wholeShapes)
    if (kind < 3 && whole !== undefined) {
      points += wholeCrashRound({ ...wholeRoundFor(whole, rng), operations: rng.between(5, 40), share: 0.2 })
    } else if (kind === 3 && whole !== undefined && whole.options.compat !== "0.10") points += bitmapCrashRound(whole, rng, 0.2)
    else if (kind === 4) points += await rng.pick([commitCrashRound, rebaseCrashRound, streamCrashRound])(rng)
    else if (kind === 5 && rng.chance(0.5)) points += keySlotCrashRound(rng, { changes: rng.between(1, 4), share: 0.2 })
    else if (shapes.length > 0) points += replayShape(rng.pick(shapes), rng)
  }
  return `crash replay: ${points} crash points, seeds ${first} to ${seed - 1}: no corruption, nothing lost`
}

/** One crash after another: the second round starts from what some crash of the first has left, leaks and all. */
function replayShape(shape: CrashShape, rng: Rng): number {
  let points = 0
  let crashed: MemoryFile | undefined
  for (let crash = rng.pick([1, 1, 1, 3]); crash > 0; crash--) {
    const round = roundFor(crashed === undefined ? shape : { ...shape, base: crashed }, rng)
    points += crashRound({ ...round, operations: rng.between(5, 80), share: shape.share, sample: (file) => (crashed = file.clone()) })
  }
  return points
}

async function killAll(): Promise<string> {
  console.log(`crash by SIGKILL: seed ${first}, ${values.seconds} seconds`)
  const directory = mkdtempSync(join(tmpdir(), "vioblk-kill-"))
  try {
    const path = join(directory, "killed.qcow2")
    let model = makeKillImage(path)
    let operations = 0
    for (; Date.now() < end; seed++) {
      const left = await killRound(path, model, { seed, after: new Rng(seed).between(1, 2000) })
      operations += left.done
      model = left.model
    }
    return `crash by SIGKILL: ${seed - first} processes killed after ${operations} operations on one image: no corruption, nothing lost`
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
