/** checkQcow2: checks whether a qcow2 image is consistent, with the results and exit codes of `qemu-img check`. */
import type { ImageFile } from "../../image-file.ts"
import { type Examination, examine } from "./examination.ts"
import type { Finding } from "./findings.ts"
import { hasFeature } from "../format/header.ts"
import { INCOMPATIBLE_BIT, SECTOR_SIZE } from "../format/spec.ts"

/** The result of a check or a repair. */
export interface CheckResult {
  /** As `qemu-img check` exits: 0 clean, 2 corruptions, 3 leaks only. (Its 1, "could not check", is a thrown `BackingError` here.) */
  readonly exitCode: 0 | 2 | 3
  /** Whether the image was not closed cleanly (QC-FEAT-04): its refcounts may be outdated, and opening it for writing repairs them. */
  readonly dirty: boolean
  /** Number found, or left after a repair. A corruption endangers data; a leak only wastes space. */
  readonly corruptions: number
  readonly leaks: number
  /** Number fixed by a repair; 0 after a check. */
  readonly corruptionsFixed: number
  readonly leaksFixed: number
  /** The first findings, at most 1000. `corruptions` and `leaks` count all of them. */
  readonly findings: readonly Finding[]
  /** End of the last used cluster, in bytes. */
  readonly imageEndOffset: number
  /** Numbers of guest clusters: all; allocated ones; allocated ones that do not follow their neighbour in the file; and compressed ones. */
  readonly totalClusters: number
  readonly allocatedClusters: number
  readonly fragmentedClusters: number
  readonly compressedClusters: number
}

/**
 * Checks the image in `file`: reads all metadata, writes nothing, and ignores backing files. The size of the file bounds memory and time.
 * @throws BackingError if the image cannot be checked
 */
export function checkQcow2(file: ImageFile): CheckResult {
  return checkResult(examine(file))
}

/** The result of an examination. `before` is the examination before a repair. */
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
    // The guest cannot reach an incomplete sector at the end of the disk.
    totalClusters: Math.ceil((Math.floor(image.header.size / SECTOR_SIZE) * SECTOR_SIZE) / image.geometry.clusterSize),
    ...references.statistics,
  }
}
