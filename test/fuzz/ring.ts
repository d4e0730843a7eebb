/**
 * The fuzzers of the device: rings (split and packed, of plain disks and of zoned ones), registers (PCI and MMIO), saved states, lives,
 * embedders, and the ways of a kick over RAM in several regions, for as long as one likes: `tsx test/fuzz/ring.ts [--rounds N] [--lives N]
 * [--registers N] [--states N] [--embedders N] [--regions N] [--seed N] [--hours H] [--coverage]`. Ends with 1, and the seed, at the first
 * surprise. With `--hours` it starts again, from the next seed, until the time is over. It prints the longest time that a kick or an answer
 * of the disk held the thread (CPU time), and with `--coverage` what it has reached of the source.
 */
import { argv, exit } from "node:process"
import { parseArgs } from "node:util"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Rng } from "../support/rng.ts"
import { Coverage, coverageText } from "./coverage.ts"

const { values } = parseArgs({
  args: argv.slice(2),
  options: {
    rounds: { type: "string", default: "100000" },
    lives: { type: "string", default: "2000" },
    registers: { type: "string", default: "200" },
    states: { type: "string", default: "300" },
    embedders: { type: "string", default: "1000" },
    regions: { type: "string", default: "200" },
    seed: { type: "string", default: String(Date.now() % 2 ** 31) },
    hours: { type: "string", default: "0" },
    coverage: { type: "boolean", default: false },
  },
})

const coverage = values.coverage ? new Coverage() : undefined
await coverage?.start()
// After that: what is loaded before is not counted.
const { EmbedderFuzzer, isInjectedBug } = await import("./embedder/round.ts")
const { LivesFuzzer } = await import("./lives/lives.ts")
const { MmioRegisterFuzzer } = await import("./mmio/registers.ts")
const { PciRegisterFuzzer } = await import("./pci/registers.ts")
const { PackedRingFuzzer } = await import("./packed/round.ts")
const { RegionsFuzzer } = await import("./regions/round.ts")
const { RingFuzzer } = await import("./ring-round.ts")
const { StateFuzzer } = await import("./states/round.ts")
const { ZonedFuzzDisk } = await import("./zoned-fuzz-disk.ts")

/** The heap may have grown by so many bytes at the end: code that was compiled meanwhile, and no more. */
const HEAP_GROWTH_MAX = 32 << 20
/** The first lives include the compiler's work. */
const WARM_LIVES = 20
/** Accesses to the registers of one device. */
const ACCESSES = 1000

const rounds = Number(values.rounds)
const lives = Number(values.lives)
const registers = Number(values.registers)
const states = Number(values.states)
const embedders = Number(values.embedders)
const regions = Number(values.regions)
const counts = new Map<string, number>()
let longest = 0

function add(more: ReadonlyMap<string, number>): void {
  for (const [name, count] of more) counts.set(name, (counts.get(name) ?? 0) + count)
}

function fail(what: string, error: unknown): never {
  console.error(`${what}: ${error instanceof Error ? error.message : String(error)}`)
  exit(1)
}

setFlagsFromString("--expose-gc")
const collect = runInNewContext("gc") as () => void

function heapBytes(): number {
  collect()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

function ringRounds(seed: number): void {
  const fuzzers = [
    new RingFuzzer(new Rng(seed)), new PackedRingFuzzer(new Rng(seed)),
    new RingFuzzer(new Rng(seed), new ZonedFuzzDisk()), new PackedRingFuzzer(new Rng(seed), new ZonedFuzzDisk()),
  ]
  for (let round = 0; round < rounds; round++) {
    for (const fuzzer of fuzzers) {
      try {
        fuzzer.round()
      } catch (error) {
        fail(`round ${round} of seed ${seed}`, error)
      }
    }
  }
  for (const fuzzer of fuzzers) {
    add(fuzzer.counts)
    if (fuzzer instanceof RingFuzzer) longest = Math.max(longest, fuzzer.longestHold)
  }
}

async function registerRounds(seed: number): Promise<void> {
  for (let device = seed; device < seed + registers; device++) {
    const repeat = `--rounds 0 --lives 0 --states 0 --embedders 0 --regions 0 --registers 1 --seed ${device}`
    for (const one of [new MmioRegisterFuzzer(new Rng(device), device % 2 === 0 ? 2 : 1), new PciRegisterFuzzer(new Rng(device))]) {
      await one.run(ACCESSES).catch((error: unknown) => fail(`registers of a ${one.constructor.name} (${repeat})`, error))
      add(one.counts)
    }
  }
}

/** What others are repeated without. */
const NO_RINGS = "--rounds 0 --registers 0 --states 0"

/** No restored state holds the thread for longer. CPU time, milliseconds. */
const RESTORE_MS = 100

async function stateRounds(seed: number): Promise<void> {
  const one = new StateFuzzer(new Rng(seed))
  await one.prepare()
  for (let round = 0; round < states; round++) {
    const name = `state ${round} (--rounds 0 --lives 0 --registers 0 --embedders 0 --regions 0 --states ${round + 1} --seed ${seed})`
    await one.round().catch((error: unknown) => fail(name, error))
    if (round === WARM_LIVES) one.longestHold = 0
    if (one.longestHold > RESTORE_MS) fail(name, `it held the thread for ${one.longestHold.toFixed(0)} ms`)
  }
  longest = Math.max(longest, one.longestHold)
  add(one.counts)
}

async function liveRounds(seed: number): Promise<void> {
  let heap = 0
  for (let life = 0; life < lives; life++) {
    const one = new LivesFuzzer(new Rng(seed + life))
    await one.run().catch(
      (error: unknown) => fail(`life ${life} (${NO_RINGS} --embedders 0 --regions 0 --lives 1 --seed ${seed + life})`, error),
    )
    add(one.counts)
    if (life >= WARM_LIVES) longest = Math.max(longest, one.longestHold)
    if (life === WARM_LIVES) heap = heapBytes()
    const now = life > WARM_LIVES && life === lives - 1 ? heapBytes() : 0
    if (now > heap + HEAP_GROWTH_MAX) fail(`life ${life}`, `the heap has grown from ${heap} to ${now} bytes`)
  }
}

async function embedderRounds(seed: number): Promise<void> {
  const name = (number: number): string => `an embedder (${NO_RINGS} --lives 0 --regions 0 --embedders 1 --seed ${number})`
  let number = seed
  // What a backing throws as a bug of its own ends up here, and nowhere else.
  const uncaught = (error: unknown): void => void (isInjectedBug(error) || fail(name(number), error))
  process.on("uncaughtException", uncaught).on("unhandledRejection", uncaught)
  for (; number < seed + embedders; number++) {
    const one = new EmbedderFuzzer(new Rng(number), { hasBugs: number % 2 === 0 })
    await one.run().catch((error: unknown) => fail(name(number), error))
    counts.set("embedders' acts", (counts.get("embedders' acts") ?? 0) + [...one.counts.values()].reduce((sum, count) => sum + count, 0))
  }
  process.off("uncaughtException", uncaught).off("unhandledRejection", uncaught)
}

async function regionRounds(seed: number): Promise<void> {
  for (let number = seed; number < seed + regions; number++) {
    const one = new RegionsFuzzer(new Rng(number))
    const name = `ways of a kick (${NO_RINGS} --lives 0 --embedders 0 --regions 1 --seed ${number})`
    await one.round().catch((error: unknown) => fail(name, error))
    add(new Map([["regions: steps", one.counts.steps], ["regions: broken devices", one.counts.broken]]))
  }
}

const end = performance.now() + Number(values.hours) * 3_600_000
let seed = Number(values.seed)
do {
  console.log(
    `ring fuzzer: ${rounds} rounds, ${lives} lives, ${registers} devices over MMIO and PCI, ${states} saved states, ` +
      `${embedders} embedders, ${regions} lives over several regions, seed ${seed}`,
  )
  ringRounds(seed)
  await registerRounds(seed)
  if (states > 0) await stateRounds(seed)
  await liveRounds(seed)
  await embedderRounds(seed)
  await regionRounds(seed)
  seed += Math.max(lives, registers, embedders, regions, 1)
} while (performance.now() < end)

for (const [name, count] of [...counts].toSorted()) console.log(`${String(count).padStart(9)}  ${name}`)
console.log(`the thread was held for at most ${longest.toFixed(1)} ms (CPU time)`)
if (coverage !== undefined) console.log(coverageText(await coverage.take(["virtio/", "pci/"])))
