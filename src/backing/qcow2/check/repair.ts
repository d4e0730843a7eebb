/** repairQcow2: makes a qcow2 image consistent again, in an order in which a crash at any point does no harm. */
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
 * The changes that a repair may make. "leaks": lowers refcounts that are too high, and then corrects COPIED flags if all refcounts are
 * right. "all": also raises refcounts, rebuilds the refcount table and blocks if they are unusable, and corrects flags and reserved bits.
 */
export type RepairMode = "leaks" | "all"

/**
 * Repairs the image in `file`, and checks it again: the result has the fixed and the remaining faults. If no corruption is left, clears the
 * dirty and corrupt bits. Leaks stay while a broken structure may hold references, and in mode "leaks" while a refcount block is unusable.
 * @throws BackingError if the image cannot be checked or written; the changes until then do no harm
 */
export function repairQcow2(file: ImageFile, mode: RepairMode): CheckResult {
  if (file.readOnly) throw new BackingError("read-only", "cannot repair an image that is open read-only", { path: file.path })
  const before = examine(file)
  return keepingTrailer(before, () => repairFrom(before, mode))
}

function repairFrom(before: Examination, mode: RepairMode): CheckResult {
  const { file } = before.image
  let now = mode === "all" && fixSnapshots(before) ? examine(file) : before
  // A second round, because corrected entries may reveal further references.
  for (let round = 0; round < 2 && (now.findings.corruptions > 0 || now.findings.leaks > 0); round++) now = repairRound(now, mode)
  if (now.findings.corruptions === 0) new HeaderStore(file, now.image.header).clearMarks()
  return checkResult(now, before)
}

/** Repairs refcounts first, and syncs them before it sets COPIED flags accordingly. Returns the examination after that. */
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
 * Stores the counted references in the existing blocks. The refcounts are independent of each other, so a torn write does no harm. Writes
 * nothing if an entry names a cluster that is not a block, because that may hold data.
 */
function storeRefcounts({ references, refcounts, image }: Examination, mode: RepairMode): void {
  if (refcounts.broken) return
  const { refcountMax } = image.geometry
  refcounts.forEachMismatch(references.counts, (_cluster, stored, count) => {
    if (stored > count) return references.complete ? count : undefined
    return mode === "all" ? Math.min(count, refcountMax) : undefined
  })
}
