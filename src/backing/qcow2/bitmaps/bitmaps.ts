/** Bitmaps: the API for the persistent dirty bitmaps of an open image, which record the parts of the disk that change. */
import { checkCount, checkOptions, checkValue, type Rules } from "../../../options.ts"
import { BackingError } from "../../backing.ts"
import { BITMAP_LIMIT } from "../format/bitmaps.ts"
import { encodeText } from "../../bytes/fields.ts"
import { findBit } from "./bits.ts"
import type { BitmapStore } from "./bitmap-store.ts"
import type { DirtyBitmap } from "./dirty-bitmap.ts"

/** A description of a persistent bitmap. */
export interface BitmapInfo {
  readonly name: string
  /** Bytes of the disk for each bit. */
  readonly granularity: number
  /** Writes are recorded. */
  readonly isEnabled: boolean
  /** False if a program ended without storing the bitmap: it can only be removed. */
  readonly isConsistent: boolean
}

/** Options of `Bitmaps.add`. */
export interface AddBitmapOptions {
  /** Bytes of the disk for each bit: a power of two from 512 to 2^31. Default: the cluster size, within 4 KiB and 64 KiB. */
  readonly granularity?: number
  /** Whether writes are recorded from now on. Default true. */
  readonly isEnabled?: boolean
}

const ADD_RULES: Rules<AddBitmapOptions> = { granularity: "number?", isEnabled: "boolean?" }

/** A run of changed bytes of the disk. */
export interface ChangedRange {
  readonly offset: number
  readonly length: number
}

/** The image's side of `Bitmaps`. */
export interface BitmapsAccess {
  readonly clusterSize: number
  readonly path: string
  /** Bytes of the disk. */
  size(): number
  /** Runs `work` with the bitmaps. */
  inspect<T>(work: (store: BitmapStore) => T): T
  /** The same for work that changes them. @throws as `Qcow2Image.change` */
  change<T>(work: (store: BitmapStore) => T): T
}

/** The methods of `Bitmaps`. Over an asynchronous image file they return promises. */
export interface BitmapActions {
  list(): readonly BitmapInfo[] | Promise<readonly BitmapInfo[]>
  add(name: string, options?: AddBitmapOptions): void | Promise<void>
  remove(name: string): void | Promise<void>
  clear(name: string): void | Promise<void>
  enable(name: string): void | Promise<void>
  disable(name: string): void | Promise<void>
  merge(name: string, from: string): void | Promise<void>
  changed(name: string, offset?: number, length?: number): Iterable<ChangedRange> | Promise<Iterable<ChangedRange>>
}

/**
 * The persistent bitmaps of an image. Closing the image stores all changes, including recorded guest writes. If a program ends without
 * closing it, the changes are lost, and the recording bitmaps are inconsistent.
 */
export class Bitmaps implements BitmapActions {
  readonly #access: BitmapsAccess

  constructor(access: BitmapsAccess) {
    this.#access = access
  }

  /** @throws BackingError `invalid-format` for an invalid directory */
  list(): BitmapInfo[] {
    return this.#access.inspect(({ list }) =>
      list.map(({ name, granularity, isEnabled, isUsable }) => ({ name, granularity, isEnabled, isConsistent: isUsable })),
    )
  }

  /**
   * Makes a bitmap with no bit set.
   * @throws BackingError `exists`; `invalid-argument`; `unsupported` for an image of version 2; `no-space` if the bitmap would be too large
   */
  add(name: string, options: AddBitmapOptions = {}): void {
    checkValue("add", "name", name, "string")
    checkOptions("add", options, ADD_RULES)
    const { clusterSize, path } = this.#access
    const granularity = options.granularity ?? Math.min(65536, Math.max(4096, clusterSize))
    const bits = Math.log2(granularity)
    const refuse = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
    const length = encodeText(name).length
    if (length === 0 || length > BITMAP_LIMIT.NAME_BYTES) {
      throw refuse(`a bitmap's name has 1 to ${BITMAP_LIMIT.NAME_BYTES} bytes, not ${length}`)
    }
    if (!Number.isInteger(bits) || bits < BITMAP_LIMIT.GRANULARITY_BITS_MIN || bits > BITMAP_LIMIT.GRANULARITY_BITS_MAX) {
      throw refuse(`a bitmap's granularity is a power of two from 512 to 2147483648 bytes, not ${granularity}`)
    }
    this.#access.change((store) => store.add(name, bits, { isEnabled: options.isEnabled ?? true }))
  }

  /** Removes a bitmap, even an inconsistent one. @throws BackingError `not-found` */
  remove(name: string): void {
    this.#access.change((store) => store.remove(store.find(name)))
  }

  /** Clears all bits. @throws BackingError `not-found`, or `corrupt` for an inconsistent bitmap */
  clear(name: string): void {
    this.#access.change((store) => store.usable(name).clear())
  }

  /** Records writes from now on. @throws as `clear` */
  enable(name: string): void {
    this.#access.change((store) => store.enable(store.usable(name), true))
  }

  /** Stops recording writes. @throws as `clear` */
  disable(name: string): void {
    this.#access.change((store) => store.enable(store.usable(name), false))
  }

  /**
   * Adds the bits of bitmap `from` to bitmap `name`. `from` is in this image, or in `other`, whose disk has the same size. The
   * granularities may differ. @throws as `clear`; BackingError `invalid-argument` for disks of different sizes
   */
  merge(name: string, from: string, other: Bitmaps = this): void {
    const size = this.#access.size()
    if (other.#access.size() !== size) {
      const message = `bitmap "${from}" covers a disk of ${other.#access.size()} bytes, but this disk has ${size}`
      throw new BackingError("invalid-argument", message, { path: this.#access.path })
    }
    this.#access.change((store) => {
      const target = store.usable(name)
      for (const { offset, length } of other.changed(from)) target.mark(offset, length)
    })
  }

  /** The changed parts of `length` bytes from `offset` on (default: of the disk), in order. @throws as `clear` */
  *changed(name: string, offset = 0, length = this.#access.size() - offset): Generator<ChangedRange> {
    checkCount("changed", "offset", offset, 0, this.#access.size())
    checkCount("changed", "length", length, 0, this.#access.size() - offset)
    const { granularity } = this.#access.inspect((store) => store.usable(name))
    const pageBits = this.#access.clusterSize * 8
    const end = offset + length
    let pending: ChangedRange | undefined
    for (let page = Math.floor(offset / granularity / pageBits); page * pageBits * granularity < end; page++) {
      const bits = this.#access.inspect((store) => pageOf(store.usable(name), page))
      if (bits === undefined) continue
      for (let from = findBit(bits, 0, 1); from < pageBits;) {
        const to = findBit(bits, from, 0)
        const start = Math.max(offset, (page * pageBits + from) * granularity)
        const stop = Math.min(end, (page * pageBits + to) * granularity)
        if (pending !== undefined && pending.offset + pending.length === start) pending = { ...pending, length: stop - pending.offset }
        else {
          if (pending !== undefined) yield pending
          pending = stop > start ? { offset: start, length: stop - start } : undefined
        }
        from = findBit(bits, to, 1)
      }
    }
    if (pending !== undefined) yield pending
  }
}

function pageOf(bitmap: DirtyBitmap, page: number): Uint8Array | undefined {
  return page < bitmap.pages ? bitmap.page(page) : undefined
}
