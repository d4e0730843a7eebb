/** What a change of the whole image (a snapshot, another size) needs of the image: its parts, and the switch to new ones. */
import type { ImageFile } from "../../image-file.ts"
import type { Geometry } from "../format/geometry.ts"
import type { Qcow2Header } from "../format/header.ts"
import type { KnownTables, WritingParts } from "../image-parts.ts"
import type { ClusterFile } from "../metadata/cluster-file.ts"
import type { HeaderTables } from "../metadata/header-store.ts"
import type { ClusterRun } from "../metadata/l2-view.ts"
import type { Mapping } from "../metadata/mapping.ts"
import type { Reader } from "../reader.ts"

/** New tables, all on stable storage, and what comes with them. */
export interface Switch {
  readonly tables: HeaderTables
  /** The content of these tables. */
  readonly known: KnownTables
  /** Clusters that nothing refers to once the header names the new tables: each loses one reference. */
  readonly left: readonly ClusterRun[]
  /** Clusters that the new refcounts say are free: their space may go back to the host. */
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
  /** Brings the switch to disk by one write, and takes the image over as it is then. After an error everything is as before. */
  switchTo(change: Switch): void
  /** Takes the disk for one of `size` bytes, in memory: the header keeps the size it has. */
  setSize(size: number): void
  /** Brings the size to disk. After an error the header counts as it was. */
  storeSize(size: number): void
}
