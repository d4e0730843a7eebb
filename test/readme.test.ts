/** The README's example does what it says. */
import { spawnSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { expect, it } from "vitest"
import { temporaryDirectory } from "./support/temporary.ts"

it("the embedding example runs as it is printed, as often as one likes, in at most a dozen lines", () => {
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
