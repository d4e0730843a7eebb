/** The expected content of a disk, in the simplest form: one sparse run of bytes. The oracle of the random tests. */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { SparseBytes } from "./sparse-bytes.ts"

export class FlatModel {
  readonly size: number
  readonly #bytes: SparseBytes

  constructor(size: number, bytes: SparseBytes = new SparseBytes()) {
    this.size = size
    this.#bytes = bytes
  }

  /** A model of `size` bytes whose beginning is `content`. */
  static of(content: Uint8Array, size = content.length): FlatModel {
    const model = new FlatModel(size)
    model.write(content.subarray(0, size), 0)
    return model
  }

  read(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    this.#bytes.read(bytes, offset)
    return bytes
  }

  write(data: Uint8Array, offset: number): void {
    if (offset + data.length > this.size) throw new Error("the model is written beyond its end")
    this.#bytes.write(data, offset)
  }

  zero(offset: number, length: number): void {
    this.#bytes.zero(offset, length)
  }

  clone(): FlatModel {
    return new FlatModel(this.size, this.#bytes.clone())
  }

  /** The first byte where `data` differs from the model at `offset`, or -1. */
  firstDifference(data: Uint8Array, offset: number): number {
    const expected = this.read(offset, data.length)
    if (Buffer.compare(expected, data) === 0) return -1
    return offset + data.findIndex((byte, at) => byte !== expected[at])
  }

  /** The first byte where `disk` differs from the model, or -1. Reads all of the disk: for small ones. */
  firstDifferenceOf(disk: VirtioBacking, step = 65536): number {
    for (let offset = 0; offset < this.size; offset += step) {
      const part = new Uint8Array(Math.min(step, this.size - offset))
      disk.pread(part, offset)
      const difference = this.firstDifference(part, offset)
      if (difference >= 0) return difference
    }
    return -1
  }
}
