/**
 * HeaderStore: the header as it is on disk, and every change of its fields while an image is open or repaired. Each change is one write
 * that stays inside a sector, so a crash leaves the old value or the new one.
 */
import type { ImageFile } from "../../image-file.ts"
import { setU64, viewOf } from "../format/bytes.ts"
import type { Qcow2Header } from "../format/header.ts"
import { HEADER_FIELD, INCOMPATIBLE_BIT } from "../format/spec.ts"

const DIRTY = 1n << BigInt(INCOMPATIBLE_BIT.DIRTY)
const CORRUPT = 1n << BigInt(INCOMPATIBLE_BIT.CORRUPT)

export class HeaderStore {
  readonly #file: Pick<ImageFile, "write" | "sync">
  #header: Qcow2Header

  constructor(file: Pick<ImageFile, "write" | "sync">, header: Qcow2Header) {
    this.#file = file
    this.#header = header
  }

  get header(): Qcow2Header {
    return this.#header
  }

  /**
   * Clears the autoclear bits before anything else is written: they vouch for structures that this program does not update (QC-FEAT-03,
   * QC-BMP-03).
   */
  clearAutoclear(): void {
    if (this.#header.autoclearFeatures === 0n) return
    this.#writeFeatures(HEADER_FIELD.AUTOCLEAR_FEATURES, 0n)
    this.#header = { ...this.#header, autoclearFeatures: 0n }
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
