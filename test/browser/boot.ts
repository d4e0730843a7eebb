/**
 * Linux boots in the page: from memory, from a qcow2 file that a person picks, and from 4 GiB behind HTTP, of which only what it reads is
 * fetched. What it writes is kept in the browser's storage, and a downloaded overlay holds it.
 */
import { createHash } from "node:crypto"
import { mkdirSync, readFileSync, statSync, symlinkSync } from "node:fs"
import { join } from "node:path"
import { SHELL_READY } from "../linux/boot-images.ts"
import { cacheFolder, run } from "../linux/cache.ts"
import { checkClean } from "../linux/disks.ts"
import { debianKernel } from "../linux/packages.ts"
import { matches, same } from "../linux/suite.ts"
import { type Page, within } from "./chromium.ts"
import { demoFolder } from "./demo-disk.ts"
import type { BrowserContext, BrowserTest } from "./suite.ts"
import { quiet } from "./opfs.ts"

const MIB = 1 << 20
/** Milliseconds that a guest may take to boot: v86 needs about a minute of a processor, of which a busy machine gives it a part. */
const BOOT_LIMIT = 600_000
const COMMAND_LIMIT = 120_000

/** Clicks on Boot, and waits for the guest's shell. */
async function boot(page: Page): Promise<void> {
  await page.evaluate('document.getElementById("start").click()')
  await page.evaluate(`demo.expect(${JSON.stringify(`${SHELL_READY}[^]*# $`)})`, BOOT_LIMIT)
}

/** Runs a command in the guest's shell and returns what the terminal showed. @throws Error when it fails */
async function shell(page: Page, command: string): Promise<string> {
  await page.evaluate(`demo.type(${JSON.stringify(`${command}; echo STATUS-$?-\n`)})`)
  const text = String(await page.evaluate('demo.expect("[^]*STATUS-\\\\d+-\\\\s[^]*# $")', COMMAND_LIMIT))
  same(/STATUS-(\d+)-\s/.exec(text)?.[1], "0", `exit status of ${command} in the guest, which showed ${text}`)
  return text
}

async function sumOf(page: Page, file: string): Promise<string> {
  return matches(await shell(page, `sha256sum ${file}`), /([0-9a-f]{64})/, "sum in the guest")[1] ?? ""
}

function sumOfHost(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex")
}

/** Keeps a picture of the page. It shows something: a blank one compresses to less. */
async function picture(page: Page, name: string): Promise<string> {
  const folder = join(cacheFolder(), "screenshots")
  mkdirSync(folder, { recursive: true })
  const path = join(folder, `${name}.png`)
  await page.screenshot(path)
  same(statSync(path).size > 40_000, true, `${path} shows something`)
  return path
}

/** The page of the demonstration, at a URL, with changes kept in the browser's storage. */
async function fromUrl(context: BrowserContext, path: string): Promise<Page> {
  const page = await context.page("")
  await choose(page, "url", `document.getElementById("url").value = ${JSON.stringify(context.site.server.origin + path)}`)
  return page
}

async function choose(page: Page, source: "file" | "url", then: string): Promise<void> {
  await page.evaluate(`document.querySelector("input[value=${source}]").click(); ${then}`)
}

async function memory(context: BrowserContext): Promise<string> {
  symlinkSync(join(demoFolder(64), "demo.img"), context.path("demo.img"))
  const page = await context.page("blank.html")
  const script = `import("/js/test/browser/scripts/memory.js").then((script) => script.bootFromMemory(${JSON.stringify(SHELL_READY)}))`
  const text = String(await page.evaluate(script, BOOT_LIMIT))
  matches(text, /written in the guest/, "what the guest read back")
  quiet(page)
  return "Linux booted from 64 MiB of memory, wrote a file, and read it back; the host found it in the memory"
}

async function file(context: BrowserContext): Promise<string> {
  const image = context.path("picked.qcow2")
  run("qemu-img", ["convert", "-c", "-f", "raw", "-O", "qcow2", join(demoFolder(64), "demo.img"), image])
  const before = sumOfHost(image)
  const page = await context.page("")
  await choose(page, "file", "undefined")
  await page.choose("#file", [image])
  await boot(page)
  same(await sumOf(page, "/mnt/boot/vmlinuz"), sumOfHost(debianKernel().image), "sum of the kernel in the guest")
  await shell(page, "echo written over a File >/mnt/note; sync")
  await picture(page, "file")
  const overlay = await download(context, page)
  checkClean(overlay)
  same(sumOfHost(image), before, "sum of the file that was picked: nothing writes to it")
  quiet(page)
  return "Linux booted from a compressed qcow2 File under an overlay; the kernel's sum is right, the file is as it was"
}

async function lazy(context: BrowserContext): Promise<string> {
  symlinkSync(join(demoFolder(4096), "demo.img"), context.path("demo.img"))
  const page = await fromUrl(context, "/images/demo.img")
  await boot(page)
  const traffic = context.site.server.trafficOf("/images/demo.img")
  const { bytes, requests } = traffic
  const read = Number(await page.evaluate("demo.guestRead()"))
  same(read > 4 * MIB, true, `bytes that the guest has read (${read}): a kernel at least`)
  // Read-ahead asks for at most as much again as was read in order; single reads are rounded up to pages.
  same(bytes <= read * 2 + 2 * MIB, true, `bytes fetched (${bytes} in ${requests} requests), for ${read} that the guest has read`)
  const sum = await writeInGuest(page)
  const shown = await picture(page, "lazy")
  const overlay = await download(context, page)
  checkClean(overlay)
  checkOverlay(context, overlay, sum)
  await page.reload()
  await choose(page, "url", `document.getElementById("url").value = ${JSON.stringify(`${context.site.server.origin}/images/demo.img`)}`)
  await boot(page)
  same(await sumOf(page, "/mnt/random"), sum, "sum of the file after the page was loaded again")
  quiet(page)
  return `4 GiB over HTTP: ${(bytes / MIB).toFixed(1)} MiB fetched in ${requests} requests for ${(read / MIB).toFixed(1)} MiB read; ` +
    `3 MiB written are there after a reload, and in the overlay that QEMU opens; ${shown}`
}

/** 3 MiB that nobody can guess. Returns their sum. */
async function writeInGuest(page: Page): Promise<string> {
  await shell(page, "dd if=/dev/urandom of=/mnt/random bs=64k count=48; sync")
  await page.evaluate('document.getElementById("save").click()')
  return await sumOf(page, "/mnt/random")
}

/** Clicks on Download. Returns the path of the overlay, which lies beside its base. */
async function download(context: BrowserContext, page: Page): Promise<string> {
  const { done } = await context.browser.nextDownload(context.folder)
  await page.evaluate('document.getElementById("download").click()')
  return context.path(await within(done, COMMAND_LIMIT, "the overlay is not downloaded"))
}

/** QEMU reads the overlay with its base, and debugfs the file in it. */
function checkOverlay(context: BrowserContext, overlay: string, sum: string): void {
  const raw = context.path("overlay.raw")
  run("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", overlay, raw])
  run("debugfs", ["-R", `dump /random ${context.path("random")}`, `${raw}?offset=${MIB}`])
  same(sumOfHost(context.path("random")), sum, "sum of the file in the downloaded overlay")
}

export const bootTests: readonly BrowserTest[] = [
  { name: "memory", title: "Linux boots from a disk in memory", limit: 700, run: memory },
  { name: "file", title: "Linux boots from a qcow2 file that a person picks", limit: 800, run: file },
  { name: "lazy", title: "Linux boots from 4 GiB over HTTP; its writes are kept, and can be downloaded", limit: 1600, run: lazy },
]
