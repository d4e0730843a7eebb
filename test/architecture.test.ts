/** The shape of the house: who imports whom under src, and how large folders, files and functions get. */
import { readdirSync, readFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { describe, expect, it } from "vitest"
import { allImports, filesOf, findCycle, importsOf, objection, ROOT } from "./architecture/imports.ts"
import { functionsOf } from "./format/functions.ts"

const LIMIT = { folder: 20, file: 300, function: 40 } as const

/** What does not keep a rule yet. The list only gets shorter: a test fails when an entry is not needed any more. */
const NOT_YET: Readonly<Record<"imports" | "files" | "functions" | "folders", readonly string[]>> = {
  imports: [],
  files: [],
  functions: [],
  folders: [],
}

/** Functions that may be longer than others, and why. */
const LONG_FUNCTIONS: Readonly<Record<string, string>> = {
  "backing/decompression/inflate/codes.ts inflateCodes": "each symbol runs through it, and its state is in local variables",
  "backing/decompression/zstd/huffman-streams.ts decodeSideBySide": "four streams are decoded by four copies of each line",
  "backing/luks/ciphers/serpent.ts substitute": "a flat switch of sixteen S-boxes, in local variables",
  "backing/decompression/zstd/sequences.ts decode": "each sequence runs through it, and its state is in local variables",
  "virtio/blk/usual/split-request.ts takeSplit": "each usual request runs through it: the walk again, without what makes that slow",
  "virtio/blk/usual/packed-request.ts takePacked": "as takeSplit, of a packed ring",
  "virtio/blk/usual/single-request.ts takePacked": "the same of the only request of a kick, which a loop would cost more than to be read",
  "virtio/queue/descriptor-table.ts walk": "each request runs through it, and a call for each descriptor costs more than the rest",
  "virtio/queue/packed-descriptors.ts #walk": "as the walk of a split ring",
}

const linesOf = (source: string): number => source.trimEnd().split("\n").length
const sourceOf = (file: string): string => readFileSync(resolve(ROOT, "src", file), "utf8")

describe("the rules", () => {
  it("every form of import is found", () => {
    const source = [
      'import { a } from "./a.ts"', "import {", "  b,", "  type C,", '} from "./b.ts"', 'import type { D } from "../d.ts"',
      'import * as e from "node:fs"', 'import "./f.ts"', 'export { g } from "./g.ts"', 'export type { H } from "./h.ts"',
      'export * from "./i.ts"', 'const j = await import("./j.ts")', '// import { k } from "./k.ts"', '/** import { l } from "./l.ts" */',
      'export const text = "taken from"', 'throw new Error("from \\"m.ts\\"")',
    ].join("\n")
    const found = ["../d.ts", "./a.ts", "./b.ts", "./f.ts", "./g.ts", "./h.ts", "./i.ts", "./j.ts", "node:fs"]
    expect(importsOf(source).sort()).toEqual(found)
  })

  it.each([
    ["backing/raw.ts", "virtio/spec.ts"], ["backing/raw.ts", "node:fs"], ["backing/open.ts", "node:fs"], ["pci/bus.ts", "virtio/spec.ts"],
    ["pci/bus.ts", "backing/backing.ts"], ["virtio/device.ts", "backing/backing.ts"], ["virtio/blk/device.ts", "backing/raw.ts"],
    ["virtio/blk/device.ts", "pci/function.ts"], ["virtio/device.ts", "pci/function.ts"], ["virtio/pci/pci-transport.ts", "vmm/machine.ts"],
    ["virtio/pci/pci-transport.ts", "virtio/blk/device.ts"], ["virtio/blk/device.ts", "virtio/pci/pci-transport.ts"],
    ["virtio/queue/split-queue.ts", "virtio/device.ts"], ["virtio/device.ts", "virtio/blk/spec.ts"],
    ["vmm/machine.ts", "../test/x.ts"], ["vmm/machine.ts", "node:fs"], ["vmm/machine.ts", "index.ts"], ["vmm/machine.ts", "lodash"],
    ["vmm/machine.ts", "vmm/interrupts"], ["vmm/machine.ts", "vmm/cli/run.ts"], ["index.ts", "node:fs"],
    ["options.ts", "backing/backing.ts"],
    ["vmm/driver/virtio/driver.ts", "virtio/spec.ts"], ["vmm/driver/block/driver.ts", "vmm/machine.ts"],
    ["vmm/driver/pci/device.ts", "vmm/driver/virtio/spec.ts"], ["backing/qcow2/format/header.ts", "backing/qcow2/image.ts"],
    ["backing/qcow2/image.ts", "backing/qcow2/check/repair.ts"], ["backing/qcow2/check/check.ts", "backing/qcow2/metadata/mapping.ts"],
    ["backing/qcow2/image.ts", "backing/raw.ts"], ["backing/qcow2/image.ts", "node:zlib"], ["backing/host/host-file.ts", "backing/open.ts"],
  ])("%s must not import %s", (from, to) => expect(objection(from, to)).toBeDefined())

  it.each([
    ["index.ts", "vmm/machine.ts"], ["backing/host/host-file.ts", "node:fs"], ["backing/qcow2/image.ts", "backing/backing.ts"],
    ["backing/qcow2/open.ts", "backing/qcow2/check/repair.ts"], ["backing/open.ts", "backing/host/host-file.ts"],
    ["virtio/blk/device.ts", "backing/backing.ts"], ["virtio/blk/device.ts", "virtio/device.ts"],
    ["virtio/pci/pci-transport.ts", "pci/function.ts"], ["vmm/machine.ts", "virtio/blk/device.ts"], ["vmm/cli/run.ts", "node:fs"],
    ["vmm/cli/run.ts", "vmm/driver/block/driver.ts"], ["backing/backing.ts", "options.ts"], ["pci/function.ts", "options.ts"],
  ])("%s may import %s", (from, to) => expect(objection(from, to)).toBeUndefined())

  it("a circle is found, wherever the search enters it", () => {
    const line = [{ from: "a", to: "b" }, { from: "b", to: "c" }, { from: "a", to: "c" }]
    expect(findCycle(line)).toBeUndefined()
    expect(findCycle([...line, { from: "c", to: "b" }])).toEqual(["b", "c", "b"])
  })

  it("every form of function is found, and no other braces count as one", () => {
    const source = [
      "export function plain(a: number, b = { c: 1 }): { d: number } {", "  if (a) {", "    b()", "  }", "}",
      "class Thing<T> extends Other {", "  static #count = 0", "  constructor(x: T) {", "    super({ x })", "  }",
      "  async *#walk<U>(", "    x: Map<string, U>,", "  ): AsyncGenerator<U | undefined> {", "    for (const y of x) {", "    }", "  }",
      "  get size(): number {", "    return 1", "  }", "}",
      "const arrow = async (a: number): Promise<void> => {", "  await a", "}", "list.map((a) => {", "  a()", "})",
      "interface Shape {", "  area(): number", "}", "const object = {", "  method() {", "  },", "}",
    ].join("\n")
    expect(functionsOf(source).map(({ name, line, lines }) => [name, line, lines])).toEqual([
      ["plain", 1, 5], ["constructor", 8, 3], ["#walk", 11, 6], ["size", 17, 3], ["arrow", 21, 3], ["(arrow)", 24, 3], ["method", 31, 2],
    ])
  })
})

describe("src", () => {
  it("imports only what its layers allow", () => {
    const imports = allImports()
    expect(imports.length).toBeGreaterThan(200)
    const forbidden = imports.filter(({ from, to }) => objection(from, to) !== undefined)
    const known = forbidden.map(({ from, to }) => `${from} imports ${to}`).filter((line) => NOT_YET.imports.includes(line))
    expect(new Set(known)).toEqual(new Set(NOT_YET.imports))
    const reasons = forbidden.map(({ from, to }) => ({ line: `${from} imports ${to}`, reason: objection(from, to) }))
    expect(reasons.filter(({ line }) => !NOT_YET.imports.includes(line))).toEqual([])
  })

  it("has no circles of imports, not even of types", () => {
    expect(findCycle(allImports())).toBeUndefined()
  })

  it("imports only files that exist", () => {
    const files = new Set(filesOf("src"))
    expect(allImports().filter(({ to }) => !to.startsWith("node:") && !files.has(to))).toEqual([])
  })

  it(`has at most ${LIMIT.file} lines in a file`, () => {
    expect(filesOf("src").filter((file) => linesOf(sourceOf(file)) > LIMIT.file)).toEqual(NOT_YET.files)
  })

  it(`has at most ${LIMIT.function} lines in a function`, () => {
    const long = filesOf("src").flatMap((file) =>
      functionsOf(sourceOf(file)).flatMap(({ name, lines }) => (lines > LIMIT.function ? [`${file} ${name}`] : [])),
    )
    expect([...long].sort()).toEqual([...NOT_YET.functions, ...Object.keys(LONG_FUNCTIONS)].sort())
  })
})

it.each(["src", "test"])(`no folder under %s lists more than ${LIMIT.folder} files`, (folder) => {
  const counts = new Map<string, number>()
  for (const file of filesOf(folder)) counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1)
  const full = [...counts].flatMap(([name, count]) => (count > LIMIT.folder ? [name] : []))
  expect(full).toEqual(folder === "src" ? NOT_YET.folders : [])
})

it("the rooms are those of the design; beside them are index.ts, browser.ts and what every room may import", () => {
  const names = readdirSync(resolve(ROOT, "src")).sort()
  expect(names).toEqual(
    ["backing", "browser.ts", "disposing.ts", "index.ts", "options.ts", "pci", "saved-state.ts", "turns.ts", "virtio", "vmm"],
  )
})

it.each(["src", "test"])("every file under %s begins by saying what it is for", (folder) => {
  const silent = filesOf(folder).filter(
    (file) => !readFileSync(resolve(ROOT, folder, file), "utf8").replace(/^#!.*\n/, "").startsWith("/**"),
  )
  expect(silent).toEqual([])
})
