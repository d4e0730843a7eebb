/**
 * WholeImage: the interface of an image to changes of the whole image (a snapshot, another size): its parts, and the switch to new ones.
 */
import type { ImageFile } from "../../image-file.ts"
import type { Geometry } from "../format/geometry.ts"
import type { Qcow2Header } from "../format/header.ts"
import type { KnownTables, WritingParts } from "../image-parts.ts"
import type { ClusterFile } from "../metadata/cluster-file.ts"
import type { HeaderTables } from "../metadata/header-store.ts"
import type { ClusterRun } from "../metadata/l2-view.ts"
import type { Mapping } from "../metadata/mapping.ts"
import type { Reader } from "../reader.ts"

/** New tables, all durable, and their consequences. */
export interface Switch {
  readonly tables: HeaderTables
  /** The content of these tables. */
  readonly known: KnownTables
  /** Clusters of the old tables: each loses one reference when the header names the new tables. */
  readonly left: readonly ClusterRun[]
  /** Clusters that are free by the new refcounts: their space may go back to the host. */
  readonly freed: readonly ClusterRun[]
}

export interface WritableImage extends WritingParts {
  readonly geometry: Geometry
  readonly mapping: Mapping
  readonly reader: Reader
}

export interface WholeImage {
  readonly imageFile: ImageFile
  readonly file: ClusterFile
  /** The external data file. */
  readonly dataFile: ClusterFile | undefined
  /** As it is on disk. */
  readonly header: Qcow2Header
  /** @throws BackingError for an image that is closed, read-only or corrupt */
  writable(): WritableImage
  /** Switches to the new tables by one write of the header, and opens the image with them. After an error everything is as before. */
  switchTo(change: Switch): void
  /** Changes the size of the disk in memory only, not in the header. */
  setSize(size: number): void
  /** Stores the size in the header. After an error the old header is valid. */
  storeSize(size: number): void
}
