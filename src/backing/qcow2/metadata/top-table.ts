/**
 * TopTable: the L1 table or the refcount table, which names the metadata clusters of one kind. The whole table is in memory, in the format
 * of the disk. It can move and grow; the old place stays in use until the header names the new one.
 */
import { viewOf } from "../../bytes/fields.ts"
import type { ClusterFile } from "./cluster-file.ts"
import { DirtyRange } from "./dirty-range.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import type { MetadataMap, MetadataRange } from "./metadata-map.ts"

export class TopTable {
  /** For messages. */
  readonly name: string
  readonly #file: ClusterFile
  readonly #dirty = new DirtyRange()
  #offset = 0
  #bytes: Uint8Array
  #view: DataView
  /** The content is on disk at `#offset`, except for the dirty bytes. */
  #isPlaced = true
  /** Places that the header on disk may still name. */
  #formerPlaces: MetadataRange[] = []
  #isChecked = false

  /** Reads the table, or keeps `content` if that is given. @throws BackingError what reading throws */
  constructor(file: ClusterFile, place: MetadataRange, content?: Uint8Array) {
    this.name = place.name
    this.#file = file
    this.#offset = place.offset
    this.#bytes = content ?? new Uint8Array(place.length)
    this.#view = viewOf(this.#bytes)
    if (place.length > 0 && content === undefined) file.read(this.#bytes, place.offset)
  }

  /** Its place in the file. */
  get place(): MetadataRange {
    return { offset: this.#offset, length: this.#bytes.length, name: this.name }
  }

  /** Byte of the file where entry `index` begins. */
  offsetOf(index: number): number {
    return this.#offset + index * TABLE_ENTRY_SIZE
  }

  /** A copy of its content. */
  bytes(): Uint8Array {
    return this.#bytes.slice()
  }

  get entryCount(): number {
    return this.#bytes.length / TABLE_ENTRY_SIZE
  }

  /** The upper half of entry `index`; 0 beyond the end. */
  hi(index: number): number {
    return index < this.entryCount ? this.#view.getUint32(index * TABLE_ENTRY_SIZE) : 0
  }

  /** The lower half of entry `index`; 0 beyond the end. */
  lo(index: number): number {
    return index < this.entryCount ? this.#view.getUint32(index * TABLE_ENTRY_SIZE + 4) : 0
  }

  /** How many entries from `index` on are 0, up to `most`. All beyond the end are. */
  emptyEntries(index: number, most: number): number {
    const left = Math.min(most, this.entryCount - index)
    let count = 0
    while (count < left && this.#isZero((index + count) * TABLE_ENTRY_SIZE)) count++
    return count < left ? count : most
  }

  #isZero(at: number): boolean {
    return this.#view.getUint32(at) === 0 && this.#view.getUint32(at + 4) === 0
  }

  /** Sets entry `index` in memory. Call `prepareChange` first. */
  set(index: number, hi: number, lo: number): void {
    const at = index * TABLE_ENTRY_SIZE
    this.#view.setUint32(at, hi)
    this.#view.setUint32(at + 4, lo)
    this.#dirty.add(at, at + TABLE_ENTRY_SIZE)
  }

  /** Call before a change: refuses a table with other metadata inside. @throws CorruptMetadata */
  prepareChange(metadata: MetadataMap): void {
    if (this.#isChecked) return
    const other = metadata.findWithin(this.place)
    if (other !== undefined) throw this.#file.corrupt(`${this.name} at byte ${this.#offset} holds ${other}`, this.#offset)
    this.#isChecked = true
  }

  /** Moves the table to `offset`, where `length` bytes are free, and extends it to that length; new entries are 0. */
  move(offset: number, length: number): void {
    this.#formerPlaces.push(this.place)
    const bytes = new Uint8Array(length)
    bytes.set(this.#bytes)
    this.#bytes = bytes
    this.#view = viewOf(bytes)
    this.#offset = offset
    this.#isPlaced = false
  }

  /** Writes a table that has moved to its new place, which nothing on disk refers to yet. */
  storeMoved(): void {
    if (!this.#isPlaced) this.#file.write(this.#bytes, this.#offset)
  }

  /** Notes that the table of `storeMoved` is durable. */
  placed(): void {
    if (this.#isPlaced) return
    this.#isPlaced = true
    this.#dirty.clear()
  }

  /** The header on disk may still name a former place of the table. */
  get isPointerStale(): boolean {
    return this.#formerPlaces.length > 0
  }

  get isDirty(): boolean {
    return !this.#dirty.isEmpty
  }

  /** Writes the dirty entries. */
  store(): void {
    const { from, to } = this.#dirty
    if (from < to) this.#file.write(this.#bytes.subarray(from, to), this.#offset + from)
  }

  /** Notes that the entries are durable, and that the header on disk names this place. Returns the former places, to be freed. */
  stored(): readonly MetadataRange[] {
    this.#dirty.clear()
    const left = this.#formerPlaces
    this.#formerPlaces = []
    return left
  }
}
