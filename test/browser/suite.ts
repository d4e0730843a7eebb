/** A test in a browser, and what it works with. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Chromium, type Page, within } from "./chromium.ts"
import { Site } from "./site.ts"

export interface BrowserTest {
  /** Short, for the command line. */
  readonly name: string
  /** What it shows. */
  readonly title: string
  /** Time limit in seconds. The test has failed then. */
  readonly limit: number
  /** Returns one line that says what was done. @throws Error when something is wrong */
  readonly run: (context: BrowserContext) => Promise<string>
}

/** A browser with an empty profile, a server with the pages, and a folder, which is the server's /images/ as well. */
export class BrowserContext {
  readonly folder: string
  readonly site: Site
  readonly browser: Chromium

  private constructor(folder: string, site: Site, browser: Chromium) {
    this.folder = folder
    this.site = site
    this.browser = browser
  }

  static async open(): Promise<BrowserContext> {
    const folder = mkdtempSync(join(tmpdir(), "vioblk-browser-"))
    const site = await Site.start({ images: folder })
    return new BrowserContext(folder, site, await Chromium.launch())
  }

  path(name: string): string {
    return join(this.folder, name)
  }

  /** Opens a page of test/browser/page. */
  page(name: string): Promise<Page> {
    return this.browser.open(`${this.site.server.origin}/${name}`)
  }

  async close(): Promise<void> {
    await this.browser.close()
    await this.site.close()
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Runs `test` to its end or its limit, and returns its line. @throws Error when it fails */
export async function runTest(test: BrowserTest): Promise<string> {
  const context = await BrowserContext.open()
  try {
    return await within(test.run(context), test.limit * 1000, "the test is not done")
  } finally {
    await context.close()
  }
}

/** Calls a function that a module of test/browser/scripts exports, in `page`. */
export function call(page: Page, script: string, name: string, ...values: readonly unknown[]): Promise<unknown> {
  const list = values.map((value) => JSON.stringify(value)).join(", ")
  return page.evaluate(`import("/js/test/browser/scripts/${script}.js").then((script) => script.${name}(${list}))`)
}
