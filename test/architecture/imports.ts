/** Who imports whom under src, and who must not. Paths are relative to src. */
import { readdirSync, readFileSync } from "node:fs"
import { posix, resolve } from "node:path"

export const ROOT = resolve(import.meta.dirname, "../..")

export interface Import {
  readonly from: string
  readonly to: string
}

/** Files beside the rooms that every room may import. */
const FOR_ALL: readonly string[] = ["options.ts", "saved-state.ts", "disposing.ts", "turns.ts"]

/** Which files may use modules of Node, and which of them: the rest also runs in a browser or a worker. */
const NODE_MODULES: readonly (readonly [file: RegExp, modules: readonly string[]])[] = [
  [/^backing\/host\//, ["node:child_process", "node:crypto", "node:fs", "node:os", "node:path", "node:process", "node:zlib"]],
  [/^backing\/nbd\//, ["node:net", "node:tls"]],
  [/^vmm\/cli\//, ["node:crypto", "node:fs", "node:os", "node:path", "node:process", "node:url", "node:util"]],
]

/**
 * The layers of each room, from the bottom up: a file imports from its own layer and from lower ones. Neighbours in a layer do not know
 * each other.
 */
const LAYERS: readonly (readonly (readonly RegExp[])[])[] = [
  [
    [/^backing\/zoned\/contract\.ts$/],
    [/^backing\/(backing|image-file|read-only-file|async-image-file|signatures)\.ts$/],
    [/^backing\/bytes\//],
    [/^backing\/luks\//],
    [/^backing\/raw\.ts$/],
    [/^backing\/zeroes\//],
    [/^backing\/decompression\/[^/]+$/],
    [/^backing\/decompression\/zstd\//, /^backing\/decompression\/inflate\//],
    [/^backing\/qcow2\/format\//],
    [/^backing\/qcow2\/metadata\//],
    [/^backing\/qcow2\/(?!check\/|open\.ts)/],
    [/^backing\/qcow2\/check\//],
    [/^backing\/qcow2\/open\.ts$/],
    [/^backing\/zoned\/(?!contract)/],
    [/^backing\/(memory|memory-file|sparse-memory|read-only-file|backing-name|link-error|image-chain)\.ts$/],
    [/^backing\/host\//, /^backing\/paging\//, /^backing\/sources\//, /^backing\/nbd\//],
    [/^backing\/[^/]+$/],
    [/^backing\/operations\//],
  ],
  [[/^virtio\/(spec|guest-memory|state)\.ts$/], [/^virtio\/queue\//], [/^virtio\/[^/]+$/], [/^virtio\/legacy\//], [
    /^virtio\/blk\//, /^virtio\/(pci|mmio)\//,
  ]],
  [
    [/^vmm\/driver\/[^/]+$/],
    [/^vmm\/driver\/pci\//],
    [/^vmm\/driver\/virtio\//],
    [/^vmm\/driver\/block\//],
    [/^vmm\/[^/]+$/],
    [/^vmm\/v86\//, /^vmm\/cli\//],
  ],
]

/** TypeScript files below `folder`, relative to it. */
export function filesOf(folder: string): string[] {
  return readdirSync(resolve(ROOT, folder), { recursive: true, encoding: "utf8" })
    .map((name) => name.replaceAll("\\", "/"))
    .filter((name) => name.endsWith(".ts"))
    .sort()
}

/** What a file imports, or re-exports, as it is written there. Types count: who names another's types knows it. */
export function importsOf(source: string): string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "")
  const found = [
    ...code.matchAll(/^\s*(?:import|export)\b[^"'`;=]*?\bfrom\s*["']([^"']+)["']/gm),
    ...code.matchAll(/^\s*import\s*["']([^"']+)["']/gm),
    ...code.matchAll(/\bimport\(\s*["']([^"']+)["']/g),
  ]
  return found.map(([, specifier = ""]) => specifier)
}

export function allImports(): Import[] {
  return filesOf("src").flatMap((from) =>
    importsOf(readFileSync(resolve(ROOT, "src", from), "utf8")).map((specifier) => ({
      from, to: specifier.startsWith(".") ? posix.join(posix.dirname(from), specifier) : specifier,
    })),
  )
}

/** Why `from` must not import `to`; undefined when it may. */
export function objection(from: string, to: string): string | undefined {
  if (to.startsWith("node:")) {
    const isAllowed = NODE_MODULES.some(([file, modules]) => file.test(from) && modules.includes(to))
    return isAllowed ? undefined : "this file has to run without Node"
  }
  if (!to.endsWith(".ts")) return "it is neither a file of ours with its extension nor a module of Node, and there are no dependencies"
  if (to.startsWith("..")) return "src imports nothing from outside of it"
  if (from === "index.ts" || from === "browser.ts" || FOR_ALL.includes(to)) return undefined
  if (FOR_ALL.includes(from)) return "it imports nothing, so that every room may import it"
  if (to === "index.ts") return "index.ts is for programs outside"
  return roomObjection(from, to) ?? qcow2Objection(from, to) ?? layerObjection(from, to)
}

function roomObjection(from: string, to: string): string | undefined {
  const [room = "", target = ""] = [from, to].map((path) => path.slice(0, path.indexOf("/")))
  const isDriver = (path: string): boolean => path.startsWith("vmm/driver/")
  if (isDriver(from)) return isDriver(to) ? undefined : "a guest's driver knows nothing of the device and the machine"
  if (room === target || room === "vmm") return undefined
  if (room === "virtio" && from.startsWith("virtio/blk/") && to === "backing/backing.ts") return undefined
  if (from.startsWith("virtio/pci/") && target === "pci") return undefined
  return `${room} knows nothing of ${target}`
}

/** Inside of qcow2 the words on disk are pure, and what checks an image does not need it open. */
function qcow2Objection(from: string, to: string): string | undefined {
  if (!from.startsWith("backing/qcow2/")) return undefined
  if (!to.startsWith("backing/qcow2/")) {
    const isBeside = /^backing\/(backing|image-file|read-only-file|bytes\/(buffers|fields))\.ts$/.test(to)
    if (isBeside || /^backing\/(decompression|luks)\//.test(to)) return undefined
    // An external data file may have to be what the guest sees: a raw disk.
    if (from === "backing/qcow2/raw-data-file.ts" && to === "backing/raw.ts") return undefined
    return "qcow2 knows only the two contracts beside it, how bytes are read, and what decompresses and decrypts clusters"
  }
  const isPure = /^backing\/qcow2\/(format|check)\//.test(to) || to === "backing/qcow2/metadata/header-store.ts"
  return from.startsWith("backing/qcow2/check/") && !isPure ? "a check does not need an open image" : undefined
}

function layerObjection(from: string, to: string): string | undefined {
  const layersOfRoom = LAYERS.find((layers) => layers.flat().some((layer) => layer.test(from)))
  if (layersOfRoom === undefined) return undefined
  const placeOf = (file: string): readonly [number, RegExp | undefined] => {
    const height = layersOfRoom.findIndex((layer) => layer.some((pattern) => pattern.test(file)))
    return [height, layersOfRoom[height]?.find((pattern) => pattern.test(file))]
  }
  const [[ownHeight, own], [height, other]] = [placeOf(from), placeOf(to)]
  if (height > ownHeight) return "imports go down, and this one goes up (test/architecture/imports.ts lists the layers)"
  return height === ownHeight && own !== other ? "the two are neighbours that do not know each other" : undefined
}

/** A circle of imports, as the files on it, or undefined. */
export function findCycle(imports: readonly Import[]): string[] | undefined {
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
