/**
 * Timing two or more ways of doing the same thing, in turn in one process, so that the machine's moods hit all of them alike. What is
 * counted is CPU time: on a busy machine preemption makes a wall clock's medians up to 1.7 times longer.
 */
import { Rng } from "../support/rng.ts"

/** One way: does `count` operations. */
export interface Contender {
  readonly name: string
  run(count: number): void
}

export interface Timing {
  readonly name: string
  /** Median over the rounds, in nanoseconds for each operation. */
  readonly ns: number
}

/** Runs all contenders in turn, `rounds` times `count` operations each after one uncounted round. `clock` gives nanoseconds. */
export function interleave(contenders: readonly Contender[], count: number, rounds = 9, clock: () => number = cpuTime): Timing[] {
  const samples = contenders.map((): number[] => [])
  for (let round = -1; round < rounds; round++) {
    contenders.forEach((contender, index) => {
      const start = clock()
      contender.run(count)
      const ns = (clock() - start) / count
      if (round >= 0) samples[index]?.push(ns)
    })
  }
  return contenders.map(({ name }, index) => ({ name, ns: median(samples[index] ?? []) }))
}

/** Nanoseconds of CPU time that this process has used, in user and kernel mode, all threads of it. */
export function cpuTime(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) * 1000
}

/** Nanoseconds of a wall clock, for what is compared with another process's own wall clock. */
export function wallTime(): number {
  return Number(process.hrtime.bigint())
}

/** Does some units of work. Returns nanoseconds for each of them. */
export type Way = () => number | Promise<number>

/**
 * Times two ways in pairs. Chance says which one of a pair begins: in a fixed order, a disk against another disk gave 1.07. The ratio is
 * the median of the pairs' ratios, because both ways of a pair meet the same machine.
 */
export class Pairs {
  readonly #rng = new Rng(20_261_127)
  readonly #pairs: { readonly ours: number; readonly theirs: number }[] = []

  /** A pair that warms up does not count. */
  async run(ours: Way, theirs: Way, { counts }: { readonly counts: boolean }): Promise<void> {
    const isFirst = this.#rng.chance(0.5)
    const before = isFirst ? await ours() : 0
    const between = await theirs()
    const pair = { ours: isFirst ? before : await ours(), theirs: between }
    if (counts) this.#pairs.push(pair)
  }

  row(name: string, target: string): string {
    const ratio = median(this.#pairs.map(({ ours, theirs }) => theirs / ours))
    return row(name, median(this.#pairs.map(({ ours }) => ours)), median(this.#pairs.map(({ theirs }) => theirs)), target, ratio)
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

/** Prints the title of a table, and its columns. */
export function heading(title: string, ours: string, theirs: string): void {
  console.log(`\n${title}`)
  console.log(`${"".padEnd(58)} ${ours.padStart(10)} ${theirs.padStart(10)}   ${"ratio".padStart(7)}   target`)
}

/** One line of the report: what was measured, both figures, their ratio and what it should be. */
export function row(what: string, ours: number, theirs: number, target: string, ratio = theirs / ours): string {
  return `${what.padEnd(58)} ${format(ours)} ${format(theirs)}   ${ratio.toFixed(3).padStart(7)}   ${target}`
}

export function format(ns: number): string {
  return (ns < 1000 ? ns.toFixed(1) : ns.toFixed(0)).padStart(10)
}
