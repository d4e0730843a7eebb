/**
 * The possible contents of a disk after a crash: each byte is as at the last completed flush, or as any later operation left it. Nothing
 * else is allowed: no garbage, no zeroes that nobody wrote, no data from another place.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { FlatModel } from "./flat-model.ts"

interface Change {
  readonly offset: number
  readonly length: number
  /** Undefined for zeroes. */
  readonly data: Uint8Array | undefined
}

export class DurableModel {
  readonly size: number
  readonly #flushed: FlatModel
  readonly #changes: Change[]

  constructor(flushed: FlatModel, changes: readonly Change[] = []) {
    this.size = flushed.size
    this.#flushed = flushed
    this.#changes = [...changes]
  }

  write(data: Uint8Array, offset: number): void {
    this.#changes.push({ offset, length: data.length, data })
  }

  /** A discard or write of zeroes; until the next flush, the old bytes may stay. */
  zero(offset: number, length: number): void {
    this.#changes.push({ offset, length, data: undefined })
  }

  /** The model for all crashes after a flush that left the disk as `content`. */
  static flushed(content: FlatModel): DurableModel {
    return new DurableModel(content.clone())
  }

  clone(): DurableModel {
    return new DurableModel(this.#flushed, this.#changes)
  }

  /** Checks every byte of `disk`. @throws Error at the first impossible byte */
  check(disk: Pick<VirtioBacking, "size" | "pread">, step = 65536): void {
    if (disk.size !== this.size) throw new Error(`the disk has ${disk.size} bytes, not ${this.size}`)
    for (let offset = 0; offset < this.size; offset += step) {
      const content = new Uint8Array(Math.min(step, this.size - offset))
      disk.pread(content, offset)
      if (this.#flushed.firstDifference(content, offset) >= 0) this.#checkPart(content, offset)
    }
  }

  #checkPart(content: Uint8Array, offset: number): void {
    const flushed = this.#flushed.read(offset, content.length)
    for (let at = 0; at < content.length; at++) {
      const byte = content[at]
      if (byte === flushed[at] || this.#changes.some((change) => allows(change, offset + at, byte))) continue
      const meanwhile = this.#changes.filter((change) => covers(change, offset + at)).map(
        (change) => change.data?.[offset + at - change.offset] ?? 0,
      )
      throw new Error(`byte ${offset + at} is ${byte}; at the last flush it was ${flushed[at]}, and since then [${meanwhile.join(", ")}]`)
    }
  }
}

function covers(change: Change, offset: number): boolean {
  return offset >= change.offset && offset < change.offset + change.length
}

function allows(change: Change, offset: number, byte: number | undefined): boolean {
  return covers(change, offset) && (change.data === undefined ? byte === 0 : byte === change.data[offset - change.offset])
}
