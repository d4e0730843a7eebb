/** Timing two or more ways of doing the same thing, interleaved, so that the machine's moods hit all of them alike. */

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

/** Runs all contenders in turn, `rounds` times `count` operations each after one uncounted round. */
export function interleave(contenders: readonly Contender[], count: number, rounds = 9): Timing[] {
  const samples = contenders.map((): number[] => [])
  for (let round = -1; round < rounds; round++)
    contenders.forEach((contender, index) => {
      const start = process.hrtime.bigint()
      contender.run(count)
      const ns = Number(process.hrtime.bigint() - start) / count
      if (round >= 0) samples[index]?.push(ns)
    })
  return contenders.map(({ name }, index) => ({ name, ns: median(samples[index] ?? []) }))
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
export function row(what: string, ours: number, theirs: number, target: string): string {
  return `${what.padEnd(58)} ${format(ours)} ${format(theirs)}   ${(theirs / ours).toFixed(3).padStart(7)}   ${target}`
}

export function format(ns: number): string {
  return (ns < 1000 ? ns.toFixed(1) : ns.toFixed(0)).padStart(10)
}
