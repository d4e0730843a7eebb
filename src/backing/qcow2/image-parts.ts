/**
 * The parts of an open image, made together: from a header, and from the tables that it names, which are read unless they are handed in.
 * A change of the whole image (a snapshot, another size) makes new parts before it switches the header to new tables.
 */
import type { ImageFile } from "../image-file.ts"
import { Allocator } from "./metadata/allocator.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import { CompressedWriter } from "./compressed-writer.ts"
import type { Decompressor } from "./format/compression.ts"
import { hasFeature, headerGeometry, type Qcow2Header } from "./format/header.ts"
import type { Geometry } from "./format/geometry.ts"
import type { SnapshotTable } from "./format/snapshot-table.ts"
import { INCOMPATIBLE_BIT } from "./format/spec.ts"
import type { HeaderStore } from "./metadata/header-store.ts"
import { Mapping } from "./metadata/mapping.ts"
import { mapMetadata } from "./metadata/metadata-regions.ts"
import { MetadataWriter } from "./metadata/metadata-writer.ts"
import { Packer } from "./metadata/packer.ts"
import { type BackingSlot, Reader } from "./reader.ts"
import { Refcounts } from "./metadata/refcounts.ts"
import { TableCache } from "./metadata/table-cache.ts"
import { Writer } from "./writer.ts"
import { Zeroing } from "./zeroing.ts"

/** Refcount blocks cover four times as much as L2 tables of the same size (at 16 bits), and only allocation needs them. */
const REFCOUNT_CACHE_SHARE = 1 / 4

/** What all parts of one image stand on, whatever its tables are. */
export interface PartsBase {
  readonly imageFile: ImageFile
  readonly file: ClusterFile
  readonly header: HeaderStore
  readonly readOnly: boolean
  readonly backing: BackingSlot
  readonly decompressor: Decompressor
  /** Bytes. */
  readonly cacheSize: number
}

/** The content of tables that are on disk as well: with them, making the parts reads nothing. */
export interface KnownTables {
  readonly l1: Uint8Array
  readonly refcountTable: Uint8Array
  readonly snapshots: SnapshotTable
}

/** The parts that only a writable image has. */
export interface WritingParts {
  readonly writer: Writer
  readonly zeroing: Zeroing
  readonly compressedWriter: CompressedWriter
  readonly metadataWriter: MetadataWriter
  readonly allocator: Allocator
  readonly refcounts: Refcounts
}

export interface ImageParts {
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly reader: Reader
  readonly writing: WritingParts | undefined
}

/** What operations beyond those of a disk get of an open image. */
export interface InspectedParts extends Pick<PartsBase, "file" | "header" | "backing">, Pick<ImageParts, "mapping" | "reader"> {}

/** The same of an image that they may change. */
export interface ChangedParts extends InspectedParts, WritingParts {}

/** The parts for an image with this header. @throws BackingError `corrupt` for tables that collide, and what reading throws */
export function makeParts(base: PartsBase, header: Qcow2Header, known?: KnownTables): ImageParts {
  const { file, backing, decompressor, cacheSize } = base
  const geometry = headerGeometry(header)
  const { clusterSize } = geometry
  const l2Cache = new TableCache(file, { clusterSize, capacity: cacheSize * (1 - REFCOUNT_CACHE_SHARE) })
  const shared = { file, geometry }
  const mapping = new Mapping({
    ...shared, cache: l2Cache, l1TableOffset: header.l1TableOffset, l1Size: header.l1Size, content: known?.l1,
  })
  const { compressionType } = header
  const reader = new Reader({ ...shared, data: file, mapping, backing, decompressor, compressionType })
  if (base.readOnly) return { geometry, mapping, reader, writing: undefined }
  const refcountCache = new TableCache(file, { clusterSize, capacity: cacheSize * REFCOUNT_CACHE_SHARE })
  const { refcountTableOffset: tableOffset, refcountTableClusters: tableClusters } = header
  const refcounts = new Refcounts({ ...shared, cache: refcountCache, tableOffset, tableClusters, content: known?.refcountTable })
  const metadata = mapMetadata({ file: base.imageFile, header, geometry, mapping, refcounts, snapshots: known?.snapshots })
  refcounts.refuseSharedBlocks()
  refcounts.protect(metadata)
  const allocator = new Allocator({ ...shared, refcounts })
  mapping.makeWritable({ allocator, refcounts, metadata })
  const metadataWriter = new MetadataWriter({ ...shared, header: base.header, mapping, refcounts, allocator, l2Cache, refcountCache })
  const writer = new Writer({ ...shared, data: reader.data, mapping, reader, allocator, metadata, metadataWriter })
  const zeroing = new Zeroing({ geometry, mapping, writer, metadataWriter, reader })
  const packer = new Packer({ geometry, allocator, refcounts })
  const hasDataFile = hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE)
  const compressedWriter = new CompressedWriter({
    ...shared, mapping, reader, writer, metadataWriter, packer, decompressor, compressionType, hasDataFile,
  })
  return { geometry, mapping, reader, writing: { writer, zeroing, compressedWriter, metadataWriter, allocator, refcounts } }
}
