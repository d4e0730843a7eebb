/** The shape of the house: which file may import which, scanned from the import lines of everything under src. */
import { readdirSync, readFileSync } from "node:fs"
import { posix, resolve } from "node:path"
import { describe, expect, it } from "vitest"

const ROOT = resolve(import.meta.dirname, "..")

/** What may use Node's own modules, and which: the rest also runs in a browser or a worker. */
const NODE_MODULES: readonly (readonly [file: RegExp, modules: readonly string[]])[] = [
  [/^backing\/host\//, ["node:fs", "node:child_process", "node:os", "node:path", "node:zlib", "node:crypto"]],
  [/^vmm\/cli\//, ["node:crypto", "node:fs", "node:os", "node:path", "node:process", "node:url", "node:util"]],
]

/** TypeScript files below `folder`, relative to it. */
function filesOf(folder: string): string[] {
  return readdirSync(resolve(ROOT, folder), { recursive: true, encoding: "utf8" })
    .map((name) => name.replaceAll("\\", "/"))
    .filter((name) => name.endsWith(".ts"))
    .sort()
}

/** What a file imports, or re-exports, as it is written there. Types count: who names another's types knows it. */
function importsOf(source: string): string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "")
  const found = [...code.matchAll(/^\s*(?:import|export)\b[^"'`;=]*?\bfrom\s*["']([^"']+)["']/gm), ...code.matchAll(/^\s*import\s*["']([^"']+)["']/gm), ...code.matchAll(/\bimport\(\s*["']([^"']+)["']/g)]
  return found.map(([, specifier = ""]) => specifier)
}

/** Why `from` must not import `to`, both relative to src; undefined when it may. */
function objection(from: string, to: string): string | undefined {
  if (to.startsWith("node:")) return NODE_MODULES.some(([file, modules]) => file.test(from) && modules.includes(to)) ? undefined : "Node's modules are not for this file"
  if (!to.endsWith(".ts")) return "neither a file of ours with its extension, nor a module of Node's: there are no dependencies"
  if (to.startsWith("..")) return "nothing under src imports from outside of it"
  if (from === "index.ts") return undefined
  if (to === "options.ts") return undefined
  if (from === "options.ts") return "options.ts imports nothing, so that every room may import it"
  if (to === "saved-state.ts") return undefined
  if (to === "index.ts") return "index.ts is for programs outside"
  const [room = "", target = ""] = [from, to].map((path) => path.slice(0, path.indexOf("/")))
  if (room === "vmm") return undefined
  if (room === "backing" && target === "backing") return qcow2Objection(from.slice("backing/".length), to.slice("backing/".length))
  if (room === target) return undefined
  if (room === "virtio" && from.startsWith("virtio/blk/") && to === "backing/backing.ts") return undefined
  if (from.startsWith("virtio/pci/") && target === "pci") return undefined
  return `${room} must not know ${target}`
}

/** The rooms inside of qcow2: its words are pure, checks stand apart, and nothing there needs Node. Paths are relative to src/backing. */
function qcow2Objection(from: string, to: string): string | undefined {
  if (!from.startsWith("qcow2/")) return undefined
  if (!to.startsWith("qcow2/")) return ["backing.ts", "image-file.ts"].includes(to) ? undefined : "qcow2 knows only the two contracts beside it"
  if (from.startsWith("qcow2/format/")) return to.startsWith("qcow2/format/") ? undefined : "the format's words know nothing but themselves"
  if (from.startsWith("qcow2/check/")) {
    return /^qcow2\/(format|check)\//.test(to) || to === "qcow2/header-store.ts" ? undefined : "checks must not need an open image"
  }
  return to.startsWith("qcow2/check/") && from !== "qcow2/open.ts" ? "only opening an image repairs it" : undefined
}

interface Import {
  readonly from: string
  readonly to: string
}

function allImports(): Import[] {
  return filesOf("src").flatMap((from) =>
    importsOf(readFileSync(resolve(ROOT, "src", from), "utf8")).map((specifier) => ({ from, to: specifier.startsWith(".") ? posix.join(posix.dirname(from), specifier) : specifier })),
  )
}

/** A circle of imports, as the files on it, or undefined. */
function findCycle(imports: readonly Import[]): string[] | undefined {
  const done = new Set<string>()
  const path: string[] = []
  const visit = (file: string): string[] | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file]
    if (done.has(file)) return undefined
    path.push(file)
    for (const { from, to } of imports) {
      const cycle = from === file ? visit(to) : undefined
      if (cycle !== undefined) return cycle
    }
    path.pop()
    done.add(file)
    return undefined
  }
  for (const { from } of imports) {
    const cycle = visit(from)
    if (cycle !== undefined) return cycle
  }
  return undefined
}

describe("the rules themselves", () => {
  it("import lines are found, however they are written", () => {
    const source = [
      'import { a } from "./a.ts"', "import {", "  b,", "  type C,", '} from "./b.ts"', 'import type { D } from "../d.ts"', 'import * as e from "node:fs"', 'import "./f.ts"',
      'export { g } from "./g.ts"', 'export type { H } from "./h.ts"', 'export * from "./i.ts"', 'const j = await import("./j.ts")', '// import { k } from "./k.ts"', '/** import { l } from "./l.ts" */',
      'export const text = "taken from"', 'throw new Error("from \\"m.ts\\"")',
    ].join("\n")
    expect(importsOf(source).sort()).toEqual(["../d.ts", "./a.ts", "./b.ts", "./f.ts", "./g.ts", "./h.ts", "./i.ts", "./j.ts", "node:fs"])
  })

  it.each([
    ["backing/raw.ts", "virtio/spec.ts"], ["backing/raw.ts", "node:fs"], ["backing/open.ts", "node:fs"], ["backing/create.ts", "node:path"], ["pci/bus.ts", "virtio/spec.ts"], ["pci/bus.ts", "backing/backing.ts"], ["virtio/device.ts", "backing/backing.ts"],
    ["virtio/blk/device.ts", "backing/raw.ts"], ["virtio/blk/device.ts", "pci/function.ts"], ["virtio/device.ts", "pci/function.ts"], ["virtio/pci/pci-transport.ts", "vmm/machine.ts"], ["vmm/machine.ts", "../test/x.ts"],
    ["backing/qcow2/reader.ts", "backing/host/inflate.ts"], ["backing/qcow2/format/header.ts", "backing/qcow2/image.ts"], ["backing/qcow2/check/check.ts", "backing/qcow2/image.ts"],
    ["backing/qcow2/image.ts", "backing/qcow2/check/repair.ts"], ["vmm/machine.ts", "node:fs"], ["vmm/machine.ts", "index.ts"], ["vmm/machine.ts", "lodash"], ["vmm/machine.ts", "vmm/interrupts"], ["index.ts", "node:fs"],
    ["options.ts", "backing/backing.ts"],
  ])("%s must not import %s", (from, to) => expect(objection(from, to)).toBeDefined())

  it.each([
    ["index.ts", "vmm/machine.ts"], ["backing/host/host-file.ts", "node:fs"], ["backing/qcow2/image.ts", "backing/backing.ts"], ["backing/qcow2/open.ts", "backing/qcow2/check/repair.ts"], ["virtio/blk/device.ts", "backing/backing.ts"], ["virtio/pci/pci-transport.ts", "pci/function.ts"],
    ["vmm/machine.ts", "virtio/blk/device.ts"], ["vmm/cli/run.ts", "node:fs"],
    ["backing/backing.ts", "options.ts"], ["pci/function.ts", "options.ts"],
  ])("%s may import %s", (from, to) => expect(objection(from, to)).toBeUndefined())

  it("a circle is found, wherever one enters it", () => {
    const line = [{ from: "a", to: "b" }, { from: "b", to: "c" }, { from: "a", to: "c" }]
    expect(findCycle(line)).toBeUndefined()
    expect(findCycle([...line, { from: "c", to: "b" }])).toEqual(["b", "c", "b"])
  })
})

describe("src", () => {
  it("imports what it may, and nothing else", () => {
    const imports = allImports()
    expect(imports.length).toBeGreaterThan(200)
    expect(imports.flatMap(({ from, to }) => (objection(from, to) === undefined ? [] : [`${from} imports ${to}: ${objection(from, to)}`]))).toEqual([])
  })

  it("has no circles of imports, those of types included", () => {
    expect(findCycle(allImports())).toBeUndefined()
  })

  it("exists where it imports", () => {
    const files = new Set(filesOf("src"))
    expect(allImports().filter(({ to }) => !to.startsWith("node:") && !files.has(to))).toEqual([])
  })
})

it("the rooms are those of the design; beside them are index.ts, and options.ts, which every room may import", () => {
  const names = readdirSync(resolve(ROOT, "src")).sort()
  expect(names).toEqual(["backing", "index.ts", "options.ts", "pci", "saved-state.ts", "virtio", "vmm"])
})

it.each(["src", "test"])("every file under %s begins by saying what it is for", (folder) => {
  const silent = filesOf(folder).filter((file) => !readFileSync(resolve(ROOT, folder, file), "utf8").replace(/^#!.*\n/, "").startsWith("/**"))
  expect(silent).toEqual([])
})
