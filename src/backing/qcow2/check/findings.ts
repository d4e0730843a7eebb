/** What a check finds: every finding is counted, the first ones are kept with their words. */

/** How many findings keep their words; later ones are only counted. */
const MAX_KEPT = 1000

/**
 * What is wrong. `leak`: a refcount higher than the references, which wastes space and harms nothing. All others are
 * corruptions, which lose data when the image is written.
 */
export type FindingKind =
  | "leak"
  | "refcount" // lower than the references
  | "refcount-block" // a block, or the table, that cannot be used
  | "copied" // a COPIED flag that does not say whether the refcount is one
  | "compressed-copied" // a COPIED flag on a compressed cluster
  | "reserved-bits"
  | "alignment" // a cluster or table that does not start on a cluster
  | "beyond-end" // refers to a place past the end of the file
  | "subclusters" // a bitmap of an extended L2 entry that contradicts itself or the entry
  | "entry" // an entry that makes no sense otherwise
  | "snapshot"
  | "bitmap"

/** One thing that is wrong with an image. */
export interface Finding {
  readonly kind: FindingKind
  /** One line for people. */
  readonly message: string
  /** Byte in the image file: the entry that is wrong, or the start of the cluster. */
  readonly offset: number
}

/** A bounded list of findings with unbounded counts. */
export class Findings {
  readonly kept: Finding[] = []
  readonly #counts = new Map<FindingKind, number>()
  #total = 0

  add(kind: FindingKind, message: string, offset: number): void {
    this.#counts.set(kind, this.count(kind) + 1)
    this.#total++
    if (this.kept.length < MAX_KEPT) this.kept.push({ kind, message, offset })
  }

  count(kind: FindingKind): number {
    return this.#counts.get(kind) ?? 0
  }

  get leaks(): number {
    return this.count("leak")
  }

  get corruptions(): number {
    return this.#total - this.leaks
  }
}
