/** What a run reaches of the source, by V8's own counters: which parts of each file ran, and which functions never did. */
import { type Profiler, Session } from "node:inspector/promises"

/** How much of a file ran. */
export interface FileCoverage {
  /** Below src/. */
  readonly file: string
  /** Characters, as the loader has them, that ran at least once, and all of them. */
  readonly covered: number
  readonly length: number
  /** Names of functions that were never called. */
  readonly uncalled: readonly string[]
}

export class Coverage {
  readonly #session = new Session()

  /** Counts from now on. Import what is to be measured afterwards, or its top level counts as not run. */
  async start(): Promise<void> {
    this.#session.connect()
    await this.#session.post("Profiler.enable")
    await this.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true })
  }

  /** Files below src/ in one of `folders`. */
  async take(folders: readonly string[]): Promise<readonly FileCoverage[]> {
    const { result } = await this.#session.post("Profiler.takePreciseCoverage")
    this.#session.disconnect()
    return result.flatMap(({ url, functions }) => {
      const file = /\/src\/([^?]*)/.exec(url)?.[1]
      return file !== undefined && folders.some((folder) => file.startsWith(folder)) ? [coverageOf(file, functions)] : []
    }).sort((a, b) => (a.file < b.file ? -1 : 1))
  }
}

function coverageOf(file: string, functions: readonly Profiler.FunctionCoverage[]): FileCoverage {
  const length = Math.max(...functions.flatMap(({ ranges }) => ranges.map(({ endOffset }) => endOffset)))
  // Ranges are nested, the outer one first.
  const ran = new Uint8Array(length).fill(1)
  const ranges = functions.flatMap((each) => each.ranges).sort((a, b) => a.startOffset - b.startOffset || b.endOffset - a.endOffset)
  for (const { startOffset, endOffset, count } of ranges) ran.fill(count > 0 ? 1 : 0, startOffset, endOffset)
  const uncalled = functions.filter(({ functionName, ranges: [whole] }) => functionName !== "" && whole?.count === 0)
  return { file, covered: ran.reduce((sum, one) => sum + one, 0), length, uncalled: uncalled.map(({ functionName }) => functionName) }
}

/** A line for each file, and one for all of them. */
export function coverageText(files: readonly FileCoverage[]): string {
  const percent = (covered: number, length: number): string => `${((100 * covered) / Math.max(length, 1)).toFixed(1).padStart(5)} %`
  const sum = files.reduce((all, { covered, length }) => ({ covered: all.covered + covered, length: all.length + length }), {
    covered: 0, length: 0,
  })
  const lines = files.map(({ file, covered, length, uncalled }) => {
    return `${percent(covered, length)}  ${file}${uncalled.length === 0 ? "" : `  never called: ${uncalled.join(", ")}`}`
  })
  return [...lines, `${percent(sum.covered, sum.length)}  of all that is measured`].join("\n")
}
