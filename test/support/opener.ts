/**
 * A separate process that opens images on demand. It reads lines from standard input: `open PATH OPTIONS` (JSON), `write TEXT`, `close`. It
 * answers each with one line: `open LOCK`, `failed CODE MESSAGE`, `done`.
 */
import { createInterface } from "node:readline"
import { BackingError } from "../../src/backing/backing.ts"
import { openImage, type OpenImageOptions } from "../../src/backing/open.ts"

let image: ReturnType<typeof openImage> | undefined

function answer(line: string): string {
  const [verb, path = "", options = "{}"] = line.split("\t")
  try {
    if (verb === "open") {
      image = openImage(path, JSON.parse(options) as OpenImageOptions)
      return `open ${image.lock}`
    }
    if (verb === "write") image?.pwrite(new TextEncoder().encode(path), 0)
    else image?.close()
    return "done"
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    return `failed ${error.code} ${error.message}`
  }
}

console.log("ready")
for await (const line of createInterface({ input: process.stdin })) console.log(answer(line))
