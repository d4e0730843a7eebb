/** The ring fuzzer, for as long as one likes: `tsx test/fuzz/ring.ts [--rounds N] [--seed N]`. Ends with 1, and the seed, at the first surprise. */
import { argv, exit } from "node:process"
import { parseArgs } from "node:util"
import { Rng } from "../support/rng.ts"
import { RingFuzzer } from "./ring-round.ts"

const { values } = parseArgs({ args: argv.slice(2), options: { rounds: { type: "string", default: "100000" }, seed: { type: "string", default: String(Date.now() % 2 ** 31) } } })
const rounds = Number(values.rounds)
const seed = Number(values.seed)
console.log(`ring fuzzer: ${rounds} rounds, seed ${seed}`)
const fuzzer = new RingFuzzer(new Rng(seed))
for (let round = 0; round < rounds; round++) {
  try {
    fuzzer.round()
  } catch (error) {
    console.error(`round ${round} of seed ${seed}: ${error instanceof Error ? error.message : String(error)}`)
    exit(1)
  }
}
for (const [name, count] of [...fuzzer.counts].toSorted()) console.log(`${String(count).padStart(9)}  ${name}`)
