/**
 * A process of its own that opens an image for writing while descriptors are short: `few-descriptors.ts PATH` under `ulimit -n`. For each
 * number of free descriptors from 0 to 12 it prints a line: `open LOCK` or `failed CODE`.
 */
import { closeSync, openSync } from "node:fs"
import { BackingError } from "../../../src/backing/backing.ts"
import { openImage } from "../../../src/backing/open.ts"

function isFull(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "EMFILE"
}

function attempt(path: string): string {
  try {
    const image = openImage(path, { format: "raw" })
    const { lock } = image
    image.close()
    return `open ${lock}`
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    return `failed ${error.code}`
  }
}

/** Takes all descriptors but `free`. */
function fill(free: number): number[] {
  const taken: number[] = []
  try {
    for (;;) taken.push(openSync("/dev/null", "r"))
  } catch (error) {
    if (!isFull(error)) throw error
  }
  for (const fd of taken.splice(0, free)) closeSync(fd)
  return taken
}

const [, , path = ""] = process.argv
openImage(path, { format: "raw" }).close() // loads what is loaded once
const lines: string[] = []
for (let free = 0; free <= 12; free++) {
  const taken = fill(free)
  lines.push(attempt(path))
  for (const fd of taken) closeSync(fd)
}
console.log(lines.join("\n"))
