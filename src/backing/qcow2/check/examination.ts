/** Examination: counts all references of an image, and compares them with the stored refcounts. Checks and repairs start with one. */
import type { ImageFile } from "../../image-file.ts"
import { type CheckedImage, readCheckedImage } from "./checked-image.ts"
import { ClusterSet } from "./cluster-counts.ts"
import { Findings } from "./findings.ts"
import { ReferenceCounter } from "./references.ts"
import { StoredRefcounts } from "./stored-refcounts.ts"

export interface Examination {
  readonly image: CheckedImage
  readonly findings: Findings
  readonly references: ReferenceCounter
  readonly refcounts: StoredRefcounts
  /** Clusters whose stored refcount is exactly one. */
  readonly ones: ClusterSet
  /** End of the last cluster in use, in bytes. */
  readonly imageEndOffset: number
  /** Some used cluster has no refcount block for its refcount. */
  readonly needsRebuild: boolean
}

/**
 * Examines an image; writes nothing.
 * @throws BackingError if the file is not a qcow2 image or has an unknown feature, and for I/O errors
 */
export function examine(file: ImageFile): Examination {
  const image = readCheckedImage(file)
  const findings = new Findings()
  const refcounts = new StoredRefcounts(image, findings)
  const ones = new ClusterSet()
  refcounts.collectOnes(ones)
  const references = new ReferenceCounter(image, ones, findings)
  references.countAll()
  references.countRefcountTable()
  refcounts.countReferences(references, references.counts)

  const { clusterSize } = image.geometry
  const highest = refcounts.forEachMismatch(references.counts, (cluster, stored, count) => {
    const message = `cluster ${cluster} at byte ${cluster * clusterSize} has refcount ${stored} and ${inReferences(count)}`
    findings.add(stored > count ? "leak" : "refcount", message, cluster * clusterSize)
  })
  let uncovered = false
  refcounts.forEachUncovered(references.counts, (cluster, count) => {
    uncovered = true
    findings.add(
      "refcount",
      `cluster ${cluster} at byte ${cluster * clusterSize} has no refcount block and ${inReferences(count)}`,
      cluster * clusterSize,
    )
  })
  return {
    image,
    findings,
    references,
    refcounts,
    ones,
    imageEndOffset: (highest + 1) * clusterSize,
    needsRebuild: uncovered || refcounts.broken,
  }
}

const inReferences = (count: number): string => (count === 1 ? "1 reference" : `${count} references`)
