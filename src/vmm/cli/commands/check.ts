/** `vioblk check`: is a qcow2 image consistent, and can it be made so? Exit codes as those of `qemu-img check`. */
import { checkImage, repairImage } from "../../../backing/check.ts"
import { HostFile } from "../../../backing/host/host-file.ts"
import type { CheckResult } from "../../../backing/qcow2/check/check.ts"
import type { RepairMode } from "../../../backing/qcow2/check/repair.ts"
import { probeFormat } from "../../../backing/signatures.ts"
import type { Arguments } from "../arguments.ts"
import { imageOf, type ImageName } from "../image-name.ts"
import { complain, print, printJson } from "../output.ts"

const REPAIR_MODES: readonly RepairMode[] = ["leaks", "all"]

/** The exit code of `qemu-img check` for a format without checks. */
const NOTHING_TO_CHECK = 63

export async function check(given: Arguments): Promise<number> {
  const image = imageOf(given)
  const { path } = image
  const repair = given.choice("repair", REPAIR_MODES)
  const options = { ignoreLocks: given.flag("force-share") }
  if (isRaw(image)) {
    complain(`${path}: a raw image has nothing to check`)
    return NOTHING_TO_CHECK
  }
  const result = repair === undefined ? checkImage(path, options) : repairImage(path, repair, options)
  if (given.json) printJson(resultValues(path, result))
  else if (given.flag("quiet")) for (const { message } of result.findings) complain(`${path}: ${message}`)
  else for (const line of resultLines(result)) print(line)
  return result.exitCode
}

function isRaw({ path, format }: ImageName): boolean {
  if (format !== undefined) return format !== "qcow2"
  const file = new HostFile(path, { readOnly: true })
  try {
    return probeFormat(file) === "raw"
  } finally {
    file.close()
  }
}

/** The values of `qemu-img check --output=json`, which leaves out what is 0; and `findings`, if there are any. */
function resultValues(path: string, result: CheckResult): Readonly<Record<string, unknown>> {
  const counts = {
    "image-end-offset": result.imageEndOffset,
    "total-clusters": result.totalClusters,
    "allocated-clusters": result.allocatedClusters,
    "fragmented-clusters": result.fragmentedClusters,
    "compressed-clusters": result.compressedClusters,
    corruptions: result.corruptions,
    leaks: result.leaks,
    "corruptions-fixed": result.corruptionsFixed,
    "leaks-fixed": result.leaksFixed,
  }
  return {
    filename: path,
    format: "qcow2",
    "check-errors": 0,
    ...Object.fromEntries(Object.entries(counts).filter(([, count]) => count !== 0)),
    ...(result.findings.length > 0 && { findings: result.findings }),
  }
}

function resultLines(result: CheckResult): string[] {
  const {
    corruptions, leaks, corruptionsFixed, leaksFixed, allocatedClusters, totalClusters, fragmentedClusters, compressedClusters,
  } = result
  const percent = (part: number, whole: number) => `${whole === 0 ? "0.00" : ((100 * part) / whole).toFixed(2)}%`
  const listed = result.findings.map(({ kind, message }) => `${kind === "leak" ? "leak" : "ERROR"}: ${message}`)
  const unlisted = corruptions + leaks - result.findings.length
  return [
    ...listed,
    ...(unlisted > 0 ? [`... and ${unlisted} more`] : []),
    ...(corruptionsFixed + leaksFixed > 0 ? [`repaired: ${corruptionsFixed} errors, ${leaksFixed} leaked clusters`] : []),
    ...(corruptions > 0 ? corruptionLines(result) : []),
    ...(leaks > 0 ? [`${leaks} leaked clusters: they waste space and are otherwise harmless`] : []),
    ...(corruptions + leaks === 0 ? ["The image is consistent."] : []),
    `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)} allocated, ` +
      `${percent(fragmentedClusters, allocatedClusters)} fragmented, ${percent(compressedClusters, allocatedClusters)} compressed clusters`,
    `Image end offset: ${result.imageEndOffset}`,
  ]
}

function corruptionLines({ corruptions, dirty, findings }: CheckResult): string[] {
  const errors = corruptions === 1 ? "1 error" : `${corruptions} errors`
  // With the dirty bit set, outdated refcounts are normal.
  if (dirty && findings.every(({ kind }) => kind === "refcount" || kind === "copied" || kind === "leak")) {
    return [`${errors}: the image was not closed cleanly; opening it for writing repairs it, and so does vioblk check --repair all`]
  }
  return [`${errors}: data may be damaged already, and writing to the image may damage more`, "To repair them: vioblk check --repair all"]
}
