/** Preallocates a part of the disk (QC-RSZ-06): allocates every cluster. */
import type { GuestData } from "../guest-data.ts"
import type { ClusterFile } from "../metadata/cluster-file.ts"
import type { CachedTable } from "../metadata/table-cache.ts"
import type { WritableImage } from "../snapshots/whole-image.ts"

export type Preallocation = "off" | "metadata" | "falloc" | "full"

export interface PreallocatedRange {
  /** Guest bytes. */
  readonly from: number
  readonly to: number
  readonly mode: Preallocation
}

/** Bytes to allocate and zero at a time. */
const PIECE = 4 << 20

/** Allocates each unallocated cluster of the range, with zeroes as its content. `file` is the file for data. */
export function preallocate(image: WritableImage, file: ClusterFile, { from, to, mode }: PreallocatedRange): void {
  const { mapping, metadataWriter, geometry, reader } = image
  const { clusterSize, l2Entries } = geometry
  const end = Math.ceil(to / clusterSize)
  // The cluster in which the disk ended may show data of the backing image.
  const start = reader.backing === undefined ? Math.floor(from / clusterSize) : Math.ceil(from / clusterSize)
  for (let cluster = start; cluster < end;) {
    metadataWriter.makeRoom()
    const table = mapping.tableForWrite(mapping.tableOf(cluster))
    const index = mapping.indexOf(cluster)
    cluster += placeSome(image, file, { table, index, most: Math.min(l2Entries - index, end - cluster), mode })
  }
}

interface Stretch {
  readonly table: CachedTable
  readonly index: number
  readonly most: number
  readonly mode: Preallocation
}

/** Allocates clusters of one table from `index` on. Returns the number of entries that are done. */
function placeSome(
  { mapping, dataClusters, geometry, reader }: WritableImage,
  file: ClusterFile,
  { table, index, most, mode }: Stretch,
): number {
  const { clusterSize } = geometry
  const whole = { from: 0, to: geometry.subclusters }
  const isPlaced = (at: number): boolean => mapping.l2.references(table, at) !== undefined
  let count = 0
  if (isPlaced(index)) {
    while (count < most && isPlaced(index + count)) count++
    return count
  }
  const limit = Math.min(most, Math.max(1, PIECE / clusterSize))
  while (count < limit && !isPlaced(index + count)) count++
  const guestCluster = table.l1Index * geometry.l2Entries + index
  const run = dataClusters.allocate(count, guestCluster)
  try {
    const guest = guestCluster * clusterSize
    // An external data file ends with the disk (QC-DF-07).
    const length = Math.min(run.count * clusterSize, geometry.hasDataFile ? geometry.size - guest : Infinity)
    zero(file, reader.data, { offset: run.first * clusterSize, length, guest, mode })
  } catch (error) {
    dataClusters.release(run.first, run.count)
    throw error
  }
  for (let step = 0; step < run.count; step++) mapping.replace(table, index + step, (run.first + step) * clusterSize, whole)
  return run.count
}

interface NewClusters {
  /** Host bytes; `guest` is the guest byte of the first. */
  readonly offset: number
  readonly length: number
  readonly guest: number
  readonly mode: Preallocation
}

/**
 * Makes new clusters zero: by a hole if the file is unused there, by the host, or by writing zeroes. Encrypted zeroes are always written.
 */
function zero(file: ClusterFile, data: GuestData, { offset, length, guest, mode }: NewClusters): void {
  const isHole = data.isUnused(offset)
  const isPlain = data === file
  file.growTo(offset + length)
  if (mode === "metadata" && isHole) return
  if (mode === "falloc" && isPlain && file.zeroRange(offset, length)) return
  data.writeFrom(new Uint8Array(length), 0, length, offset, guest)
}
