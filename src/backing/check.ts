/** Checks and repairs qcow2 images by path, in Node; or in a file that is open already, as check-file.ts does. */
import { checkOptions, type Rules } from "../options.ts"
import { BackingError } from "./backing.ts"
import { checkImage as checkFile, checkRepairMode, repairImage as repairFile } from "./check-file.ts"
import { LockedFile, type LockedFileOptions } from "./host/image-lock.ts"
import type { ImageFile } from "./image-file.ts"
import type { CheckResult } from "./qcow2/check/check.ts"
import type { RepairMode } from "./qcow2/check/repair.ts"
import { probeFormat } from "./signatures.ts"

/** Options of `checkImage` and `repairImage`. */
export interface CheckImageOptions {
  /**
   * For a path: check even if somebody else has the image open, and take no locks. Writes during the check may show as errors.
   * Default false.
   */
  readonly ignoreLocks?: boolean
}

const CHECK_IMAGE_RULES: Rules<CheckImageOptions> = { ignoreLocks: "boolean?" }

/**
 * Checks a qcow2 image: reads all metadata, writes nothing, and does not look at backing files. Memory and time are bounded by the size of
 * the file. An image that is open for writing is refused. If somebody opens it for writing later, their writes may show as errors.
 * @param image a path, or a file, which stays open
 * @throws BackingError for an image that cannot be checked: not qcow2, an unknown feature, an I/O error; `busy` if it is open for writing
 * @throws TypeError for wrong arguments
 */
export function checkImage(image: string | ImageFile, options: CheckImageOptions = {}): CheckResult {
  checkOptions("checkImage", options, CHECK_IMAGE_RULES)
  return typeof image === "string" ? withFile(image, { ...options, readOnly: true, lockReadOnly: false }, checkFile) : checkFile(image)
}

/**
 * Repairs a qcow2 image, and checks it again: the result says what was fixed and what is still wrong. A crash in between does no harm.
 * @param image a path, or a file that is open for writing, which stays open
 * @throws BackingError when it cannot be checked or written, `busy` when somebody else has it open; a partial repair does no harm
 * @throws TypeError for wrong arguments
 */
export function repairImage(image: string | ImageFile, mode: RepairMode, options: CheckImageOptions = {}): CheckResult {
  checkOptions("repairImage", options, CHECK_IMAGE_RULES)
  checkRepairMode(mode)
  return typeof image === "string" ? withFile(image, options, (file) => repairFile(file, mode)) : repairFile(image, mode)
}

function withFile<T>(path: string, options: CheckImageOptions & LockedFileOptions, work: (file: ImageFile) => T): T {
  const file = new LockedFile(path, options)
  try {
    file.claim()
    if (probeFormat(file) === "raw") {
      throw new BackingError("unsupported", "it is not a qcow2 image; a raw one has nothing to check", { path })
    }
    return work(file)
  } finally {
    file.close()
  }
}
