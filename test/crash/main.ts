/**
 * The long crash tests: `tsx test/crash/main.ts --seconds 600 [--seed N] [--only SHAPE]` replays power cuts at every write of recorded
 * images; with `--kill` it kills real processes instead. Ends with one line; exits with 1 at the first failure and says how to see it
 * again.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { parseArgs } from "node:util"
import { createImage } from "../../src/backing/create.ts"
import { FlatModel } from "../support/flat-model.ts"
import type { MemoryFile } from "../support/memory-file.ts"
import { Rng } from "../support/rng.ts"
import { qcow2Shapes } from "../support/shapes.ts"
import { KILL_CLUSTER_SIZE, killRound } from "./kill.ts"
import { crashRound } from "./replay.ts"
import { crashShapes, roundFor } from "./shapes.ts"
import { wholeCrashRound, wholeRoundFor } from "./whole-replay.ts"

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
  console.log(values.kill ? await killAll() : replayAll())
} catch (error) {
  const repeat = `--seed ${seed}${values.kill ? " --kill" : ""} --only "${values.only}"`
  console.error(`crash test failed: ${repeat}: ${error instanceof Error ? error.stack : String(error)}`)
  process.exitCode = 1
}

function replayAll(): string {
  const shapes = crashShapes.filter((shape) => shape.name.includes(values.only))
  const wholeShapes = qcow2Shapes.filter(({ name }) => name.includes(values.only))
  console.log(`crash replay: seed ${first}, ${shapes.length} shapes, ${values.seconds} seconds`)
  let points = 0
  for (; Date.now() < end; seed++) {
    const rng = new Rng(seed)
    if (wholeShapes.length > 0 && rng.chance(0.4)) {
      const round = wholeRoundFor(rng.pick(wholeShapes), rng)
      points += wholeCrashRound({ ...round, operations: rng.between(5, 40), share: 0.2 })
      continue
    }
    const shape = rng.pick(shapes)
    let crashed: MemoryFile | undefined
    // One crash after another: the second round starts from what some crash of the first has left, leaks and all.
    for (let crash = rng.pick([1, 1, 1, 3]); crash > 0; crash--) {
      const round = roundFor(crashed === undefined ? shape : { ...shape, base: crashed }, rng)
      points += crashRound({ ...round, operations: rng.between(5, 80), share: shape.share, sample: (file) => (crashed = file.clone()) })
    }
  }
  return `crash replay: ${points} crash points, seeds ${first} to ${seed - 1}: no corruption, nothing lost`
}

async function killAll(): Promise<string> {
  console.log(`crash by SIGKILL: seed ${first}, ${values.seconds} seconds`)
  const directory = mkdtempSync(join(tmpdir(), "vioblk-kill-"))
  try {
    const path = join(directory, "killed.qcow2")
    createImage(path, { size: 1 << 20, clusterSize: KILL_CLUSTER_SIZE })
    let model = new FlatModel(1 << 20)
    let operations = 0
    for (; Date.now() < end; seed++) {
      const left = await killRound(path, model, { seed, after: new Rng(seed).between(1, 2000) })
      operations += left.progress.done
      model = left.model
    }
    return `crash by SIGKILL: ${seed - first} processes killed after ${operations} operations on one image: no corruption, nothing lost`
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
