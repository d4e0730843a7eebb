/**
 * RawDataFile: an external data file that must hold, byte for byte, what the guest sees (`data_file_raw`, QC-DF-07). So zeroes are written
 * to the file itself, as on a raw disk. The L2 entries do not change: all were allocated when the image was created.
 */
import type { ImageFile } from "../image-file.ts"
import { RawBacking } from "../raw.ts"
import type { Geometry } from "./format/geometry.ts"

export class RawDataFile {
  readonly #file: ImageFile
  readonly #disk: RawBacking
  readonly #geometry: Geometry

  constructor(file: ImageFile, geometry: Geometry) {
    this.#file = file
    this.#disk = new RawBacking(file)
    this.#geometry = geometry
  }

  /** Extends a file that is shorter than the disk. @throws BackingError */
  fit(): void {
    if (this.#file.size() < this.#geometry.size) this.#file.truncate(this.#geometry.size)
    this.#disk.refreshSize()
  }

  get zeroesAtOnce(): number {
    return this.#disk.zeroesAtOnce
  }

  get unmapsAtOnce(): number {
    return this.#disk.unmapsAtOnce
  }

  /** Makes the whole clusters in the range zero, as a discard of any qcow2 image does. */
  discard(offset: number, length: number): void {
    const { clusterSize, size } = this.#geometry
    const first = Math.ceil(offset / clusterSize) * clusterSize
    const end = offset + length === size ? size : Math.floor((offset + length) / clusterSize) * clusterSize
    if (first < end) this.writeZeroes(first, end - first, true)
  }

  writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
    // The disk may have grown since the file was opened.
    if (this.#disk.size < this.#geometry.size) this.fit()
    this.#disk.writeZeroes(offset, length, mayUnmap)
  }
}
