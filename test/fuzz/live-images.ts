/**
 * Random work on images for as long as one likes: guests write, and meanwhile the host takes snapshots, changes sizes, streams, mirrors,
 * commits, rebases, amends: `tsx test/fuzz/live-images.ts [--seconds 60 | --hours 8] [--seed N] [--rounds N] [--mode clean|faults] [--qemu
 * SHARE]`. Ends with one line; at the first failure with 1, and the seed, which shows it again with `--rounds 1`.
 */
import { inspect, parseArgs } from "node:util"
import { workRound } from "./live-images/round.ts"

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    hours: { type: "string", default: "0" },
    rounds: { type: "string", default: "Infinity" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    mode: { type: "string" },
    qemu: { type: "string", default: "0.1" },
  },
})
const first = Number(values.seed)
const milliseconds = Number(values.hours) > 0 ? Number(values.hours) * 3_600_000 : Number(values.seconds) * 1000
const end = performance.now() + milliseconds
const mode = values.mode === "clean" || values.mode === "faults" ? values.mode : undefined
console.log(`work on images: seed ${first}, ${milliseconds / 1000} seconds`)

let [steps, faults, seed] = [0, 0, first]
let slowest = { milliseconds: 0, seed }
let isDone = false
process.on("unhandledRejection", failed)
// Node ends when nothing is left to wait for, whoever still does.
process.on("exit", () => void (isDone || failed(new Error("a call is never answered"))))
for (; performance.now() < end && seed < first + Number(values.rounds); seed++) {
  const start = performance.now()
  try {
    const done = await workRound({ seed, mode, qemu: Number(values.qemu) })
    steps += done.steps
    faults += done.faults
    const milliseconds = performance.now() - start
    if (milliseconds > slowest.milliseconds) slowest = { milliseconds, seed }
  } catch (error) {
    failed(error)
  }
}
isDone = true
const worst = `slowest ${slowest.milliseconds.toFixed(0)} ms (seed ${slowest.seed})`
console.log(
  `work on images: seeds ${first} to ${seed - 1}, ${steps} steps, ${faults} injected errors, ${worst}: nothing wrong, nothing lost`,
)

function failed(error: unknown): never {
  isDone = true
  console.error(`work on images failed: --seed ${seed} --rounds 1: ${inspect(error)}`)
  process.exit(1)
}
