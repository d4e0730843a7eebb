/** checkQcow2: is a qcow2 image consistent? The result says what `qemu-img check` would, with the same exit codes. */
import type { ImageFile } from "../../image-file.ts"
import { type Examination, examine } from "./examination.ts"
import type { Finding } from "./findings.ts"
import { hasFeature } from "../format/header.ts"
import { INCOMPATIBLE_BIT, SECTOR_SIZE } from "../format/spec.ts"

/** What a check or a repair found. */
export interface CheckResult {
  /** As `qemu-img check` exits: 0 clean, 2 corruptions, 3 leaks only. (Its 1, "could not check", is a thrown `BackingError` here.) */
  readonly exitCode: 0 | 2 | 3
  /** Whether the image was not closed cleanly (QC-FEAT-04): its refcounts may be behind, and opening it for writing repairs them. */
  readonly dirty: boolean
  /** Found, and still there after a repair. A corruption endangers data; a leak only wastes space. */
  readonly corruptions: number
  readonly leaks: number
  /** Fixed by a repair; 0 after a check. */
  readonly corruptionsFixed: number
  readonly leaksFixed: number
  /** The first findings in words; at most 1000. `corruptions` and `leaks` count all of them. */
  readonly findings: readonly Finding[]
  /** Bytes: where the last cluster in use ends. */
  readonly imageEndOffset: number
  /** Guest clusters of the disk; those with a place in the file; of these, those not behind their neighbour; and the compressed ones. */
  readonly totalClusters: number
  readonly allocatedClusters: number
  readonly fragmentedClusters: number
  readonly compressedClusters: number
}

/**
 * Checks the image in `file`: reads all metadata, writes nothing, and does not look at backing files. Memory and time are bounded by
 * the size of the file.
 * @throws BackingError when the image cannot be checked
 */
export function checkQcow2(file: ImageFile): CheckResult {
  return checkResult(examine(file))
}

/** The result of an examination; `before` is the one from before a repair. */
export function checkResult(examination: Examination, before: Examination = examination): CheckResult {
  const { findings, references, image } = examination
  return {
    exitCode: findings.corruptions > 0 ? 2 : findings.leaks > 0 ? 3 : 0,
    dirty: hasFeature(image.header.incompatibleFeatures, INCOMPATIBLE_BIT.DIRTY),
    corruptions: findings.corruptions,
    leaks: findings.leaks,
    corruptionsFixed: Math.max(0, before.findings.corruptions - findings.corruptions),
    leaksFixed: Math.max(0, before.findings.leaks - findings.leaks),
    findings: findings.kept,
    imageEndOffset: examination.imageEndOffset,
    // A part of a sector at the end of the disk is out of the guest's reach.
    totalClusters: Math.ceil((Math.floor(image.header.size / SECTOR_SIZE) * SECTOR_SIZE) / image.geometry.clusterSize),
    ...references.statistics,
  }
}
