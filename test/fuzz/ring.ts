/**
 * The ring fuzzer, over split and packed rings, the lives fuzzer and the fuzzer of MMIO's registers, for as long as one likes: `tsx
 * test/fuzz/ring.ts [--rounds N] [--lives N] [--registers N] [--seed N]`. Ends with 1, and the seed, at the first surprise. It prints the
 * longest time that a kick or an answer of the disk held the thread (CPU time).
 */
import { argv, exit } from "node:process"
import { parseArgs } from "node:util"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Rng } from "../support/rng.ts"
import { LivesFuzzer } from "./lives/lives.ts"
import { MmioRegisterFuzzer } from "./mmio/registers.ts"
import { PackedRingFuzzer } from "./packed/round.ts"
import { RingFuzzer } from "./ring-round.ts"

/** The heap may have grown by so many bytes at the end: code that was compiled meanwhile, and no more. */
const HEAP_GROWTH_MAX = 32 << 20

const { values } = parseArgs({
  args: argv.slice(2),
  options: {
    rounds: { type: "string", default: "100000" },
    lives: { type: "string", default: "2000" },
    registers: { type: "string", default: "200" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
  },
})
const rounds = Number(values.rounds)
const lives = Number(values.lives)
const registers = Number(values.registers)
const seed = Number(values.seed)
const counts = new Map<string, number>()

function add(more: ReadonlyMap<string, number>): void {
  for (const [name, count] of more) counts.set(name, (counts.get(name) ?? 0) + count)
}

function fail(what: string, error: unknown): never {
  console.error(`${what} of seed ${seed}: ${error instanceof Error ? error.message : String(error)}`)
  exit(1)
}

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

console.log(`ring fuzzer: ${rounds} rounds, ${lives} lives, ${registers} devices over MMIO, seed ${seed}`)
const fuzzer = new RingFuzzer(new Rng(seed))
const packed = new PackedRingFuzzer(new Rng(seed))
for (let round = 0; round < rounds; round++) {
  try {
    fuzzer.round()
    packed.round()
  } catch (error) {
    fail(`round ${round}`, error)
  }
}
add(fuzzer.counts)
add(packed.counts)

for (let device = 0; device < registers; device++) {
  const one = new MmioRegisterFuzzer(new Rng(seed + device), (seed + device) % 2 === 0 ? 2 : 1)
  try {
    await one.run(1000)
  } catch (error) {
    fail(`device ${device} over MMIO (--rounds 0 --lives 0 --registers 1 --seed ${seed + device})`, error)
  }
  add(one.counts)
}

let longest = fuzzer.longestHold
let heap = 0
for (let life = 0; life < lives; life++) {
  const one = new LivesFuzzer(new Rng(seed + life))
  try {
    await one.run()
  } catch (error) {
    fail(`life ${life} (--rounds 0 --lives 1 --seed ${seed + life})`, error)
  }
  add(one.counts)
  // The first lives include the compiler's work.
  if (life >= 20) longest = Math.max(longest, one.longestHold)
  if (life !== 20 && life !== lives - 1) continue
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  if (life === 20) {
    heap = heapUsed + arrayBuffers
  } else if (life > 20 && heapUsed + arrayBuffers > heap + HEAP_GROWTH_MAX) {
    fail(`life ${life}`, `the heap has grown from ${heap} to ${heapUsed + arrayBuffers} bytes`)
  }
}
for (const [name, count] of [...counts].toSorted()) console.log(`${String(count).padStart(9)}  ${name}`)
console.log(`the thread was held for at most ${longest.toFixed(1)} ms (CPU time)`)
