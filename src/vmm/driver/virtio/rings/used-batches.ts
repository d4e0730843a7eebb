/**
 * UsedBatches: the chains that a used element returns if IN_ORDER is negotiated: a device may return several by one element, which has the
 * id of the last of them ([VIRTIO] 2.7.9, 2.8.9).
 */
import { DriverError } from "../../errors.ts"
import type { UsedElement } from "./ring-memory.ts"

/** Ids that may lie behind before they are removed. */
const MOST_BEHIND = 1024

export class UsedBatches {
  /** Ids in the order in which they were made available; those from `#first` to before `#end` have come back. */
  #ids: number[] = []
  #first = 0
  #end = 0
  /** Of the last one that has come back. */
  #length = 0

  /** A chain is being made available. */
  add(id: number): void {
    this.#ids.push(id)
  }

  clear(): void {
    this.#ids = []
    this.#first = this.#end = 0
  }

  /**
   * The next chain that has come back. `read` reads the next used element, which is for a chain and all in front of it, `most` in all.
   * Those in front count as written as a whole: `writable` says for each id how many bytes that are.
   * @throws DriverError ("protocol") for an element that cannot be
   */
  take(most: number, read: () => UsedElement, writable: ArrayLike<number>): UsedElement {
    if (!this.isPending) this.#begin(read(), most)
    const id = this.#ids[this.#first] ?? 0
    const isLast = ++this.#first === this.#end
    const length = isLast ? this.#length : (writable[id] ?? 0)
    if (this.#first >= MOST_BEHIND) {
      this.#ids = this.#ids.slice(this.#first)
      this.#end -= this.#first
      this.#first = 0
    }
    return { id, length }
  }

  /** Chains have come back that `take` has not told of. */
  get isPending(): boolean {
    return this.#first < this.#end
  }

  #begin({ id, length }: UsedElement, most: number): void {
    const at = this.#ids.indexOf(id, this.#first)
    const count = at - this.#first + 1
    if (at < 0 || count > most) throw new DriverError("protocol", `used id ${id} is not that of one of the next ${most} chains in flight`)
    this.#end = at + 1
    this.#length = length
  }
}
