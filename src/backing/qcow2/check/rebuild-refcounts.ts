/**
 * Builds a new refcount table and new blocks from the references, in new clusters at the end of the file. The old ones do not change, and
 * one write switches the header: a crash before it leaves the old image.
 */
import { BackingError } from "../../backing.ts"
import { setU64, viewOf } from "../../bytes/fields.ts"
import type { CheckedImage } from "./checked-image.ts"
import { CLUSTER_USE, type ClusterCounts } from "./cluster-counts.ts"
import type { Examination } from "./examination.ts"
import { keepingTrailer } from "./keeping-trailer.ts"
import { headerGeometry } from "../format/header.ts"
import { refcountCodec } from "../format/refcount-codec.ts"
import { countWithCutOff } from "./references.ts"
import { LIMIT, TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { HeaderStore } from "../metadata/header-store.ts"

/** The place of the new table and blocks. */
interface Layout {
  /** Table indices that get a block, ascending. */
  readonly indices: readonly number[]
  readonly tableClusters: number
  /** The first of the new clusters: the table, then the blocks. */
  readonly firstCluster: number
}

/** Replaces the refcount structure of the image. @throws BackingError `no-space` if it would need a table above the limit */
export function rebuildRefcounts({ image, references, refcounts }: Examination): void {
  // Counted again without the old table and blocks, which will be free.
  const counts = countWithCutOff(image)
  if (!references.complete) {
    // Broken structures may hold further references, so clusters that the old blocks count as used stay used.
    refcounts.forEachMismatch(counts, (cluster, stored, count) => {
      if (stored > count) counts.add(cluster, stored - count, CLUSTER_USE.OTHER)
    })
  }
  const layout = storeStructure(image, counts)
  new HeaderStore(image.file, image.header).switchRefcountTable(layout.firstCluster * image.geometry.clusterSize, layout.tableClusters)
  image.file.sync()
}

/**
 * Changes the refcount width of a consistent image: writes a new table and blocks, and switches to them and the width by one write of the
 * header.
 * @throws BackingError `invalid-argument` for a width that is too small for some refcount; `no-space`
 */
export function changeRefcountWidth(found: Examination, refcountOrder: number): void {
  keepingTrailer(found, () => rebuildWithWidth(found, refcountOrder))
}

function rebuildWithWidth({ image, references }: Examination, refcountOrder: number): void {
  const { file } = image
  if (!references.complete) {
    throw new BackingError("corrupt", "some structure of the image cannot be followed; check and repair it first", { path: file.path })
  }
  const header = { ...image.header, refcountOrder }
  const counts = countWithCutOff(image)
  const geometry = headerGeometry(header)
  counts.forEach((_, count) => {
    if (count <= geometry.refcountMax) return
    const message = `a cluster has ${count} references, too many for refcounts of ${geometry.refcountBits} bits; delete snapshots first`
    throw new BackingError("invalid-argument", message, { path: file.path })
  })
  const layout = storeStructure({ ...image, header, geometry }, counts)
  const refcountTableOffset = layout.firstCluster * geometry.clusterSize
  new HeaderStore(file, image.header).rewrite({ ...header, refcountTableOffset, refcountTableClusters: layout.tableClusters })
}

/** Writes a new table and blocks, which count themselves. Nothing refers to them yet. */
function storeStructure(image: CheckedImage, counts: ClusterCounts): Layout {
  const layout = planLayout(image, counts)
  for (let cluster = 0; cluster < layout.tableClusters + layout.indices.length; cluster++) {
    counts.add(layout.firstCluster + cluster, 1, CLUSTER_USE.OTHER)
  }
  writeStructure(image, counts, layout)
  image.file.sync()
  return layout
}

/** The new clusters need refcounts themselves, which may need more blocks: repeats until no block is added. */
function planLayout(image: CheckedImage, counts: ClusterCounts): Layout {
  const { clusterSize, refcountBlockEntries } = image.geometry
  const firstCluster = Math.max(Math.ceil(image.fileSize / clusterSize), counts.highest + 1)
  const indices = new Set<number>()
  counts.forEach((cluster) => indices.add(Math.floor(cluster / refcountBlockEntries)))
  let tableClusters = 0
  for (let before = -1; before !== indices.size + tableClusters; ) {
    before = indices.size + tableClusters
    const end = firstCluster + tableClusters + indices.size
    for (let index = Math.floor(firstCluster / refcountBlockEntries); index * refcountBlockEntries < end; index++) indices.add(index)
    const highest = Math.floor((Math.max(end, firstCluster + 1) - 1) / refcountBlockEntries)
    tableClusters = Math.ceil(((highest + 1) * TABLE_ENTRY_SIZE) / clusterSize)
    if (tableClusters * clusterSize > LIMIT.REFCOUNT_TABLE_BYTES) {
      const message = `the refcounts cannot be rebuilt: their table for a file of ${image.fileSize} bytes ` +
        `would be larger than ${LIMIT.REFCOUNT_TABLE_BYTES} bytes`
      throw new BackingError("no-space", message, { path: image.file.path })
    }
  }
  return { indices: [...indices].sort((a, b) => a - b), tableClusters, firstCluster }
}

function writeStructure(image: CheckedImage, counts: ClusterCounts, layout: Layout): void {
  const { clusterSize, refcountBlockEntries, refcountOrder, refcountMax } = image.geometry
  const { set } = refcountCodec(refcountOrder)
  const table = new Uint8Array(layout.tableClusters * clusterSize)
  const block = new Uint8Array(clusterSize)
  const view = viewOf(block)
  let offset = (layout.firstCluster + layout.tableClusters) * clusterSize
  for (const index of layout.indices) {
    block.fill(0)
    const first = index * refcountBlockEntries
    const count = Math.min(refcountBlockEntries, counts.highest + 1 - first)
    // A count that does not fit is stored as the maximum, and the check will report it again.
    for (let within = 0; within < count; within++) set(view, within, Math.min(refcountMax, counts.get(first + within)))
    image.file.write(block, offset)
    setU64(viewOf(table), index * TABLE_ENTRY_SIZE, offset)
    offset += clusterSize
  }
  image.file.write(table, layout.firstCluster * clusterSize)
}
