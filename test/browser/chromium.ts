/**
 * Headless Chromium, driven over its debugging pipe: pages, what they print, their errors, screenshots, files that are chosen and
 * downloaded. Every wait is for an event, and ends at a limit.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { Readable, Writable } from "node:stream"
import { DevTools, type Fields } from "./devtools.ts"

const PROGRAMS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]

/** Milliseconds that a script in a page may take, if it is not told otherwise. */
const SCRIPT_LIMIT = 60_000

export class Chromium {
  /** The profile: what pages store lives as long as the browser. */
  readonly #profile: string
  readonly #process: ChildProcess
  readonly #devtools: DevTools
  readonly #ended: Promise<void>

  private constructor(child: ChildProcess, profile: string) {
    this.#process = child
    this.#profile = profile
    this.#devtools = new DevTools(child.stdio[3] as Writable, child.stdio[4] as Readable)
    this.#ended = new Promise((resolve) => child.on("close", () => resolve()))
  }

  /** @throws Error when there is no Chromium, or it does not start */
  static async launch(): Promise<Chromium> {
    const program = process.env["CHROMIUM"] ?? PROGRAMS.find((path) => existsSync(path))
    if (program === undefined) throw new Error("there is no Chromium; apt-get install chromium, or name it in CHROMIUM")
    const profile = mkdtempSync(join(tmpdir(), "vioblk-chromium-"))
    const flags = [
      "--headless=new", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "--no-first-run", "--no-default-browser-check",
      "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
      "--mute-audio", "--hide-scrollbars", "--window-size=1280,1040",
      // A tab that nobody looks at gets less of the processor.
      "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
      // The sandbox does not start for root.
      ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
    ]
    const child = spawn(program, [...flags, "about:blank"], { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"], detached: true })
    const browser = new Chromium(child, profile)
    try {
      await browser.#devtools.send("Browser.getVersion")
    } catch (error) {
      await browser.close()
      throw new Error(`${program} does not start`, { cause: error })
    }
    return browser
  }

  /** Opens `url` in a new tab, and waits until it has loaded. */
  async open(url: string): Promise<Page> {
    const { targetId } = await this.#devtools.send("Target.createTarget", { url: "about:blank" })
    const { sessionId } = await this.#devtools.send("Target.attachToTarget", { targetId, flatten: true })
    const page = new Page(this.#devtools, String(sessionId), String(targetId))
    await page.enable()
    await page.goto(url)
    return page
  }

  /** Lets pages download into `folder`. Resolves to the name of the file once the next download is complete. */
  async nextDownload(folder: string): Promise<{ readonly done: Promise<string> }> {
    await this.#devtools.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: folder, eventsEnabled: true })
    let name = ""
    const done = new Promise<string>((resolve, reject) => {
      this.#devtools.on("Browser.downloadWillBegin", undefined, ({ suggestedFilename }) => {
        name = String(suggestedFilename)
      })
      this.#devtools.on("Browser.downloadProgress", undefined, ({ state }) => {
        if (state === "completed") resolve(name)
        else if (state === "canceled") reject(new Error(`the download of ${name} was cancelled`))
      })
    })
    return { done }
  }

  /** Ends the browser and removes its profile. */
  async close(): Promise<void> {
    // Its processes form a group of their own.
    if (this.#process.pid !== undefined && this.#process.exitCode === null) process.kill(-this.#process.pid, "SIGKILL")
    await this.#ended
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5 })
  }
}

export class Page {
  /** What the page has printed, a line for each call of console. */
  readonly console: string[] = []
  /** Exceptions that nothing in the page caught, resources that did not load, and violations of its policies. */
  readonly errors: string[] = []
  readonly #devtools: DevTools
  readonly #session: string
  readonly #target: string
  #loaded = (): void => undefined

  constructor(devtools: DevTools, session: string, target: string) {
    this.#devtools = devtools
    this.#session = session
    this.#target = target
    this.#on("Runtime.consoleAPICalled", ({ args }) => this.console.push(textOf(args)))
    this.#on("Runtime.exceptionThrown", ({ exceptionDetails }) => this.errors.push(messageOf(exceptionDetails as Fields)))
    this.#on("Log.entryAdded", ({ entry }) => {
      const { level, text, url } = entry as Fields
      if (level === "error") this.errors.push(`${String(text)} (${String(url)})`)
    })
    this.#on("Page.loadEventFired", () => this.#loaded())
  }

  async enable(): Promise<void> {
    for (const domain of ["Runtime", "Page", "Log", "DOM"]) await this.#send(`${domain}.enable`)
  }

  goto(url: string): Promise<void> {
    return this.#load("Page.navigate", { url })
  }

  reload(): Promise<void> {
    return this.#load("Page.reload")
  }

  /**
   * Runs an expression in the page, and awaits it when it is a promise.
   * @throws Error what the expression throws, or when it takes longer than `limit` milliseconds
   */
  async evaluate(expression: string, limit = SCRIPT_LIMIT): Promise<unknown> {
    const parameters = { expression, awaitPromise: true, returnByValue: true, userGesture: true }
    const { result, exceptionDetails } = await this.#send("Runtime.evaluate", parameters, limit)
    if (exceptionDetails !== undefined) throw new Error(`in the page: ${messageOf(exceptionDetails as Fields)}`)
    return (result as Fields)["value"]
  }

  /** Writes a picture of the page to `path`, a PNG file. */
  async screenshot(path: string): Promise<void> {
    const { data } = await this.#send("Page.captureScreenshot", { format: "png" })
    writeFileSync(path, Buffer.from(String(data), "base64"))
  }

  /** Chooses `files` in the file input that `selector` finds, as a person does. */
  async choose(selector: string, files: readonly string[]): Promise<void> {
    const { result } = await this.#send("Runtime.evaluate", { expression: `document.querySelector(${JSON.stringify(selector)})` })
    await this.#send("DOM.setFileInputFiles", { files, objectId: (result as Fields)["objectId"] })
  }

  async close(): Promise<void> {
    await this.#devtools.send("Target.closeTarget", { targetId: this.#target })
  }

  async #load(method: string, params: Fields = {}): Promise<void> {
    const loaded = new Promise<void>((resolve) => {
      this.#loaded = resolve
    })
    const { errorText } = await this.#send(method, params)
    if (errorText !== undefined) throw new Error(`${String(params["url"])}: ${String(errorText)}`)
    await within(loaded, SCRIPT_LIMIT, `${method}: the page has not loaded`)
  }

  #send(method: string, params: Fields = {}, limit = SCRIPT_LIMIT): Promise<Fields> {
    return this.#devtools.send(method, params, { session: this.#session, limit })
  }

  #on(method: string, listener: (params: Fields) => void): void {
    this.#devtools.on(method, this.#session, listener)
  }
}

/** What `promise` resolves to. @throws Error with `message` when that takes longer than `limit` milliseconds */
export async function within<T>(promise: Promise<T>, limit: number, message: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${message} after ${limit} ms`)), limit)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

function textOf(values: unknown): string {
  return (values as readonly Fields[]).map(({ value, description }) => String(value ?? description ?? "")).join(" ")
}

function messageOf(details: Fields): string {
  const exception = details["exception"] as Fields | undefined
  return String(exception?.["description"] ?? exception?.["value"] ?? details["text"])
}
