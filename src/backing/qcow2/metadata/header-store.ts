/**
 * HeaderStore: the header as it is on disk, and every change of its fields while an image is open or repaired. A crash leaves the old value
 * or the new one: each change is one write inside a sector, or goes through `headerWrites`.
 */
import type { ImageFile } from "../../image-file.ts"
import { setU64, viewOf } from "../../bytes/fields.ts"
import { type Qcow2Header, serialiseHeader } from "../format/header.ts"
import { COVER_TYPE, headerWrites } from "../format/header-rewrite.ts"
import { AUTOCLEAR_BIT, EXTENSION_TYPE, HEADER_FIELD, INCOMPATIBLE_BIT } from "../format/spec.ts"

const DIRTY = 1n << BigInt(INCOMPATIBLE_BIT.DIRTY)
const CORRUPT = 1n << BigInt(INCOMPATIBLE_BIT.CORRUPT)
const BITMAPS = 1n << BigInt(AUTOCLEAR_BIT.BITMAPS)
/** The other autoclear bits of structures that we maintain. */
const KEPT_AUTOCLEAR = 1n << BigInt(AUTOCLEAR_BIT.RAW_EXTERNAL_DATA)

/** The fields from the disk's size to the snapshot table: they are adjacent, in one sector. */
export type HeaderTables = Pick<
  Qcow2Header,
  "size" | "l1Size" | "l1TableOffset" | "refcountTableOffset" | "refcountTableClusters" | "snapshotCount" | "snapshotsOffset"
>

/** The image's file, as the header needs it. Bytes past its end read as zeroes, or leave the buffer unchanged. */
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

  /** Clears the autoclear bits of structures that we do not maintain, before any other write (QC-FEAT-03, QC-BMP-03). */
  clearAutoclear(): void {
    const { extensions, autoclearFeatures } = this.#header
    // Without the extension the bitmaps bit has no meaning (QC-BMP-02).
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

  /** Clears the dirty and corrupt bits, after the repairs are durable (QC-CHK-08). */
  clearMarks(): void {
    const features = this.#header.incompatibleFeatures & ~(DIRTY | CORRUPT)
    if (features === this.#header.incompatibleFeatures) return
    this.#file.sync()
    this.#setIncompatible(features)
  }

  /**
   * Switches to a refcount table that is durable. Offset and size are adjacent, so one write of 12 bytes switches both (QC-WO-06). The
   * caller syncs.
   */
  switchRefcountTable(offset: number, clusters: number): void {
    const pointer = new Uint8Array(12)
    setU64(viewOf(pointer), 0, offset)
    viewOf(pointer).setUint32(8, clusters)
    this.#file.write(pointer, HEADER_FIELD.REFCOUNT_TABLE_OFFSET)
    this.#header = { ...this.#header, refcountTableOffset: offset, refcountTableClusters: clusters }
  }

  /**
   * Writes the size, and the places of tables that are durable, in one write: a crash leaves all old or all new values. The caller syncs,
   * and then calls `adoptTables`. A write that failed may have reached the disk, so it has to be repeated.
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

  /** Notes that the values of `writeTables` are durable. */
  adoptTables(tables: HeaderTables): void {
    this.#header = { ...this.#header, ...tables }
  }

  /**
   * Replaces the whole header, including extensions and the backing file's name. It is durable when this returns. After an error the file
   * has the old or the new header, and the call can be repeated.
   * @throws BackingError `no-space` if it does not fit into a cluster; then nothing has changed (QC-HDR-15)
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
