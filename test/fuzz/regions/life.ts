/** What the guests of a round of the regions fuzzer have in common. */
import type { VirtioBlkOptions } from "../../../src/virtio/blk/config.ts"
import { F } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"

/** Of the disk. */
export const SECTORS = 4096
/** Bytes of a region of RAM. It begins with a ring, then come buffers, tables, the buffers of a big request, and the region's edge. */
export const SPACE = 0x4_0000
export const TABLES = 0x1_0000
export const BIG_BUFFERS = 0x2_0000
export const EDGE = 0x3_f000
/** Bytes that a table takes up at most. */
export const TABLE_BYTES = 0x1600
const HIGH = 2 ** 32

/** What the disks can do: calls into RAM, with several buffers, with one; they answer at once, later, some now; they are slow. */
const STYLES = ["direct", "direct", "views", "vectored", "vectored", "late", "now", "slow"] as const
export type Style = (typeof STYLES)[number]

const POLICIES = ["report", "ignore", "stop"] as const

export interface Life {
  readonly packed: boolean
  /** RAM is in SharedArrayBuffers. */
  readonly shared: boolean
  /** For each queue the index of the region that has its ring. */
  readonly queues: readonly number[]
  /** The same for what the device writes of the ring. */
  readonly usedSpaces: readonly number[]
  /** First addresses of the regions. */
  readonly starts: readonly number[]
  readonly hasEventIdx: boolean
  readonly inOrder: boolean
  readonly features: readonly number[]
  readonly style: Style
  readonly errors: Pick<VirtioBlkOptions, "readErrors" | "writeErrors">
  /** The memory wants to hear what is stored. */
  readonly hasWritten: boolean
  readonly hasObserver: boolean
  /** Descriptors of a ring. */
  readonly ringSize: number
  /** The device times each request. */
  readonly isTimed: boolean
  /** How likely a request is an unusual one. */
  readonly odds: number
}

export function drawLife(rng: Rng): Life {
  const packed = rng.chance(0.5)
  const queues = rng.shuffle([0, 1, 2]).slice(0, rng.between(1, 3))
  // Who is watched leaves the short way.
  const watching = rng.below(100) / 100
  const [hasEventIdx, inOrder] = [rng.chance(0.6), rng.chance(0.3)]
  return {
    packed, hasEventIdx, inOrder, shared: rng.chance(0.3),
    // Regions that touch, that have a gap, that lie across and beyond 4 GiB.
    starts: rng.pick([
      [0, SPACE, 3 * SPACE], [0, SPACE, HIGH - SPACE / 2], [0x10_0000, 0x10_0000 + SPACE, HIGH], [0, HIGH - SPACE, HIGH],
    ]),
    queues, usedSpaces: rng.chance(0.5) ? queues : queues.map(() => rng.below(3)),
    features: [
      F.INDIRECT_DESC, F.CONFIG_WCE, F.DISCARD, F.WRITE_ZEROES, ...(rng.chance(0.92) ? [F.FLUSH] : []),
      ...(hasEventIdx ? [F.EVENT_IDX] : []), ...(inOrder ? [F.IN_ORDER] : []),
    ],
    style: rng.pick(STYLES),
    errors: rng.chance(0.2) ? { readErrors: rng.pick(POLICIES), writeErrors: rng.pick(POLICIES) } : {},
    hasWritten: rng.chance(0.1), hasObserver: watching > 0.9, isTimed: watching > 0.95, odds: rng.pick([0.02, 0.02, 0.1, 0.4]),
    ringSize: rng.pick(packed ? [5, 16, 37, 64] : [16, 64]),
  }
}
