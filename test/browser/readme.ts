/** The README's page boots as it is printed: only the places of v86, its firmware and the disk are put in. */
import { readFileSync, symlinkSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { same } from "../linux/suite.ts"
import { within } from "./chromium.ts"
import { demoFolder } from "./demo-disk.ts"
import { quiet } from "./opfs.ts"
import type { BrowserContext, BrowserTest } from "./suite.ts"

/** What the README's page loads, and where this site has it. */
const PLACES: readonly (readonly [string, string])[] = [
  ["/debian.img", "/images/demo.img"], ["/bios.bin", "/firmware/bios.bin"], ["/vgabios-stdvga.bin", "/firmware/vgabios-stdvga.bin"],
  ["/v86.wasm", "/v86/v86.wasm"],
]
/** Bytes of the disk that were fetched when the BIOS, GRUB and most of the kernel have been read. */
const BOOTED = 6 << 20

async function readme(context: BrowserContext): Promise<string> {
  const blocks = [...readFileSync(resolve("README.md"), "utf8").matchAll(/```js\n([^`]*)```/g)].map(([, code = ""]) => code)
  const example = blocks.find((code) => code.includes("opfsFile")) ?? ""
  const lines = example.split("\n").filter((line) => line !== "").length
  same(lines > 0 && lines < 12, true, `lines of the README's page (${lines}), fewer than 12`)
  symlinkSync(join(demoFolder(64), "demo.img"), context.path("demo.img"))
  const script = PLACES.reduce((code, [from, to]) => code.replaceAll(`"${from}"`, `"${to}"`), example)
  writeFileSync(context.path("readme.html"), `<!doctype html><link rel="icon" href="data:,">
<script type="importmap">{ "imports": { "vioblk": "/js/src/browser.js", "v86": "/v86/libv86.mjs" } }</script>
<div id="screen"><div></div><canvas></canvas></div>
<script type="module">${script}</script>`)
  const fetched = context.site.server.whenSent("/images/demo.img", BOOTED)
  const page = await context.page("images/readme.html")
  await within(fetched, 150_000, "GRUB has not read the kernel")
  const overlay = 'navigator.storage.getDirectory().then((root) => root.getFileHandle("debian.qcow2")).then((file) => file.getFile())'
  const size = Number(await page.evaluate(`${overlay}.then(({ size }) => size)`))
  same(size >= 3 * 65_536, true, `bytes of the overlay (${size}): its header and tables`)
  quiet(page)
  return `${lines} lines boot GRUB and Linux from a disk over HTTP with an overlay in OPFS`
}

export const readmeTests: readonly BrowserTest[] = [
  { name: "readme", title: "the README's page boots from a URL with an overlay in OPFS", limit: 180, run: readme },
]
