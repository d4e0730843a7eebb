/**
 * LiveImage: the current parts of an open image. Replaces them when the image changes as a whole, and decides whether it may be written.
 */
import { BackingError } from "../backing.ts"
import type { Qcow2Header } from "./format/header.ts"
import { type ImageParts, makeParts, type PartsBase, type WritingParts } from "./image-parts.ts"
import { attempt, CorruptMetadata } from "./metadata/cluster-file.ts"
import type { HeaderTables } from "./metadata/header-store.ts"
import type { Switch, WholeImage, WritableImage } from "./snapshots/whole-image.ts"

/** The new place of a snapshot's L1 table, for an open view of that snapshot. */
export type MovedTable = Pick<HeaderTables, "l1TableOffset" | "l1Size">

export class LiveImage implements WholeImage {
  readonly imageFile: PartsBase["imageFile"]
  readonly file: PartsBase["file"]
  readonly dataFile: WholeImage["dataFile"]
  /** The image can be written: it is not corrupt, and no header write is outstanding. */
  isReady = true
  /** The fields that the header must get before any other write: a failed switch may have left the old or the new ones on disk. */
  #unsettled: HeaderTables | undefined
  /** Why the image must not be written any more. */
  #corruption: string | undefined
  /** The table that `follow` has to read. */
  #moved: MovedTable | undefined
  readonly #base: PartsBase
  readonly #switched: (parts: ImageParts) => void
  #parts: ImageParts

  /** Makes the parts for an image with this header. Calls `switched` each time they are replaced. @throws as `makeParts` */
  constructor(base: PartsBase, header: Qcow2Header, switched: (parts: ImageParts) => void) {
    this.imageFile = base.imageFile
    this.file = base.file
    this.dataFile = base.external?.file
    this.#base = base
    this.#switched = switched
    this.#parts = makeParts(base, header)
  }

  get parts(): ImageParts {
    return this.#parts
  }

  get header(): Qcow2Header {
    return this.#base.header.header
  }

  get isCorrupt(): boolean {
    return this.#corruption !== undefined
  }

  writable(): WritableImage {
    const { geometry, mapping, reader, writing } = this.#parts
    if (writing === undefined) throw new BackingError("read-only", "the image is open read-only", { path: this.file.path })
    if (!this.isReady) this.makeReady()
    return { geometry, mapping, reader, ...writing }
  }

  /** Makes sure that the current header is on disk. @throws BackingError `corrupt`, and errors of writing */
  makeReady(): void {
    if (this.#corruption !== undefined) {
      const message = `the image is corrupt, so nothing more is written to it: ${this.#corruption}`
      throw new BackingError("corrupt", message, { path: this.file.path })
    }
    if (this.#unsettled !== undefined) {
      this.#base.header.writeTables(this.#unsettled)
      this.file.sync()
    }
    this.#unsettled = undefined
    this.isReady = true
  }

  /** The L1 table of this read-only view has moved; `follow` will read the new one. */
  move(table: MovedTable): void {
    this.#moved = table
  }

  get hasMoved(): boolean {
    return this.#moved !== undefined
  }

  /** @throws errors of reading; then call it again */
  follow(): void {
    const { header } = this.#base
    const next = { ...header.header, ...this.#moved }
    this.#adopt(makeParts(this.#base, next))
    header.adoptTables(next)
    this.#moved = undefined
  }

  setSize(size: number): void {
    this.#adopt(this.#parts.resized(size))
  }

  storeSize(size: number): void {
    this.#store({ ...this.header, size })
  }

  switchTo({ tables, known, left, freed }: Switch): void {
    // Made before the header changes, so that an error leaves the image as it is.
    const parts = makeParts(this.#base, { ...this.header, ...tables }, known)
    this.#store(tables)
    const { allocator } = present(parts.writing)
    allocator.takeOver(present(this.#parts.writing).allocator)
    for (const { first, count } of left) allocator.releaseLater(first, count)
    for (const { first, count } of freed) allocator.puncher.add(first, count)
    this.#adopt(parts)
  }

  #adopt(parts: ImageParts): void {
    this.#parts = parts
    this.#switched(parts)
  }

  #store(tables: HeaderTables): void {
    const { header } = this.#base
    this.#unsettled = header.header
    this.isReady = false
    header.writeTables(tables)
    this.file.sync()
    header.adoptTables(tables)
    this.#unsettled = undefined
    this.isReady = true
  }

  /**
   * Returns `error`. If it reports corrupt metadata of this image, first marks the image corrupt and stops writing to it (QC-FEAT-10).
   * Earlier writes have succeeded for the guest, so they are stored before that.
   */
  noted(error: unknown): unknown {
    if (!(error instanceof CorruptMetadata) || error.file !== this.file) return error
    const { writing } = this.#parts
    if (writing === undefined || this.#corruption !== undefined) return error
    attempt(() => {
      if (!this.isReady) this.makeReady()
      writing.metadataWriter.store()
      writing.metadataWriter.free()
    })
    attempt(() => this.#base.header.markCorrupt())
    // Set last: after an error that is not a `BackingError`, the repeated call does all of this again.
    this.#corruption = error.reason
    this.isReady = false
    return error
  }
}

function present(writing: WritingParts | undefined): WritingParts {
  if (writing === undefined) throw new Error("the parts of a read-only image were about to change")
  return writing
}
