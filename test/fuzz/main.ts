/**
 * Fuzzing of images for as long as one likes: `tsx test/fuzz/main.ts --seconds 600 [--seed N]`. Ends with one line; exits with 1 at the
 * first failure.
 */
import { inspect, parseArgs } from "node:util"
import { Rng } from "../support/rng.ts"
import { fuzzRound } from "./hostile-images.ts"

const { values } = parseArgs({ options: { seconds: { type: "string", default: "60" }, seed: { type: "string" } } })
const first = values.seed === undefined ? Date.now() % 2 ** 32 : Number(values.seed)
const end = Date.now() + Number(values.seconds) * 1000
console.log(`image fuzzing: seed ${first}, ${values.seconds} seconds`)

const outcomes = { refused: 0, read: 0, written: 0 }
let slowest = { milliseconds: 0, seed: first }
let seed = first
for (; Date.now() < end; seed++) {
  const start = performance.now()
  try {
    outcomes[fuzzRound(new Rng(seed))]++
  } catch (error) {
    console.error(`image fuzzing failed: --seed ${seed}: ${inspect(error)}`)
    process.exit(1)
  }
  const milliseconds = performance.now() - start
  if (milliseconds > slowest.milliseconds) slowest = { milliseconds, seed }
}
const counts = `${outcomes.refused} refused, ${outcomes.read} only read, ${outcomes.written} written`
const worst = `slowest ${slowest.milliseconds.toFixed(0)} ms (seed ${slowest.seed})`
console.log(`image fuzzing: ${seed - first} images (${counts}), seeds ${first} to ${seed - 1}, ${worst}: nothing but errors or data`)
