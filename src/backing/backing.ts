/**
 * The contract between a block device and the disk behind it: `VirtioBacking` and `BackingError`.
 * Nothing here knows virtio, PCI or a file system; an embedder's own disk implements this interface.
 */
import { checkMembers, checkValue, described, findAsync, type Rules } from "../options.ts"
import { checkZones, type Zones } from "./zoned/contract.ts"

export type { Zone, ZoneAction, Zones, ZoneState, ZoneType } from "./zoned/contract.ts"

/** The allocation state of a run of bytes. */
export interface Allocation {
  /** Bytes, from the queried offset; more than 0. */
  readonly length: number
  /** Space is reserved for the run: a write there cannot fail for lack of space. */
  readonly isAllocated: boolean
  /** The run reads as zeroes. */
  readonly isZero: boolean
}

/**
 * The wear of flash storage, in the numbers of JEDEC's JESD84-B50, which eMMC and UFS devices report and [VIRTIO] 5.2.6 passes on. 0 means
 * unknown.
 */
export interface Lifetime {
  /** Used-up reserved blocks: 1 is less than 80 %, 2 is 80 % or more, 3 is 90 % or more. */
  readonly preEolInfo: number
  /** Wear of SLC cells: 1 is up to 10 % of the lifetime, and so on to 10; 11 is beyond it. */
  readonly typeA: number
  /** Wear of MLC cells, likewise. */
  readonly typeB: number
}

/** The identity and state of an image, as strings that only comparison makes sense of. */
export interface DiskVersion {
  /** Never changes for one image, wherever it is opened. */
  readonly image: string
  /** Differs after each change of the stored bytes, by anybody. Left out if changes cannot be detected. */
  readonly generation?: string
}

/**
 * A disk. `size`, `readOnly`, `pread`, `pwrite` and `close` are required. The device offers the guest flushing, discarding, writing of
 * zeroes, secure erasure and the lifetime only if the disk has `flush`, `discard`, `writeZeroes`, `secureErase` and `lifetime`. The other
 * optional members make it faster.
 *
 * All offsets and lengths are bytes. Every method does all of its work or fails with a `BackingError`. There are no short counts.
 *
 * A method that returns nothing has finished. A backing whose methods may return promises sets `asynchronous: true`. A synchronous
 * backing gets views of guest RAM, borrowed until the method returns. An asynchronous one gets the device's own buffers, borrowed until
 * the promise settles, because the guest may reset the device, or its RAM may be replaced, meanwhile.
 */
export interface VirtioBacking {
  /** Guest-visible size in bytes. The guest cannot reach a tail shorter than a sector of 512 bytes. May change while
   * the disk is in use: then call the device's `capacityChanged()`. */
  readonly size: number
  /** When true, nothing is ever written and the device offers VIRTIO_BLK_F_RO. */
  readonly readOnly: boolean
  /** Bytes: the unit in which `discard` can free space (a qcow2 cluster). Default 512. A multiple of 512. */
  readonly discardGranularity?: number
  /**
   * Bytes that one `discard` or `writeZeroes` call handles within a few milliseconds; the device cuts longer ranges into several calls.
   * Default 16 MiB. May change while the disk is in use. */
  readonly zeroesAtOnce?: number
  /** The same for `discard`, and `writeZeroes` that may unmap, if they differ. Default `zeroesAtOnce`. May change. */
  readonly unmapsAtOnce?: number
  /** False if `discard`, and `writeZeroes` that may unmap, free no space, because the host cannot. Default true if there is a `discard`. */
  readonly canUnmap?: boolean
  /** True if a small read or write may take as long as a large one, for instance to decompress a cluster: the device then reads the clock
   * after each call. Default false. May change while the disk is in use. */
  readonly slow?: boolean
  /** True if a method may return a promise. Default false: then a promise counts as a bug, and the guest gets IOERR. */
  readonly asynchronous?: boolean
  /** Fills the whole `buffer` from `offset`. */
  pread(buffer: Uint8Array, offset: number): void | Promise<void>
  /** Stores the whole `buffer` at `offset`. */
  pwrite(buffer: Uint8Array, offset: number): void | Promise<void>
  /**
   * `pread` into `ram[start .. start + length)`, which the caller has checked to be inside `ram`, so that the usual request needs no view
   * object. Synchronous: an asynchronous backing leaves it out. */
  preadInto?(ram: Uint8Array, start: number, length: number, offset: number): void
  /** `pwrite` from `ram[start .. start + length)`, like `preadInto`. */
  pwriteFrom?(ram: Uint8Array, start: number, length: number, offset: number): void
  /** `pread` into several buffers, one after the other on the disk. Never called with an empty list or an empty buffer. */
  preadv?(buffers: readonly Uint8Array[], offset: number): void | Promise<void>
  /** `pwrite` from several buffers, one after the other on the disk. Never called with an empty list or an empty buffer. */
  pwritev?(buffers: readonly Uint8Array[], offset: number): void | Promise<void>
  /**
   * For an asynchronous backing: a `preadv` into views of guest RAM that returns true if it was done at once, for instance from a cache.
   * If it returns false, the content of `buffers` does not matter: the device calls `pread` with its own buffer.
   */
  preadNow?(buffers: readonly Uint8Array[], offset: number): boolean
  /**
   * For an asynchronous backing: a `pwritev` from views of guest RAM that returns true if it was done at once. If it returns false, it
   * has changed nothing, and the device calls `pwrite` with a copy. */
  pwriteNow?(buffers: readonly Uint8Array[], offset: number): boolean
  /** Makes durable every write that completed before this call. */
  flush?(): void | Promise<void>
  /** The content of the range is no longer needed. Bytes outside stay the same; those inside may read as anything, without an error. */
  discard?(offset: number, length: number): void | Promise<void>
  /** The range reads as zeroes afterwards. `mayUnmap` permits freeing its space. */
  writeZeroes?(offset: number, length: number, mayUnmap: boolean): void | Promise<void>
  /** Bytes: the unit in which the guest should align secure erases. Default 512. A multiple of 512. */
  readonly secureEraseAlignment?: number
  /**
   * Erases the range so that its content cannot be recovered, neither through the disk nor from its storage. Afterwards it may read as
   * anything. Leave this out if you cannot promise it: a file system may keep old copies of overwritten data. The device cuts long ranges
   * by `zeroesAtOnce`.
   */
  secureErase?(offset: number, length: number): void | Promise<void>
  /** The wear of the storage. Leave this out if it is unknown. */
  lifetime?(): Lifetime | Promise<Lifetime>
  /**
   * The allocation of a run of bytes from `offset` on, at most `length` (> 0), and no longer than a few milliseconds can examine. The next
   * run may have the same state. Without this method every byte counts as data. */
  allocation?(offset: number, length: number): Allocation | Promise<Allocation>
  /**
   * Identifies the disk in the saved state of a machine: the state is refused over another image, or over one that has changed since.
   * Unflushed writes need not count. Undefined, or left out, for disks that do not outlive the program, such as memory.
   */
  version?(): DiskVersion | undefined
  /** The operations of a zoned disk, for which the device offers ZONED. Left out by all other disks. */
  readonly zones?: Zones
  /**
   * Changes the disk, and the property `size`, to `size` bytes, a multiple of 512. New bytes read as zeroes. A smaller size needs
   * `shrink`. Never called while another call is in progress.
   */
  resize?(size: number, options?: { readonly shrink?: boolean }): void | Promise<void>
  /** Flushes the data that the backing itself caches, and releases it. A second call does nothing; any other method fails afterwards. */
  close(): void | Promise<void>
}

const BACKING_RULES: Rules<VirtioBacking> = {
  size: "number", readOnly: "boolean", discardGranularity: "number?", zeroesAtOnce: "any?", unmapsAtOnce: "any?",
  canUnmap: "any?", slow: "any?", asynchronous: "boolean?", pread: "function", pwrite: "function", preadNow: "function?",
  pwriteNow: "function?",
  preadInto: "function?", pwriteFrom: "function?", preadv: "function?", pwritev: "function?",
  flush: "function?", discard: "function?", writeZeroes: "function?", secureEraseAlignment: "number?", secureErase: "function?",
  lifetime: "function?", zones: "any?", allocation: "function?", version: "function?", resize: "function?", close: "function",
}

const SEE = "see the interface VirtioBacking"

/**
 * Checks a disk that was passed to the function named `who`.
 * @throws TypeError when it is not a `VirtioBacking`
 */
export function checkBacking(who: string, backing: VirtioBacking): void {
  const given: unknown = backing
  if (typeof given === "string") {
    throw new TypeError(`${who}: the backing must implement VirtioBacking, not ${described(given)}; openImage opens a file`)
  }
  checkMembers(who, "the backing", backing, BACKING_RULES, "VirtioBacking")
  refuseAsyncMethods(who, backing)
  if (backing.zones !== undefined) checkZones(who, backing.zones, { isAsynchronous: backing.asynchronous === true })
  checkBackingSize(who, backing.size)
  checkUnit(who, "discardGranularity", backing.discardGranularity)
  checkUnit(who, "secureEraseAlignment", backing.secureEraseAlignment)
}

function checkUnit(who: string, name: string, bytes = 512): void {
  if (Number.isSafeInteger(bytes) && bytes > 0 && bytes % 512 === 0) return
  throw new TypeError(`${who}: ${name} of the backing is ${bytes}; it must be a multiple of 512 bytes: ${SEE}`)
}

type Names = readonly (keyof VirtioBacking)[]
/** Methods that are always synchronous, and those that may return a promise if `asynchronous` is set. */
const ANSWER_AT_ONCE: Names = ["preadInto", "pwriteFrom", "preadNow", "pwriteNow"]
const MAY_ANSWER_LATER: Names = [
  "pread", "pwrite", "preadv", "pwritev", "flush", "discard", "writeZeroes", "secureErase", "lifetime", "allocation", "resize",
]

/** Refuses methods that are wrongly declared `async`, at once and not at the first request. */
function refuseAsyncMethods(who: string, backing: VirtioBacking): void {
  const refuse = (name: string | undefined, remedy: string): void => {
    if (name !== undefined) throw new TypeError(`${who}: ${name} of the backing is an async function; ${remedy}: ${SEE}`)
  }
  refuse(findAsync(backing, ANSWER_AT_ONCE), "it must have done its work when it returns")
  if (backing.asynchronous !== true) refuse(findAsync(backing, MAY_ANSWER_LATER), "a backing that answers later has asynchronous: true")
}

/** @throws TypeError when `size`, the size of a backing, is not a number of bytes */
export function checkBackingSize(who: string, size: number): void {
  if (Number.isSafeInteger(size) && size >= 0) return
  throw new TypeError(`${who}: size of the backing is ${String(size)}; it must be a whole number of bytes from 0 to 2^53 - 1: ${SEE}`)
}

/** What went wrong, for programs. The message is for people. */
export type BackingErrorCode =
  | "io" // the host failed to read or write
  | "no-space" // the host or the image format has no room left
  | "out-of-bounds" // beyond the end of the disk, or an offset that is not a byte position
  | "read-only" // a change to something opened read-only
  | "corrupt" // impossible metadata
  | "invalid-format" // not an image of the stated format
  | "unsupported" // a valid image or call that this version does not implement
  | "not-found" // no such file
  | "exists" // a new file's name is taken
  | "permission" // the host does not allow it
  | "busy" // in use by somebody else
  | "closed" // used after close
  | "invalid-argument" // an option or argument that makes no sense
  | "zone-invalid" // of a zoned disk: the state of the zone does not allow it, or the range is not inside one zone
  | "zone-unaligned" // a write that does not begin at the zone's write pointer, or is not a multiple of the write granularity
  | "zone-open-limit" // no more zones can be open
  | "zone-active-limit" // no more zones can be open or closed

const CODES: Readonly<Record<BackingErrorCode, true>> = {
  io: true, "no-space": true, "out-of-bounds": true, "read-only": true, corrupt: true, "invalid-format": true, unsupported: true,
  "not-found": true, exists: true, permission: true, busy: true, closed: true, "invalid-argument": true, "zone-invalid": true,
  "zone-unaligned": true, "zone-open-limit": true, "zone-active-limit": true,
}

/** Where and why, for `BackingError`. `offset` is a byte position: in the file named by `path`, or on the disk without one. */
export interface BackingErrorDetails {
  readonly path?: string | undefined
  readonly offset?: number | undefined
  readonly cause?: unknown
  /** The call may have taken effect in spite of the error, as when a connection is lost. It matters to `Zones.append`. Default false. */
  readonly mayBeDone?: boolean | undefined
}

/** The one error that a backing throws, or rejects with. Its message is one line: the path if there is one, what is wrong, where. */
export class BackingError extends Error {
  override readonly name = "BackingError"
  readonly code: BackingErrorCode
  readonly path: string | undefined
  readonly offset: number | undefined
  readonly mayBeDone: boolean

  /** @throws TypeError for a code that does not exist */
  constructor(code: BackingErrorCode, message: string, details: BackingErrorDetails = {}) {
    if (!Object.hasOwn(CODES, code)) checkValue("BackingError", "code", code, Object.keys(CODES))
    super(printable(details.path === undefined ? message : `${details.path}: ${message}`), { cause: details.cause })
    this.code = code
    this.path = details.path
    this.offset = details.offset
    this.mayBeDone = details.mayBeDone === true
  }
}

/**
 * Text that is safe to print: replaces control characters, which a terminal would obey, in names from images and directories.
 */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, "\ufffd")
}

/** Sum of the lengths of `buffers`, in bytes. */
export function totalLength(buffers: readonly Uint8Array[]): number {
  let total = 0
  for (const buffer of buffers) total += buffer.length
  return total
}

/** @throws BackingError `out-of-bounds` unless `offset` .. `offset + length` are byte positions inside a disk of `size` bytes */
export function checkRange(size: number, offset: number, length: number, path?: string): void {
  // NaN and fractions fail too: neither is a safe integer. Not written as `offset + length`, which could be rounded.
  if (Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0 && length <= size - offset) return
  throw outOfBounds(size, offset, length, path)
}

/** Separate from the check, so that V8 inlines the check (30 ns a read and 60 a write of a raw image, measured). */
function outOfBounds(size: number, offset: number, length: number, path: string | undefined): BackingError {
  return new BackingError("out-of-bounds", `bytes ${offset} to ${offset + length} are not inside the disk of ${size} bytes`, {
    path, offset,
  })
}

/** @throws BackingError `invalid-argument` for an impossible size, and for less than the present size `before` without `shrink` */
export function checkNewSize(
  { before, size, shrink, path }: { readonly before: number; readonly size: number; readonly shrink: boolean; readonly path?: string },
): void {
  const refusal = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  if (!Number.isSafeInteger(size) || size < 0 || size % 512 !== 0) throw refusal(`the size ${size} is not a multiple of 512 bytes`)
  if (size >= before || shrink) return
  throw refusal(`${size} bytes are less than the ${before} that the disk has, and what is cut off is lost; allow it by shrink`)
}

/** A file or disk that may have a version. */
export interface Versioned {
  version?(): DiskVersion | undefined
}

/**
 * The version of a disk of `format` in `file`, and over `base` if there is one. Undefined if the file has no version; a base without one
 * counts as unchanging.
 */
export function versionOf(format: string, file: Versioned, base?: Versioned): DiskVersion | undefined {
  const own = file.version?.()
  if (own === undefined) return undefined
  const under = base?.version?.()
  const image = `${format} ${own.image}`
  const generations = [own.generation, under?.generation].filter((generation) => generation !== undefined)
  return {
    image: under === undefined ? image : `${image} over ${under.image}`,
    ...(generations.length === 0 ? {} : { generation: generations.join(" over ") }),
  }
}
