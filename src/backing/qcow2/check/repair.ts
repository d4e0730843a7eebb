/** repairQcow2: makes a qcow2 image consistent again, in an order that a crash at any point cannot make worse. */
import { BackingError } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import { type CheckResult, checkResult } from "./check.ts"
import { type Examination, examine } from "./examination.ts"
import { fixSnapshots } from "./fix-snapshots.ts"
import { fixEntries } from "./fix-entries.ts"
import { rebuildRefcounts } from "./rebuild-refcounts.ts"
import { keepingTrailer } from "./keeping-trailer.ts"
import { HeaderStore } from "../metadata/header-store.ts"

/**
 * What a repair may change. "leaks": lowers refcounts that are too high, and COPIED flags once all refcounts are right. "all": also
 * raises refcounts, rebuilds the refcount structure where its blocks are unusable, and corrects flags and reserved bits.
 */
export type RepairMode = "leaks" | "all"

/**
 * Repairs the image in `file`, and checks it again: the result says what was fixed and what is still wrong. When no corruption is left,
 * the dirty and corrupt bits are cleared. Leaks are kept while something that may hold references cannot be followed, and in mode "leaks"
 * while a refcount block cannot be trusted.
 * @throws BackingError when the image cannot be checked or written; what was done until then does no harm
 */
export function repairQcow2(file: ImageFile, mode: RepairMode): CheckResult {
  if (file.readOnly) throw new BackingError("read-only", "cannot repair an image that is open read-only", { path: file.path })
  const before = examine(file)
  return keepingTrailer(before, () => repairFrom(before, mode))
}

function repairFrom(before: Examination, mode: RepairMode): CheckResult {
  const { file } = before.image
  let now = mode === "all" && fixSnapshots(before) ? examine(file) : before
  // Corrected entries may let references be followed that were out of reach in the first round.
  for (let round = 0; round < 2 && (now.findings.corruptions > 0 || now.findings.leaks > 0); round++) now = repairRound(now, mode)
  if (now.findings.corruptions === 0) new HeaderStore(file, now.image.header).clearMarks()
  return checkResult(now, before)
}

/** Refcounts first, on the disk before any COPIED flag is set because of them. Returns what is found afterwards. */
function repairRound(found: Examination, mode: RepairMode): Examination {
  const { file } = found.image
  if (mode === "all" && found.needsRebuild) rebuildRefcounts(found)
  else storeRefcounts(found, mode)
  file.sync()
  const counted = examine(file)
  const onlyFlags = counted.findings.leaks === 0 && counted.findings.corruptions === counted.findings.count("copied")
  if (mode === "leaks" && !onlyFlags) return counted
  fixEntries(counted, mode === "all" ? "all" : "copied")
  file.sync()
  return examine(file)
}

/**
 * Stores the counted references in the blocks that exist. Each refcount stands alone, so a torn write does no harm. Where an entry names
 * something that is not a block, nothing is written: the bytes there may be anything.
 */
function storeRefcounts({ references, refcounts, image }: Examination, mode: RepairMode): void {
  if (refcounts.broken) return
  const { refcountMax } = image.geometry
  refcounts.forEachMismatch(references.counts, (_cluster, stored, count) => {
    if (stored > count) return references.complete ? count : undefined
    return mode === "all" ? Math.min(count, refcountMax) : undefined
  })
}
