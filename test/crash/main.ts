/** Crash replay for as long as one likes: `tsx test/crash/main.ts --seconds 600 [--seed N] [--only SHAPE]`. Ends with one line; exits with 1 at the first failure. */
import { parseArgs } from "node:util"
import { Rng } from "../support/rng.ts"
import { crashRound } from "./replay.ts"
import { crashShapes, roundFor } from "./shapes.ts"

const { values } = parseArgs({ options: { seconds: { type: "string", default: "60" }, seed: { type: "string" }, only: { type: "string", default: "" } } })
const first = values.seed === undefined ? Date.now() % 2 ** 32 : Number(values.seed)
const end = Date.now() + Number(values.seconds) * 1000
const shapes = crashShapes.filter((shape) => shape.name.includes(values.only))
console.log(`crash replay: seed ${first}, ${shapes.length} shapes, ${values.seconds} seconds`)

let points = 0
let rounds = 0
let seed = first
for (; Date.now() < end; seed++) {
  const rng = new Rng(seed)
  const shape = rng.pick(shapes)
  try {
    points += crashRound({ ...roundFor(shape, rng), operations: rng.between(5, 80), share: shape.share })
    rounds++
  } catch (error) {
    console.error(`crash replay failed: --seed ${seed} --only "${shape.name}": ${error instanceof Error ? error.stack : String(error)}`)
    process.exit(1)
  }
}
console.log(`crash replay: ${points} crash points in ${rounds} rounds, seeds ${first} to ${seed - 1}: no corruption, nothing lost`)
