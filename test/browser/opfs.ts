/** The origin private file system of a real browser: on a page's thread, in a worker, and under a strict policy. */
import type { Page } from "./chromium.ts"
import { type BrowserContext, type BrowserTest, call } from "./suite.ts"
import { matches, same } from "../linux/suite.ts"

async function opfs(context: BrowserContext): Promise<string> {
  const page = await context.page("blank.html")
  same(await call(page, "opfs", "writeAndRead"), "ok", "a page's own thread")
  same(String(await call(page, "opfs", "refusals")), "not-found,not-found,invalid-argument,invalid-format", "refusals")
  const inWorker = (act: string): Promise<unknown> => call(page, "opfs", "inWorker", { path: "disks/w.qcow2", act })
  const expected = JSON.stringify({ lock: "exclusive", errors: 0, text: "from a worker" })
  same(JSON.stringify(await inWorker("write")), expected, "a qcow2 image in a worker")
  await page.reload()
  same(JSON.stringify(await inWorker("read")), expected, "the same after the page was loaded again")
  same(await call(page, "opfs", "leaveOpen"), 0, "size of a new file")
  await page.reload()
  same(Number(await call(page, "opfs", "leaveOpen")) >= 1 << 20, true, "a file that the page had open when it was loaded again opens")
  same(String(await call(page, "opfs", "workerEnds")), "io,no error", "calls of a file whose worker is terminated")
  await strictPolicy(context)
  quiet(page)
  return "a file from a page's thread, a qcow2 image in a worker, kept over a reload; a worker of the page's under a strict policy"
}

/** `worker-src 'self'` forbids workers from blob: URLs. */
async function strictPolicy(context: BrowserContext): Promise<void> {
  const page = await context.page("strict.html")
  const [message, size] = await call(page, "opfs", "underStrictPolicy") as readonly string[]
  matches(message ?? "", /pass a worker that runs vioblk\/opfs-worker$/, "what the page is told")
  same(size, "1000", "size of the file that was written through the page's own worker")
}

/** @throws Error when the page has reported an error */
export function quiet(page: Page): void {
  same(page.errors.join("\n"), "", "errors that the page reports")
}

export const opfsTests: readonly BrowserTest[] = [
  { name: "opfs", title: "files in the origin private file system: page, worker, strict policy", limit: 180, run: opfs },
]
