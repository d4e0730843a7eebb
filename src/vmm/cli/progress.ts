/** Progress of long work: a bar if standard error is a terminal, lines on standard output with `-p`, nothing otherwise. */
import { formatBytes, formatDuration } from "./format.ts"
import { print, showStatus } from "./output.ts"

const INTERVAL_MS = 100
const LINE_INTERVAL_MS = 1000
const LONGEST_BAR = 40
const SHORTEST_BAR = 10

export interface ProgressOptions {
  /** Bytes in all; undefined: passed to each `show`. */
  readonly total?: number
  /** Print lines if there is no terminal. */
  readonly lines?: boolean
  /** Print nothing at all. */
  readonly quiet?: boolean
}

export class Progress {
  readonly #total: number | undefined
  readonly #mode: "bar" | "lines" | "none"
  readonly #started = performance.now()
  #shownAt = Number.NEGATIVE_INFINITY
  #shownPart = -1

  constructor({ total, lines = false, quiet = false }: ProgressOptions) {
    this.#total = total
    this.#mode = quiet ? "none" : process.stderr.isTTY ? "bar" : lines ? "lines" : "none"
  }

  /** `done`: bytes so far, of `total`. */
  show(done: number, total = this.#total ?? 0): void {
    if (this.#mode === "none" || total === 0) return
    const now = performance.now()
    const isOver = done >= total
    if (now - this.#shownAt < (this.#mode === "bar" ? INTERVAL_MS : LINE_INTERVAL_MS) && !isOver) return
    const part = Math.floor((done / total) * 1000)
    if (part === this.#shownPart) return
    this.#shownPart = part
    this.#shownAt = now
    const state = { done, total, seconds: (now - this.#started) / 1000 }
    if (this.#mode === "bar") showStatus(barLine(state, process.stderr.columns))
    else print(`${percent(state)} ${amounts(state)}`)
  }

  /** Removes the bar. */
  clear(): void {
    if (this.#mode === "bar" && this.#shownAt > 0) showStatus("")
  }
}

/** Bytes, and seconds since the beginning. */
export interface ProgressState {
  readonly done: number
  readonly total: number
  readonly seconds: number
}

/** A bar, with percentage, bytes, rate and remaining time as far as they fit into less than `columns` characters. */
export function barLine(state: ProgressState, columns = 80): string {
  const parts = [percent(state), amounts(state)]
  const room = columns - 1
  const { done, total, seconds } = state
  if (seconds > 0.5 && done > 0) {
    const rate = done / seconds
    parts.push(`${formatBytes(Math.round(rate))}/s`, `${formatDuration((total - done) / rate)} left`)
  }
  while (parts.length > 1 && parts.join("  ").length + SHORTEST_BAR + 4 > room) parts.splice(parts.length > 3 ? 1 : -1, 1)
  const text = parts.join("  ")
  const width = Math.min(LONGEST_BAR, room - text.length - 4)
  if (width < 1) return text.slice(0, Math.max(room, 0))
  const filled = Math.floor(Math.min(done / total, 1) * width)
  return `[${"#".repeat(filled)}${".".repeat(width - filled)}]  ${text}`
}

function percent({ done, total }: ProgressState): string {
  return `${Math.floor(Math.min(done / total, 1) * 100)}%`.padStart(4)
}

function amounts({ done, total }: ProgressState): string {
  return `${formatBytes(done)} of ${formatBytes(total)}`
}
