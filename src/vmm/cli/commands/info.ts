/** `vioblk info`: describes an image. Only `--backing-chain` opens backing files. */
import { BackingError } from "../../../backing/backing.ts"
import { backingPath } from "../../../backing/host/backing-path.ts"
import type { Arguments } from "../arguments.ts"
import { formatBytes, formatShortSize } from "../format.ts"
import { type Facts, imageFacts } from "../info/image-facts.ts"
import { snapshotLines } from "../info/snapshot-lines.ts"
import { imageOf, type ImageName } from "../image-name.ts"
import { print, printJson } from "../output.ts"

export async function info(given: Arguments): Promise<number> {
  const image = imageOf(given)
  const isChain = given.flag("backing-chain")
  const ignoreLocks = given.flag("force-share")
  const chain = isChain ? chainFacts(image, ignoreLocks) : [imageFacts(image.path, { ...image, ignoreLocks })]
  if (given.json) {
    printJson(isChain ? chain : chain[0])
    return 0
  }
  if (chain.length > 1) for (const line of [...treeLines(chain), ""]) print(line)
  chain.forEach((facts, index) => {
    for (const line of [...(index === 0 ? [] : [""]), ...factLines(facts)]) print(line)
  })
  return 0
}

/** @throws BackingError if one of the images does not exist, or is in the chain twice */
function chainFacts(top: ImageName, ignoreLocks: boolean): Facts[] {
  const chain: Facts[] = []
  const seen = new Set<string>()
  let { path, format }: { path: string; format: ImageName["format"] } = top
  for (;;) {
    const facts = imageFacts(path, { format, ignoreLocks })
    chain.push(facts)
    const { "backing-filename": name, "backing-filename-format": stated, "full-backing-filename": full = "" } = facts
    if (name === undefined) return chain
    const resolved = backingPath({ name, format: stated, imagePath: path })
    if (seen.has(resolved)) throw new BackingError("corrupt", `its chain of backing files leads to "${full}" twice`, { path: top.path })
    seen.add(resolved)
    path = full.startsWith("file:") ? resolved : full
    format = stated === "raw" || stated === "qcow2" || stated === "luks" ? stated : undefined
  }
}

/** The chain as a tree, the image itself on top. */
function treeLines(chain: readonly Facts[]): string[] {
  return chain.map((facts, depth) => {
    const branch = depth === 0 ? "" : `${"   ".repeat(depth - 1)}└─ `
    const sizes = `${formatBytes(facts["virtual-size"])}, ${formatBytes(facts["actual-size"])} on disk`
    return `${branch}${facts.filename} (${facts.format}, ${sizes})`
  })
}

/** A value with its name, and its members below it. */
function valueLines(name: string, value: unknown, depth = 1): string[] {
  const indent = "    ".repeat(depth)
  if (typeof value !== "object" || value === null) return [`${indent}${name}: ${String(value)}`]
  const members = Object.entries(value).map(([key, member]) => [
    Array.isArray(value) ? `[${key}]` : key.replaceAll("-", " "), member,
  ] as const)
  return [`${indent}${name}:`, ...members.flatMap(([key, member]) => valueLines(key, member, depth + 1))]
}

function factLines(facts: Facts): string[] {
  const specific = Object.entries(facts["format-specific"]?.data ?? {})
  const { "backing-filename": backing, "full-backing-filename": full } = facts
  return [
    `image: ${facts.filename}`,
    `file format: ${facts.format}`,
    `virtual size: ${formatShortSize(facts["virtual-size"])} (${facts["virtual-size"]} bytes)`,
    `disk size: ${formatShortSize(facts["actual-size"])}`,
    ...(facts.encrypted === true ? ["encrypted: yes"] : []),
    ...(facts["cluster-size"] === undefined ? [] : [`cluster_size: ${facts["cluster-size"]}`]),
    ...(facts["dirty-flag"] ? ["cleanly shut down: no"] : []),
    ...(
      backing === undefined ? [] : [`backing file: ${backing}${full === undefined || full === backing ? "" : ` (actual path: ${full})`}`]
    ),
    ...(facts["backing-filename-format"] === undefined ? [] : [`backing file format: ${facts["backing-filename-format"]}`]),
    ...snapshotLines(facts.snapshots ?? []),
    ...(specific.length === 0 ? [] : ["Format specific information:"]),
    ...specific.flatMap(([name, value]) => valueLines(name.replaceAll("-", " "), value)),
  ]
}
