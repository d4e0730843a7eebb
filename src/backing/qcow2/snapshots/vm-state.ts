/**
 * VM state: RAM and devices of the machine, which a snapshot may store besides the disk. It is in the snapshot's own tree, above the disk,
 * starting at an L1 entry of its own (QC-SNAP-10).
 */
import { encodeEntry } from "../format/entries.ts"
import { viewOf } from "../../bytes/fields.ts"
import type { Geometry } from "../format/geometry.ts"
import { LIMIT, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { BackingError } from "../../backing.ts"
import type { Rewrite } from "./rewrite.ts"

/** A state to be stored, which is read piece by piece. */
export interface VmStateSource {
  /** Bytes. */
  readonly size: number
  /** Fills `buffer` from byte `offset` of the state. */
  read(buffer: Uint8Array, offset: number): void
}

/** Bytes in memory at a time. */
const PIECE = 1 << 20

/** Index of the first L1 entry of the state, for a disk of `diskSize` bytes. */
export function vmStateIndex(diskSize: number, { l2Coverage }: Geometry): number {
  return Math.ceil(diskSize / l2Coverage)
}

/** Stores the state, and returns the L1 table of its snapshot: `l1`, the active one, plus the entries of the state. */
export function putVmState(rewrite: Rewrite, state: VmStateSource, l1: Uint8Array): Uint8Array {
  const { geometry } = rewrite
  const { clusterSize, l2Entries, l2Coverage } = geometry
  const first = vmStateIndex(geometry.size, geometry)
  const entries = first + Math.ceil(state.size / l2Coverage)
  if (entries * TABLE_ENTRY_SIZE > LIMIT.L1_TABLE_BYTES) {
    const message = `a VM state of ${state.size} bytes does not fit above the disk: the L1 table would pass ${LIMIT.L1_TABLE_BYTES} bytes`
    throw new BackingError("no-space", message, { path: rewrite.file.path })
  }
  const grown = new Uint8Array(Math.max(l1.length, entries * TABLE_ENTRY_SIZE))
  // Without the entries above the disk, which are an old state.
  grown.set(l1.subarray(0, first * TABLE_ENTRY_SIZE))
  for (let index = first; index < entries; index++) {
    const clusters = Math.min(l2Entries, Math.ceil(state.size / clusterSize) - (index - first) * l2Entries)
    const table = new Uint8Array(clusterSize)
    putClusters(rewrite, state, { from: (index - first) * l2Coverage, clusters, guest: first * l2Coverage }, viewOf(table))
    putEntry(viewOf(grown), index, rewrite.put(table))
  }
  return grown
}

function putClusters(
  rewrite: Rewrite,
  state: VmStateSource,
  part: { readonly from: number; readonly clusters: number; readonly guest: number },
  table: DataView,
): void {
  const { clusterSize, extendedL2, l2EntrySize } = rewrite.geometry
  const most = Math.max(1, PIECE / clusterSize)
  for (let done = 0; done < part.clusters;) {
    const { first, count } = rewrite.allocate(Math.min(most, part.clusters - done))
    const bytes = new Uint8Array(count * clusterSize)
    const offset = part.from + done * clusterSize
    state.read(bytes.subarray(0, Math.min(bytes.length, state.size - offset)), offset)
    rewrite.data.writeFrom(bytes, 0, bytes.length, first * clusterSize, part.guest + offset)
    for (let step = 0; step < count; step++) {
      const at = (done + step) * l2EntrySize
      putEntry(table, at / TABLE_ENTRY_SIZE, (first + step) * clusterSize)
      // All subclusters are allocated, and none is marked as zeroes.
      if (extendedL2) table.setUint32(at + TABLE_ENTRY_SIZE + 4, 0xffff_ffff)
    }
    done += count
  }
}

function putEntry(table: DataView, index: number, offset: number): void {
  const { hi, lo } = encodeEntry({ offset, copied: false })
  table.setUint32(index * TABLE_ENTRY_SIZE, hi)
  table.setUint32(index * TABLE_ENTRY_SIZE + 4, lo)
}
