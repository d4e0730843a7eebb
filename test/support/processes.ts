/** Other processes that open images: ours, and QEMU's. Each ends when its test has finished. */
import { type ChildProcessByStdio, spawn } from "node:child_process"
import { createInterface } from "node:readline"
import type { Readable, Writable } from "node:stream"
import { onTestFinished } from "vitest"
import type { OpenImageOptions } from "../../src/backing/open.ts"

interface Started {
  readonly child: ChildProcessByStdio<Writable, Readable, null>
  readonly ended: Promise<void>
}

function start(command: string, args: readonly string[], stderr: "inherit" | "ignore"): Started {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", stderr] })
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()))
  onTestFinished(async () => {
    child.kill("SIGKILL")
    await ended
  })
  return { child, ended }
}

/** A process of ours, which opens one image at a time. */
export class Opener {
  readonly #lines: AsyncIterator<string>
  readonly #child
  readonly #ended

  private constructor() {
    const { child, ended } = start(process.execPath, ["--import", "tsx", "test/support/opener.ts"], "inherit")
    this.#child = child
    this.#ended = ended
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  }

  static async start(): Promise<Opener> {
    const opener = new Opener()
    await opener.#answer()
    return opener
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** "open qemu", or "failed busy ...". */
  open(path: string, options: OpenImageOptions = {}): Promise<string> {
    return this.#ask(`open\t${path}\t${JSON.stringify(options)}`)
  }

  write(text: string): Promise<string> {
    return this.#ask(`write\t${text}`)
  }

  close(): Promise<string> {
    return this.#ask("close")
  }

  /** Kills the process, without closing its image. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL")
    await this.#ended
  }

  async #ask(line: string): Promise<string> {
    this.#child.stdin.write(`${line}\n`)
    return this.#answer()
  }

  async #answer(): Promise<string> {
    const { value, done } = await this.#lines.next()
    if (done === true) throw new Error("the process that opens images has ended")
    return String(value)
  }
}

/** A qemu-io that has an image open until `close`, or that could not open it. */
export async function qemuIoHolding(...words: string[]): Promise<{ opened: boolean; close: () => Promise<void> }> {
  const { child, ended } = start("qemu-io", words, "ignore")
  // qemu-io prints its prompt after opening the image, and ends without one if it cannot.
  const prompt = new Promise<boolean>((resolve) => child.stdout.once("data", () => resolve(true)))
  const opened = await Promise.race([prompt, ended.then(() => false)])
  return {
    opened,
    close: () => {
      child.stdin.end()
      return ended
    },
  }
}
