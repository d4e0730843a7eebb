/** What an image has besides when it is open for writing, wired: allocation, metadata on their way to the file, and who changes them. */
import type { ImageFile } from "../image-file.ts"
import type { Geometry } from "./format/geometry.ts"
import { Allocator } from "./metadata/allocator.ts"
import type { ClusterFile } from "./metadata/cluster-file.ts"
import type { HeaderStore } from "./metadata/header-store.ts"
import type { Mapping } from "./metadata/mapping.ts"
import { mapMetadata } from "./metadata/metadata-regions.ts"
import { MetadataWriter } from "./metadata/metadata-writer.ts"
import { Refcounts } from "./metadata/refcounts.ts"
import { TableCache } from "./metadata/table-cache.ts"
import type { Reader } from "./reader.ts"
import { Writer } from "./writer.ts"
import { Zeroing } from "./zeroing.ts"

/** The parts that only a writable image has. */
export interface WritingParts {
  readonly writer: Writer
  readonly zeroing: Zeroing
  readonly metadataWriter: MetadataWriter
}

export interface WritingOptions {
  readonly imageFile: ImageFile
  readonly file: ClusterFile
  readonly header: HeaderStore
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly reader: Reader
  readonly l2Cache: TableCache
  /** Bytes for cached refcount blocks. */
  readonly refcountCacheSize: number
}

/** Everything that can refuse the image comes first; then its first write, which clears feature bits that are not kept up here. */
export function makeWritable(options: WritingOptions): WritingParts {
  const { imageFile, file, header, geometry, mapping, reader, l2Cache } = options
  const { refcountTableOffset: tableOffset, refcountTableClusters: tableClusters } = header.header
  const refcountCache = new TableCache(file, { clusterSize: geometry.clusterSize, capacity: options.refcountCacheSize })
  const refcounts = new Refcounts({ file, geometry, cache: refcountCache, tableOffset, tableClusters })
  const metadata = mapMetadata({ file: imageFile, header: header.header, geometry, mapping, refcounts })
  refcounts.refuseSharedBlocks()
  refcounts.protect(metadata)
  const allocator = new Allocator({ file, geometry, refcounts })
  mapping.makeWritable({ allocator, refcounts, metadata })
  const metadataWriter = new MetadataWriter({ file, geometry, header, mapping, refcounts, allocator, l2Cache, refcountCache })
  const writer = new Writer({ file, data: reader.data, geometry, mapping, reader, allocator, metadata, metadataWriter })
  const zeroing = new Zeroing({ geometry, mapping, writer, metadataWriter, backingEnd: reader.backingEnd })
  header.clearAutoclear()
  return { writer, zeroing, metadataWriter }
}
