/**
 * Random work on files that answer late for as long as one likes: `tsx test/fuzz/late.ts --seconds 600 [--seed N] [--only SHAPE]`. Rounds
 * on a bare file, on its stream, on images of every shape, and power cuts take turns. Ends with one line; exits with 1 at the first
 * failure.
 */
import { inspect, parseArgs } from "node:util"
import { lateCrashRound } from "../crash/late-replay.ts"
import { lateWholeCrashRound } from "../crash/whole/late-replay.ts"
import { crashShapes, roundFor } from "../crash/shapes.ts"
import { wholeRoundFor } from "../crash/whole/replay.ts"
import { Rng } from "../support/rng.ts"
import { qcow2Shapes } from "../support/shapes.ts"
import { lateDiskRound } from "./late-disk-round.ts"
import { lateFileRound } from "./late-file-round.ts"
import { lateFlowRound } from "./late-flow-round.ts"
import { lateShapes } from "./late-shapes.ts"

const { values } = parseArgs({
  options: { seconds: { type: "string", default: "60" }, seed: { type: "string" }, only: { type: "string", default: "" } },
})
const first = values.seed === undefined ? Date.now() % 2 ** 32 : Number(values.seed)
const end = Date.now() + Number(values.seconds) * 1000
console.log(`late files: seed ${first}, ${values.seconds} seconds`)

const shapes = lateShapes.filter(({ name }) => name.includes(values.only))
const wholeShapes = qcow2Shapes.filter(({ name, options }) => name.includes(values.only) && (options.clusterSize ?? 0) <= 65536)
const crashes = crashShapes.filter(({ name }) => name.includes(values.only))
let [reads, pieces, points] = [0, 0, 0]
let seed = first

async function round(rng: Rng): Promise<void> {
  const kind = rng.below(5)
  const whole = wholeShapes.length === 0 || kind < 4 ? undefined : rng.pick(wholeShapes)
  if (whole !== undefined) {
    points += await lateWholeCrashRound({ ...wholeRoundFor(whole, rng), operations: rng.between(5, 25), share: 0.15 })
  } else if (kind === 0) reads += (await lateFileRound(rng)).reads
  else if (kind === 3) pieces += await lateFlowRound(rng)
  else if (kind === 1 || crashes.length === 0) reads += await lateDiskRound(rng.pick(shapes), rng, rng.between(3, 30))
  else {
    const shape = rng.pick(crashes)
    points += await lateCrashRound({ ...roundFor(shape, rng), operations: rng.between(5, 30), share: shape.share })
  }
}

async function main(): Promise<void> {
  for (; Date.now() < end; seed++) await round(new Rng(seed))
  const done = `${reads} reads, ${pieces} pieces of streams, ${points} crash points`
  console.log(`late files: seeds ${first} to ${seed - 1}, ${done}: nothing wrong, nothing lost`)
}

process.on("unhandledRejection", failed)
main().catch(failed)

function failed(error: unknown): void {
  console.error(`late files failed: --seed ${seed} --only "${values.only}": ${inspect(error)}`)
  process.exit(1)
}
