/** Checks and repairs a qcow2 image in a file that is open already: in a page as well as in Node. */
import { checkValue } from "../options.ts"
import { checkImageFile, type ImageFile } from "./image-file.ts"
import { type CheckResult, checkQcow2 } from "./qcow2/check/check.ts"
import { type RepairMode, repairQcow2 } from "./qcow2/check/repair.ts"

const REPAIR_MODES: readonly RepairMode[] = ["leaks", "all"]

/**
 * Checks a qcow2 image: reads all metadata, writes nothing, and does not look at backing files. Memory and time are bounded by the size of
 * the file, which stays open.
 * @throws BackingError for a file that cannot be checked: not a qcow2 image, an unknown feature, an I/O error
 * @throws TypeError for wrong arguments
 */
export function checkImage(image: ImageFile): CheckResult {
  checkImageFile("checkImage", image)
  return checkQcow2(image)
}

/**
 * Repairs a qcow2 image in a file that is open for writing, and checks it again: the result says what was fixed and what is still wrong. A
 * crash in between does no harm. The file stays open.
 * @throws BackingError when it cannot be checked or written; a partial repair does no harm
 * @throws TypeError for wrong arguments
 */
export function repairImage(image: ImageFile, mode: RepairMode): CheckResult {
  checkImageFile("repairImage", image)
  checkRepairMode(mode)
  return repairQcow2(image, mode)
}

/** @throws TypeError */
export function checkRepairMode(mode: RepairMode): void {
  checkValue("repairImage", "mode", mode, REPAIR_MODES)
}
