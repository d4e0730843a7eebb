/** The README's examples do what they say. */
import { execFile, spawnSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { promisify } from "node:util"
import { expect, it } from "vitest"
import { openImage } from "../src/backing/open.ts"
import { TestServer } from "./backing/sources/http/test-server.ts"
import { temporaryDirectory } from "./support/temporary.ts"

it("the first two commands are the whole set-up: one runs the program, one the tests", () => {
  expect(/```\w*\n([^`]*)```/.exec(readFileSync("README.md", "utf8"))?.[1]).toBe("npm ci && npm start\nnpm ci && npm test\n")
})

it("the embedding example runs as it is printed, repeatedly, in at most a dozen lines", () => {
  const example = /```ts\n([^`]*)```/.exec(readFileSync("README.md", "utf8"))?.[1] ?? ""
  expect(example.trim().split("\n").filter((line) => line !== "").length).toBeLessThanOrEqual(12)
  const folder = temporaryDirectory()
  const script = join(folder, "example.mts")
  writeFileSync(script, example.replace('"vioblk"', JSON.stringify(pathToFileURL(resolve("src/index.ts")).href)))
  const tsx = pathToFileURL(resolve("node_modules/tsx/dist/loader.mjs")).href
  for (const run of ["the first run", "the second run, which finds the disk of the first"]) {
    const { stdout, stderr, status } = spawnSync(process.execPath, ["--import", tsx, script], { cwd: folder, encoding: "utf8" })
    expect({ run, stdout, stderr, status }).toEqual({ run, stdout: "1073741824 root hello, disk\n", stderr: "", status: 0 })
  }
})

it("the example of snapshots and bitmaps finds the changed ranges, and restores the disk", () => {
  const section = readFileSync("README.md", "utf8").split("### Inside a qcow2 image")[1] ?? ""
  const example = /```js\n([^`]*(?:`[^`]+`[^`]*)*)\n```/.exec(section)?.[1] ?? ""
  const folder = temporaryDirectory()
  const script = join(folder, "example.mts")
  writeFileSync(script, example.replace('"vioblk"', JSON.stringify(pathToFileURL(resolve("src/index.ts")).href)))
  const tsx = pathToFileURL(resolve("node_modules/tsx/dist/loader.mjs")).href
  const { stdout, stderr } = spawnSync(process.execPath, ["--import", tsx, script], { cwd: folder, encoding: "utf8" })
  expect({ stdout, stderr }).toEqual({ stdout: "[ { offset: 65536, length: 65536 } ] [ 'clean 14' ]\n", stderr: "" })
  const image = openImage(join(folder, "disk.qcow2"), { readOnly: true })
  expect("allocation" in image && image.allocation(0, image.size)).toEqual({ length: 1 << 20, isAllocated: false, isZero: true })
  image.close()
})

it("the example of a disk over HTTP fetches what is read, in at most a dozen lines", async () => {
  const section = readFileSync("README.md", "utf8").split("### A disk over HTTP")[1] ?? ""
  const example = /```js\n([^`]*)```/.exec(section)?.[1] ?? ""
  expect(example.trim().split("\n").filter((line) => line !== "").length).toBeLessThanOrEqual(12)
  const server = await TestServer.start(new TextEncoder().encode("theirs".padEnd(1 << 20)))
  const script = join(temporaryDirectory(), "example.mts")
  const source = pathToFileURL(resolve("src/index.ts")).href
  writeFileSync(script, example.replace('"vioblk"', JSON.stringify(source)).replace("https://example.org/disk.raw", server.url))
  const tsx = pathToFileURL(resolve("node_modules/tsx/dist/loader.mjs")).href
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ["--import", tsx, script])
  await server.stop()
  expect({ stdout, stderr }).toEqual({ stdout: "mine \n", stderr: "" })
  expect(server.ranges).toEqual(["bytes=0-65535"])
})

it("every name that an example imports is exported, in examples for pages by the entry for pages", async () => {
  const readme = readFileSync("README.md", "utf8")
  const [beforePages = "", pages = ""] = readme.split("\n## In a page\n")
  const [node, page] = [new Set(Object.keys(await import("../src/index.ts"))), new Set(Object.keys(await import("../src/browser.ts")))]
  const inPages = imported(pages.split("\n## ")[0] ?? "")
  expect([...imported(beforePages), ...inPages].filter((name) => !node.has(name))).toEqual([])
  expect(inPages.length).toBeGreaterThan(5)
  expect(inPages.filter((name) => !page.has(name))).toEqual([])
})

function imported(text: string): string[] {
  return [...text.matchAll(/^import \{ ([^}]*) \} from "vioblk"/gm)].flatMap(([, names = ""]) => names.split(", "))
}

it("no shift in the examples overflows, as 4 << 30 does", () => {
  const shifts = [...readFileSync("README.md", "utf8").matchAll(/\b(\d+) << (\d+)/g)].map(([text, value, count]) => {
    return { text, result: Number(value) << Number(count), meant: Number(value) * 2 ** Number(count) }
  })
  expect(shifts.length).toBeGreaterThan(0)
  expect(shifts.filter(({ result, meant }) => result !== meant)).toEqual([])
})
