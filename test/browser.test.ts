/** The package in a page: browser.ts leads to no module of Node, and is index.ts without what needs one. */
import { expect, it } from "vitest"
import * as page from "../src/browser.ts"
import { allImports } from "./architecture/imports.ts"
import { exportsOf } from "./architecture/exports.ts"

const IMPORTS = allImports()

/** The way of imports from `file` to a module of Node, if there is one. */
function wayToNode(file: string, seen = new Set<string>()): readonly string[] | undefined {
  if (file.startsWith("node:")) return [file]
  if (seen.has(file)) return undefined
  seen.add(file)
  for (const { from, to } of IMPORTS) {
    const way = from === file ? wayToNode(to, seen) : undefined
    if (way !== undefined) return [file, ...way]
  }
  return undefined
}

it("browser.ts imports no module of Node, directly or not; index.ts does", () => {
  expect(wayToNode("browser.ts")).toBeUndefined()
  expect(wayToNode("index.ts")?.at(-1)).toMatch(/^node:/)
})

it("a name that only index.ts exports comes from a file that imports Node, directly or not", () => {
  const inPage = new Set(exportsOf("browser.ts").map(({ name }) => name))
  const missing = exportsOf("index.ts").filter(({ name }) => !inPage.has(name))
  expect(missing.length).toBeGreaterThan(5)
  // What is beside sockets is of no use without them.
  const isForNode = (from: string): boolean => from.startsWith("backing/nbd/") || wayToNode(from) !== undefined
  expect(missing.filter(({ from }) => !isForNode(from)).map(({ name }) => name)).toEqual([])
})

it("browser.ts exports nothing that index.ts does not", () => {
  const names = new Set(exportsOf("index.ts").map(({ name }) => name))
  const own = exportsOf("browser.ts").map(({ name }) => name)
  expect(own.length).toBeGreaterThan(60)
  expect(own.filter((name) => !names.has(name))).toEqual([])
})

it("a page checks and repairs images in open files, and refuses paths", () => {
  const file = new page.MemoryFile()
  page.createQcow2(file, { size: 1 << 20 })
  expect(page.checkImage(file)).toMatchObject({ exitCode: 0 })
  expect(page.repairImage(file, "all")).toMatchObject({ exitCode: 0 })
  expect(
    () => page.checkImage("disk.qcow2" as unknown as page.ImageFile),
  ).toThrow(/^checkImage: the file must implement ImageFile, not the string/)
  expect(() => page.repairImage(file, "most" as page.RepairMode)).toThrow(
    /^repairImage: mode must be "leaks" or "all", not the string "most"/,
  )
})
