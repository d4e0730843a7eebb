/** Extent: the result of a look-up in the mapping. */
import { L2_KIND, type L2Kind } from "../format/entries.ts"

/** A run of guest bytes of one kind, contiguous in the host file if it has host bytes. Callers reuse one object. */
export class Extent {
  kind: L2Kind = L2_KIND.UNALLOCATED
  /** Guest bytes from the queried offset. */
  length = 0
  /** Kinds NORMAL and ZERO_ALLOCATED: host byte of the first guest byte. COMPRESSED: host byte where the stored data begins. */
  host = 0
  /** Kind COMPRESSED: maximum bytes of stored data, and the first guest byte's offset in the cluster. */
  stored = 0
  within = 0
}
