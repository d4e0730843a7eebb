/** `vioblk check`: is a qcow2 image consistent, and can it be made so? Exit codes as those of `qemu-img check`. */
import { checkImage, repairImage } from "../../backing/check.ts"
import type { CheckResult } from "../../backing/qcow2/check/check.ts"
import type { RepairMode } from "../../backing/qcow2/check/repair.ts"
import { imageArguments, UsageError } from "./arguments.ts"
import { complain, print, printJson } from "./output.ts"

const HELP = `vioblk check [--repair leaks|all] [--json] IMAGE

Counts all references in a qcow2 image and compares them with its refcounts.

      --repair leaks   give back space that nothing uses; changes nothing else
      --repair all     also mend what endangers data

Exit code: 0 consistent, 1 it could not be checked, 2 corrupt, 3 leaks only.`

const REPAIR_MODES: readonly RepairMode[] = ["leaks", "all"]

export async function check(args: readonly string[]): Promise<number> {
  try {
    return run(args)
  } catch (error) {
    // 2 would say that the image is corrupt.
    if (!(error instanceof UsageError)) throw error
    complain(`${error.message}; see vioblk check --help`)
    return 1
  }
}

function run(args: readonly string[]): number {
  const given = imageArguments(args, HELP, { repair: REPAIR_MODES })
  if (given === undefined) return 0
  const { path, json, own, format } = given
  if (format === "raw") throw new UsageError("--format raw: a raw image has nothing to check")
  const repair = REPAIR_MODES.find((mode) => mode === own.repair)
  const result = repair === undefined ? checkImage(path) : repairImage(path, repair)
  if (json) printJson({ filename: path, ...result })
  else for (const line of resultLines(result)) print(line)
  return result.exitCode
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
    ...(leaks > 0 ? [`${leaks} leaked clusters: they waste space and do no other harm`] : []),
    ...(corruptions + leaks === 0 ? ["The image is consistent."] : []),
    `${allocatedClusters}/${totalClusters} = ${percent(allocatedClusters, totalClusters)} allocated, ` +
      `${percent(fragmentedClusters, allocatedClusters)} fragmented, ${percent(compressedClusters, allocatedClusters)} compressed clusters`,
    `Image end offset: ${result.imageEndOffset}`,
  ]
}

function corruptionLines({ corruptions, dirty, findings }: CheckResult): string[] {
  const errors = corruptions === 1 ? "1 error" : `${corruptions} errors`
  // With the dirty bit set, refcounts that are behind are what the format expects.
  if (dirty && findings.every(({ kind }) => kind === "refcount" || kind === "copied" || kind === "leak")) {
    return [`${errors}: the image was not closed cleanly; opening it for writing mends that, and so does vioblk check --repair all`]
  }
  return [`${errors}: data may be damaged already, and writing to the image may damage more`, "To mend them: vioblk check --repair all"]
}
