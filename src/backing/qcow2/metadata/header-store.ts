/**
 * HeaderStore: the header as it is on disk, and every change of its fields while an image is open or repaired. A crash leaves the old value
 * or the new one: each change is one write that stays inside a sector, or a row of writes that ends in such a one.
 */
import type { ImageFile } from "../../image-file.ts"
import { setU64, viewOf } from "../format/bytes.ts"
import { type Qcow2Header, serialiseHeader } from "../format/header.ts"
import { COVER_TYPE, headerWrites } from "../format/header-rewrite.ts"
import { AUTOCLEAR_BIT, EXTENSION_TYPE, HEADER_FIELD, INCOMPATIBLE_BIT } from "../format/spec.ts"

const DIRTY = 1n << BigInt(INCOMPATIBLE_BIT.DIRTY)
const CORRUPT = 1n << BigInt(INCOMPATIBLE_BIT.CORRUPT)
const BITMAPS = 1n << BigInt(AUTOCLEAR_BIT.BITMAPS)
/** The autoclear bits of what this program keeps up, besides. */
const KEPT_AUTOCLEAR = 1n << BigInt(AUTOCLEAR_BIT.RAW_EXTERNAL_DATA)

/** The fields from the disk's size to the snapshot table: they lie side by side, in one sector. */
export type HeaderTables = Pick<
  Qcow2Header,
  "size" | "l1Size" | "l1TableOffset" | "refcountTableOffset" | "refcountTableClusters" | "snapshotCount" | "snapshotsOffset"
>

/** The image's file, as the header needs it. What lies past its end reads as zeroes, or is left as it was in the buffer. */
type HeaderFile = Pick<ImageFile, "path" | "write" | "sync"> & { read(buffer: Uint8Array, offset: number): unknown }

export class HeaderStore {
  readonly #file: HeaderFile
  #header: Qcow2Header

  constructor(file: HeaderFile, header: Qcow2Header) {
    this.#file = file
    this.#header = header
  }

  get header(): Qcow2Header {
    return this.#header
  }

  /**
   * Clears the autoclear bits before anything else is written, but for those of KEPT_AUTOCLEAR: the others vouch for structures that this
   * program does not update (QC-FEAT-03, QC-BMP-03).
   */
  clearAutoclear(): void {
    const { extensions, autoclearFeatures } = this.#header
    // Without its extension the bit says nothing (QC-BMP-02).
    const hasBitmaps = extensions.some(({ type }) => type === EXTENSION_TYPE.BITMAPS)
    const features = autoclearFeatures & (hasBitmaps ? KEPT_AUTOCLEAR | BITMAPS : KEPT_AUTOCLEAR)
    if (this.#header.autoclearFeatures === features) return
    this.#writeFeatures(HEADER_FIELD.AUTOCLEAR_FEATURES, features)
    this.#header = { ...this.#header, autoclearFeatures: features }
  }

  /** Sets the corrupt bit (QC-FEAT-10). Version 2 has none. */
  markCorrupt(): void {
    if (this.#header.version >= 3) this.#setIncompatible(this.#header.incompatibleFeatures | CORRUPT)
  }

  /** Clears the dirty and corrupt bits, after what a repair has written is on stable storage (QC-CHK-08). */
  clearMarks(): void {
    const features = this.#header.incompatibleFeatures & ~(DIRTY | CORRUPT)
    if (features === this.#header.incompatibleFeatures) return
    this.#file.sync()
    this.#setIncompatible(features)
  }

  /**
   * Names a refcount table that is on stable storage. Offset and size lie side by side, so one write of 12 bytes switches both (QC-WO-06).
   * The caller syncs.
   */
  switchRefcountTable(offset: number, clusters: number): void {
    const pointer = new Uint8Array(12)
    setU64(viewOf(pointer), 0, offset)
    viewOf(pointer).setUint32(8, clusters)
    this.#file.write(pointer, HEADER_FIELD.REFCOUNT_TABLE_OFFSET)
    this.#header = { ...this.#header, refcountTableOffset: offset, refcountTableClusters: clusters }
  }

  /**
   * Writes the size and where tables lie that are on stable storage, all by one write: whatever a crash leaves is all old or all new. The
   * caller syncs, and then says which holds by `adoptTables`. A write that fails may have been done: only another one makes sure.
   */
  writeTables(tables: HeaderTables): void {
    const { SIZE, CRYPT_METHOD, L1_SIZE, L1_TABLE_OFFSET, REFCOUNT_TABLE_OFFSET, REFCOUNT_TABLE_CLUSTERS, NB_SNAPSHOTS, SNAPSHOTS_OFFSET } =
      HEADER_FIELD
    const bytes = new Uint8Array(SNAPSHOTS_OFFSET + 8)
    const view = viewOf(bytes)
    setU64(view, SIZE, tables.size)
    view.setUint32(CRYPT_METHOD, this.#header.cryptMethod)
    view.setUint32(L1_SIZE, tables.l1Size)
    setU64(view, L1_TABLE_OFFSET, tables.l1TableOffset)
    setU64(view, REFCOUNT_TABLE_OFFSET, tables.refcountTableOffset)
    view.setUint32(REFCOUNT_TABLE_CLUSTERS, tables.refcountTableClusters)
    view.setUint32(NB_SNAPSHOTS, tables.snapshotCount)
    setU64(view, SNAPSHOTS_OFFSET, tables.snapshotsOffset)
    this.#file.write(bytes.subarray(SIZE), SIZE)
  }

  /** What `writeTables` has written is on stable storage. */
  adoptTables(tables: HeaderTables): void {
    this.#header = { ...this.#header, ...tables }
  }

  /**
   * Puts another header in the place of the whole one: extensions and the backing file's name may be others. It is on stable storage when
   * this returns. After an error the file has the old one or the new one, and the call can be made again.
   * @throws BackingError `no-space` when it does not fit into a cluster, with nothing changed (QC-HDR-15)
   */
  rewrite(header: Qcow2Header): void {
    const next = { ...header, extensions: header.extensions.filter(({ type }) => type !== COVER_TYPE) }
    const bytes = serialiseHeader(next, this.#file.path)
    const current = new Uint8Array(2 ** next.clusterBits)
    this.#file.read(current, 0)
    for (const write of headerWrites(current, bytes)) {
      this.#file.write(write.bytes, write.offset)
      this.#file.sync()
    }
    this.#header = next
  }

  #setIncompatible(features: bigint): void {
    this.#writeFeatures(HEADER_FIELD.INCOMPATIBLE_FEATURES, features)
    this.#header = { ...this.#header, incompatibleFeatures: features }
  }

  #writeFeatures(field: number, features: bigint): void {
    const word = new Uint8Array(8)
    viewOf(word).setBigUint64(0, features)
    this.#file.write(word, field)
    this.#file.sync()
  }
}
