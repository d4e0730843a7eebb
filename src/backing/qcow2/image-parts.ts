/**
 * The parts of an open image, made together from a header and its tables, which are read unless the caller passes them in. A change of the
 * whole image (a snapshot, another size) makes new parts before it switches the header to new tables.
 */
import type { ImageFile } from "../image-file.ts"
import { BitmapStore } from "./bitmaps/bitmap-store.ts"
import { Allocator } from "./metadata/allocator.ts"
import { closeAll, ClusterFile } from "./metadata/cluster-file.ts"
import { CompressedWriter } from "./compressed-writer.ts"
import { type DataClusters, DataFileClusters } from "./metadata/data-clusters.ts"
import { EncryptedData, type ImageCipher } from "./encrypted-data.ts"
import type { Decompressor } from "./format/compression.ts"
import { headerGeometry, isDataFileRaw, type Qcow2Header } from "./format/header.ts"
import type { Geometry } from "./format/geometry.ts"
import type { SnapshotTable } from "./format/snapshot-table.ts"
import { KeptPlaces } from "./kept-places.ts"
import { HeaderStore } from "./metadata/header-store.ts"
import { Mapping } from "./metadata/mapping.ts"
import type { MetadataMap } from "./metadata/metadata-map.ts"
import { mapMetadata } from "./metadata/metadata-regions.ts"
import { MetadataWriter } from "./metadata/metadata-writer.ts"
import type { OverlapCheck } from "./metadata/snapshot-l2-tables.ts"
import { Packer } from "./packer.ts"
import { type BackingDisk, type BackingSlot, Reader } from "./reader.ts"
import { RawDataFile } from "./raw-data-file.ts"
import { Refcounts } from "./metadata/refcounts.ts"
import { TableCache } from "./metadata/table-cache.ts"
import { Trailer } from "./trailer.ts"
import { Writer } from "./writer.ts"
import { Zeroing } from "./zeroing.ts"

/** Refcount blocks cover four times as much as L2 tables of the same size (at 16 bits), and only allocation needs them. */
const REFCOUNT_CACHE_SHARE = 1 / 4

/** An external data file, and its `ClusterFile`. */
export interface ExternalData {
  readonly imageFile: ImageFile
  readonly file: ClusterFile
}

/** What `openQcow2Image` found and checked. */
export interface Qcow2Parts {
  readonly file: ImageFile
  readonly header: Qcow2Header
  readonly readOnly: boolean
  readonly backing: BackingDisk | undefined
  /** Of an encrypted image. */
  readonly cipher: ImageCipher | undefined
  /** Holds the guest's data in place of `file`. */
  readonly dataFile: ImageFile | undefined
  readonly decompressor: Decompressor
  readonly overlapCheck: OverlapCheck
  /** Bytes. */
  readonly cacheSize: number
  /** Discarded clusters keep their places. */
  readonly discardNoUnref: boolean
}

/** The shared base of all parts of one image. It does not change with the tables. */
export interface PartsBase {
  readonly imageFile: ImageFile
  readonly file: ClusterFile
  readonly external: ExternalData | undefined
  /** Of an encrypted image. */
  readonly cipher: ImageCipher | undefined
  readonly header: HeaderStore
  readonly readOnly: boolean
  readonly bitmaps: BitmapStore
  readonly trailer: Trailer
  readonly backing: BackingSlot
  readonly decompressor: Decompressor
  readonly overlapCheck: OverlapCheck
  /** Bytes. */
  readonly cacheSize: number
  readonly discardNoUnref: boolean
}

/** The base for an image that has just been opened. */
export function partsBase(parts: Qcow2Parts): PartsBase {
  const { file: imageFile, dataFile } = parts
  const file = new ClusterFile(imageFile)
  const header = new HeaderStore(file, parts.header)
  const external = dataFile === undefined ? undefined : { imageFile: dataFile, file: new ClusterFile(dataFile) }
  const bitmaps = new BitmapStore(file, header)
  return { ...parts, imageFile, file, external, header, bitmaps, trailer: new Trailer(file), backing: { disk: parts.backing } }
}

/**
 * The first writes to an image that is open for writing: clears the feature bits of structures that we do not maintain, and marks recording
 * bitmaps as in use.
 */
export function beginWriting({ header, bitmaps }: PartsBase, { zeroing }: WritingParts): void {
  header.clearAutoclear()
  bitmaps.begin()
  if (zeroing instanceof RawDataFile) zeroing.fit()
}

/** The last writes: everything that is cached, and the foreign bytes at the end of the file. @throws the first error */
export function finishWriting({ bitmaps }: PartsBase, writing: WritingParts): void {
  const finish = (): void => {
    writing.metadataWriter.finish()
    writing.trailer.settle({ mayGoDown: false })
  }
  closeAll([{ close: () => bitmaps.store(writing) }, { close: finish }])
}

/** The content of tables that are already on disk: with it, making the parts reads nothing. */
export interface KnownTables {
  readonly l1: Uint8Array
  readonly refcountTable: Uint8Array
  readonly snapshots: SnapshotTable
}

/** The parts that only a writable image has. */
export interface WritingParts {
  readonly writer: Writer
  readonly zeroing: Zeroing | RawDataFile
  readonly compressedWriter: CompressedWriter
  readonly metadataWriter: MetadataWriter
  readonly allocator: Allocator
  readonly refcounts: Refcounts
  readonly metadata: MetadataMap
  readonly l2Cache: TableCache
  readonly dataClusters: DataClusters
  /** Foreign bytes at the end of the file: see `Trailer`. */
  readonly trailer: { keep(): void; settle(how: { readonly mayGoDown: boolean }): boolean }
  /** Undefined without `discardNoUnref`. */
  readonly keptPlaces: KeptPlaces | undefined
}

/** The parts that change the tables. They do not depend on the size of the disk. */
type TableWriting = Omit<WritingParts, "writer" | "zeroing" | "compressedWriter">

/** The parts that hold the tables. They do not depend on the size of the disk. */
interface TableParts {
  readonly header: Qcow2Header
  readonly mapping: Mapping
  readonly writing: TableWriting | undefined
}

export interface ImageParts {
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly reader: Reader
  readonly writing: WritingParts | undefined
  /** The same tables as a disk of another size, in bytes. The file does not change. */
  readonly resized: (size: number) => ImageParts
}

/** The parts of an open image that operations beyond those of a disk may read. */
export interface InspectedParts extends Pick<PartsBase, "file" | "header" | "backing">, Pick<ImageParts, "mapping" | "reader"> {}

/** The parts that such operations may change as well. */
export interface ChangedParts extends InspectedParts, WritingParts {}

/**
 * What an open image lends to operations. Made once for each set of parts, because copying so many members on each call takes 6 us
 * (measured).
 */
export interface LentParts {
  readonly inspected: InspectedParts
  /** Undefined for a read-only image. */
  readonly changed: ChangedParts | undefined
}

export function lentParts({ file, header, backing }: PartsBase, { mapping, reader, writing }: ImageParts): LentParts {
  const inspected = { file, header, backing, mapping, reader }
  return { inspected, changed: writing && { ...inspected, ...writing } }
}

/** The parts for an image with this header. @throws BackingError `corrupt` for overlapping tables, and errors of reading */
export function makeParts(base: PartsBase, header: Qcow2Header, known?: KnownTables): ImageParts {
  return makeDisk(base, makeTables(base, header, known), header.size)
}

function makeTables(base: PartsBase, header: Qcow2Header, known: KnownTables | undefined): TableParts {
  const { file, cacheSize } = base
  const geometry = headerGeometry(header)
  const { clusterSize } = geometry
  const l2Cache = new TableCache(file, { clusterSize, capacity: cacheSize * (1 - REFCOUNT_CACHE_SHARE) })
  const mapping = new Mapping({
    file, geometry, cache: l2Cache, l1TableOffset: header.l1TableOffset, l1Size: header.l1Size, content: known?.l1,
  })
  if (base.readOnly) return { header, mapping, writing: undefined }
  return { header, mapping, writing: makeTableWriting(base, { header, geometry, mapping, l2Cache }, known) }
}

/** The parts that look up tables. */
interface LookUp extends Pick<ImageParts, "geometry" | "mapping"> {
  readonly header: Qcow2Header
  readonly l2Cache: TableCache
}

function makeTableWriting(base: PartsBase, { header, geometry, mapping, l2Cache }: LookUp, known: KnownTables | undefined): TableWriting {
  const { imageFile, file, external, overlapCheck, cacheSize } = base
  const shared = { file, geometry }
  const refcountCache = new TableCache(file, { clusterSize: geometry.clusterSize, capacity: cacheSize * REFCOUNT_CACHE_SHARE })
  const { refcountTableOffset: tableOffset, refcountTableClusters: tableClusters } = header
  const refcounts = new Refcounts({ ...shared, cache: refcountCache, tableOffset, tableClusters, content: known?.refcountTable })
  const others = base.bitmaps.ranges
  const { snapshots } = known ?? {}
  const metadata = mapMetadata({ file: imageFile, header, geometry, mapping, refcounts, snapshots, others, overlapCheck })
  refcounts.refuseSharedBlocks()
  refcounts.protect(metadata)
  const allocator = new Allocator({ ...shared, refcounts, prepare: () => trailer.keep() })
  const dataClusters = external === undefined
    ? allocator
    : new DataFileClusters({ file: external.file, geometry, isFree: freeIn(mapping) })
  mapping.makeWritable({ allocator, dataClusters, refcounts, metadata })
  // In an external data file the place of a cluster never changes.
  const keptPlaces = base.discardNoUnref && external === undefined ? new KeptPlaces({ ...shared, mapping, refcounts, metadata }) : undefined
  const metadataWriter = new MetadataWriter({
    ...shared, header: base.header, mapping, refcounts, allocator, dataFile: external?.file, dataClusters, keptPlaces, l2Cache,
    refcountCache,
  })
  const trailerParts = { geometry, mapping, refcounts, metadata, metadataWriter }
  const trailer = {
    keep: () => base.trailer.keep(trailerParts),
    settle: (how: { readonly mayGoDown: boolean }) => base.trailer.settle(trailerParts, how),
  }
  return { metadataWriter, allocator, refcounts, metadata, l2Cache, dataClusters, keptPlaces, trailer }
}

/** The parts that read and write a disk of `size` bytes with these tables. */
function makeDisk(base: PartsBase, tables: TableParts, size: number): ImageParts {
  const { file, external, cipher, backing, decompressor } = base
  const { header, mapping } = tables
  const { compressionType } = header
  const geometry = headerGeometry({ ...header, size })
  const plain = external?.file ?? file
  const data = cipher === undefined ? plain : new EncryptedData(plain, cipher)
  const reader = new Reader({ file, geometry, data, mapping, backing, decompressor, compressionType })
  const disk = { geometry, mapping, reader, resized: (other: number): ImageParts => makeDisk(base, tables, other) }
  return { ...disk, writing: tables.writing === undefined ? undefined : makeDiskWriting(base, disk, header, tables.writing) }
}

function makeDiskWriting(base: PartsBase, disk: Omit<ImageParts, "writing">, header: Qcow2Header, tables: TableWriting): WritingParts {
  const { file, external, cipher, decompressor } = base
  const { geometry, mapping, reader } = disk
  const { metadataWriter, allocator, refcounts, metadata, dataClusters, keptPlaces } = tables
  const shared = { file, geometry, mapping, reader, metadataWriter }
  const writer = new Writer({
    ...shared, data: reader.data, clusters: dataClusters, metadata: external === undefined ? metadata : undefined,
  })
  const zeroing = external !== undefined && isDataFileRaw(header) && cipher === undefined
    ? new RawDataFile(external.imageFile, geometry)
    : new Zeroing({ ...shared, writer, keptPlaces })
  const packer = new Packer({ geometry, allocator, refcounts })
  const { hasDataFile } = geometry
  const { compressionType } = header
  const compressedWriter = new CompressedWriter({ ...shared, writer, packer, allocator, decompressor, compressionType, hasDataFile })
  return { ...tables, writer, zeroing, compressedWriter }
}

/** Tells whether a guest cluster is unallocated in an external data file. */
function freeIn(mapping: Mapping): (cluster: number) => boolean {
  return (cluster) => {
    const table = mapping.table(mapping.tableOf(cluster))
    const index = mapping.indexOf(cluster)
    return table === undefined || (!mapping.l2.isCopied(table, index) && mapping.l2.host(table, index) === 0)
  }
}
