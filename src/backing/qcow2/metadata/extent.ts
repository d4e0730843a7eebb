/** Extent: what the mapping answers, a run of guest bytes that live in one way. */
import { L2_KIND, type L2Kind } from "../format/entries.ts"

/** A run of guest bytes of one kind, and of contiguous host bytes where it has them. One object is filled again and again. */
export class Extent {
  kind: L2Kind = L2_KIND.UNALLOCATED
  /** Guest bytes from the offset that was asked for. */
  length = 0
  /** Kinds NORMAL and ZERO_ALLOCATED: host byte of the first guest byte. COMPRESSED: host byte where the stored data begins. */
  host = 0
  /** Kind COMPRESSED: most bytes of stored data, and the first guest byte's place in the cluster. */
  stored = 0
  within = 0
}
