/** Findings: the findings of a check. Counts all of them, and keeps the messages of the first ones. */

/** Maximum number of findings with messages. Later ones are only counted. */
const MAX_KEPT = 1000

/**
 * The kind of a fault. `leak`: a refcount higher than the number of references, which only wastes space. All others are corruptions:
 * writing to the image may destroy data.
 */
export type FindingKind =
  | "leak"
  | "refcount" // lower than the references
  | "refcount-block" // a block, or the table, that cannot be used
  | "copied" // a COPIED flag that disagrees with the refcount
  | "compressed-copied" // a COPIED flag on a compressed cluster
  | "reserved-bits"
  | "alignment" // a cluster or table that does not start at a cluster boundary
  | "beyond-end" // refers to a place past the end of the file
  | "subclusters" // a bitmap of an extended L2 entry that contradicts itself or the entry
  | "entry" // any other invalid entry
  | "overlap" // two structures that are changed in place share a cluster
  | "snapshot"
  | "bitmap"

/** One fault of an image. */
export interface Finding {
  readonly kind: FindingKind
  /** One line for people. */
  readonly message: string
  /** Byte in the image file: the invalid entry, or the start of the cluster. */
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
