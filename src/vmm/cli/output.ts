/**
 * Prints all output of the command line. Replaces control characters, which a terminal would obey, in names from images and directories.
 */
import { printable } from "../../backing/backing.ts"

let mustFinish = false
let isLost = false

/** Does work that goes on if the output fails meanwhile: it would leave half of a change behind, or an image that is not closed. */
export async function despiteOutput<T>(work: () => Promise<T>): Promise<T> {
  mustFinish = true
  try {
    return await work()
  } finally {
    mustFinish = false
  }
}

/** Standard output has failed: its reader has closed it (`| head`), its terminal is gone, or its disk is full. */
export function outputFailed(error: NodeJS.ErrnoException): void {
  const isUnread = error.code === "EPIPE" || error.code === "EIO"
  if (!isUnread && !isLost) complain(`cannot write the output: ${error.message}`)
  isLost ||= !isUnread
  if (!mustFinish) process.exit(isUnread ? 0 : 1)
}

/** Whether some of the output could not be written, although somebody wants it. */
export function hasLostOutput(): boolean {
  return isLost
}

/** Prints one line. */
export function print(line: string): void {
  console.log(printable(line))
}

/** Prints many lines, some thousand with each write. */
export class LineWriter {
  #text = ""

  add(line: string): void {
    this.#text += `${printable(line)}\n`
    if (this.#text.length >= 1 << 16) this.end()
  }

  /** Prints the rest. */
  end(): void {
    if (this.#text !== "") console.log(this.#text.slice(0, -1))
    this.#text = ""
  }
}

/** Prints a text of ours, of several lines. */
export function printHelp(help: string): void {
  console.log(help)
}

/** Prints a value for programs. */
export function printJson(value: unknown): void {
  console.log(toJson(value, 2))
}

/** Shows `line` in place of the last line of the terminal on standard error. */
export function showStatus(line: string): void {
  process.stderr.write(`\r${printable(line)}\x1b[K`)
}

/** Prints a line of a trace, on standard error. */
export function printTrace(line: string): void {
  console.error(printable(line))
}

/** Prints an error or a warning on standard error. */
export function complain(message: string): void {
  console.error(`vioblk: ${printable(message)}`)
}

/** Prints all that is known about an error, stack and causes included. */
export function complainAtLength(error: unknown): void {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error)
  for (const line of text.split("\n")) console.error(printable(line))
}

/**
 * JSON that is safe on a terminal: JSON.stringify escapes control characters below 0x20, but neither those from 0x7f on nor those that
 * change the direction of text.
 */
export function toJson(value: unknown, indent?: number): string {
  const escape = (found: string): string =>
    Array.from({ length: found.length }, (_, at) => `\\u${found.charCodeAt(at).toString(16).padStart(4, "0")}`).join("")
  return JSON.stringify(value, undefined, indent).replace(/[\p{Cf}\x7f-\x9f\u2028\u2029]/gu, escape)
}
