/**
 * The contract between a block device and the disk behind it: `VirtioBacking` and `BackingError`.
 * Nothing here knows virtio, PCI or a file system; an embedder's own disk implements this interface.
 */
import { checkMembers, checkValue, described, findAsync, type Rules } from "../options.ts"
import { checkZones, type Zones } from "./zoned/contract.ts"

export type { Zone, ZoneAction, Zones, ZoneState, ZoneType } from "./zoned/contract.ts"

/** What is known of a run of a disk's bytes. */
export interface Allocation {
  /** Bytes, from the offset that was asked about; more than 0. */
  readonly length: number
  /** Space is kept for the run: writing there does not fail for want of space. */
  readonly isAllocated: boolean
  /** The run reads as zeroes. */
  readonly isZero: boolean
}

/**
 * The wear of flash storage, with the numbers of JEDEC's JESD84-B50, which eMMC and UFS devices report and [VIRTIO] 5.2.6 passes on. 0 says
 * that a number is not known.
 */
export interface Lifetime {
  /** Reserved blocks that are used up: 1 is less than 80 %, 2 is 80 % or more, 3 is 90 % or more. */
  readonly preEolInfo: number
  /** Wear of SLC cells: 1 is up to 10 % of the lifetime, and so on to 10; 11 is beyond it. */
  readonly typeA: number
  /** Wear of MLC cells, likewise. */
  readonly typeB: number
}

/** Which image a disk is, and in which state. Texts to be compared, not to be read. */
export interface DiskVersion {
  /** The same for one image as long as it lives, wherever it is opened. */
  readonly image: string
  /** Another one after each change of what is stored, whoever makes it. Left out by who cannot tell. */
  readonly generation?: string
}

/**
 * A disk. `size`, `readOnly`, `pread`, `pwrite` and `close` are required. The device offers flushing, discarding and writing of zeroes to
 * the guest only where `flush`, `discard` and `writeZeroes` are there, secure erasure and the lifetime where `secureErase` and `lifetime`
 * are; the other optional members make it faster.
 *
 * All offsets and lengths are bytes. Every method does all of its work or fails with a `BackingError`; a short count does not exist.
 *
 * A method that returns nothing has finished. A backing whose methods may return promises says so with `asynchronous: true`. The
 * buffers of a synchronous backing are views of guest RAM, borrowed until the method returns. An asynchronous one gets buffers of the
 * device's own, borrowed until the promise settles: the guest may reset the device, or its RAM may be replaced, meanwhile.
 */
export interface VirtioBacking {
  /** Guest-visible size in bytes. A tail shorter than a sector of 512 bytes is not reachable by the guest. May change while
   * the disk is in use: announce it with the device's `capacityChanged()`. */
  readonly size: number
  /** When true, nothing is ever written and the device offers VIRTIO_BLK_F_RO. */
  readonly readOnly: boolean
  /** Bytes: the unit in which `discard` can free space (a qcow2 cluster). Default 512. A multiple of 512. */
  readonly discardGranularity?: number
  /**
   * Bytes that one `discard` or `writeZeroes` call does within a few milliseconds; the device cuts longer ranges into several calls.
   * Default 16 MiB. May change while the disk is in use. */
  readonly zeroesAtOnce?: number
  /** The same for `discard`, and `writeZeroes` that may unmap, where that is another number. Default `zeroesAtOnce`. May change. */
  readonly unmapsAtOnce?: number
  /** False when `discard`, and `writeZeroes` that may unmap, free no space: the host cannot. Default true where there is a `discard`. */
  readonly canUnmap?: boolean
  /** True when a small read or write may take as long as a large one, for instance a cluster to decompress: the device then looks at the
   * clock after each call. Default false. May change while the disk is in use. */
  readonly slow?: boolean
  /** True when a method may return a promise. Default false: a promise is then refused as a programming error, and the guest gets IOERR. */
  readonly asynchronous?: boolean
  /** Fills `buffer` whole from `offset`. */
  pread(buffer: Uint8Array, offset: number): void | Promise<void>
  /** Stores `buffer` whole at `offset`. */
  pwrite(buffer: Uint8Array, offset: number): void | Promise<void>
  /**
   * `pread` into `ram[start .. start + length)`, which the caller has found to be inside `ram`: the usual request needs no view object
   * then. Synchronous: a backing whose methods may return promises leaves it out. */
  preadInto?(ram: Uint8Array, start: number, length: number, offset: number): void
  /** `pwrite` from `ram[start .. start + length)`, as `preadInto`. */
  pwriteFrom?(ram: Uint8Array, start: number, length: number, offset: number): void
  /** `pread` into several buffers, one after the other on the disk. Never called with an empty list or an empty buffer. */
  preadv?(buffers: readonly Uint8Array[], offset: number): void | Promise<void>
  /** `pwrite` from several buffers, one after the other on the disk. Never called with an empty list or an empty buffer. */
  pwritev?(buffers: readonly Uint8Array[], offset: number): void | Promise<void>
  /**
   * For an asynchronous backing: `preadv` into views of guest RAM if it can be done at once, for instance from a cache; then it returns
   * true. Otherwise it returns false, and the device calls `pread` with a buffer of its own. What it has put into `buffers` then does not
   * matter.
   * */
  preadNow?(buffers: readonly Uint8Array[], offset: number): boolean
  /**
   * For an asynchronous backing: `pwritev` from views of guest RAM if it can be done at once; then it returns true. Otherwise it has
   * changed nothing and returns false, and the device calls `pwrite` with a copy. */
  pwriteNow?(buffers: readonly Uint8Array[], offset: number): boolean
  /** Everything whose write completed before this call is on stable storage when it completes. */
  flush?(): void | Promise<void>
  /** The content of the range is no longer needed. Bytes outside of it stay; those inside read as anything but an error. */
  discard?(offset: number, length: number): void | Promise<void>
  /** The range reads as zeroes afterwards. `mayUnmap` permits freeing the space behind it. */
  writeZeroes?(offset: number, length: number, mayUnmap: boolean): void | Promise<void>
  /** Bytes: `secureErase` is called for whole units of this size where the guest asks for whole units. Default 512. A multiple of 512. */
  readonly secureEraseAlignment?: number
  /**
   * Erases the range so that nobody finds its content again, neither through the disk nor behind it; what it reads as is up to the disk.
   * Only who can promise that has this method: a file system may keep old copies of what is overwritten. Long ranges are cut by
   * `zeroesAtOnce`.
   */
  secureErase?(offset: number, length: number): void | Promise<void>
  /** The wear of the storage. Only who knows any of it has this method. */
  lifetime?(): Lifetime | Promise<Lifetime>
  /**
   * What is known of the bytes from `offset` on: a run of at most `length`, which is more than 0, and as much of it as a few milliseconds
   * tell. Neighbours may be alike. Without this method every byte counts as data. */
  allocation?(offset: number, length: number): Allocation | Promise<Allocation>
  /**
   * What the disk is, for the saved state of a machine: a state is refused over another image, or one that has been changed since. What has
   * been written and not flushed need not count. Undefined, or left out, by disks that no state can be kept for, such as memory.
   */
  version?(): DiskVersion | undefined
  /** What a zoned disk can do besides; the device offers ZONED then. Left out by all other disks. */
  readonly zones?: Zones
  /**
   * Makes the disk one of `size` bytes, a multiple of 512, and `size` says so afterwards. What is new reads as zeroes. A smaller size is
   * refused unless `shrink` allows it. Called while no other call is under way.
   */
  resize?(size: number, options?: { readonly shrink?: boolean }): void | Promise<void>
  /** Flushes what the backing itself holds and releases it. A second call does nothing; any other method fails afterwards. */
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
 * Checks a disk that somebody hands to `who`, the name of a function.
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
/** Methods that answer before they return, and those that may return a promise where `asynchronous` says so. */
const ANSWER_AT_ONCE: Names = ["preadInto", "pwriteFrom", "preadNow", "pwriteNow"]
const MAY_ANSWER_LATER: Names = [
  "pread", "pwrite", "preadv", "pwritev", "flush", "discard", "writeZeroes", "secureErase", "lifetime", "allocation", "resize",
]

/** What is declared `async` and must not be would fail with its first request: it is told at once. */
function refuseAsyncMethods(who: string, backing: VirtioBacking): void {
  const refuse = (name: string | undefined, remedy: string): void => {
    if (name !== undefined) throw new TypeError(`${who}: ${name} of the backing is an async function; ${remedy}: ${SEE}`)
  }
  refuse(findAsync(backing, ANSWER_AT_ONCE), "it must have done its work when it returns")
  if (backing.asynchronous !== true) refuse(findAsync(backing, MAY_ANSWER_LATER), "a backing that answers later has asynchronous: true")
}

/** @throws TypeError when `size`, that of a backing, is not a number of bytes */
export function checkBackingSize(who: string, size: number): void {
  if (Number.isSafeInteger(size) && size >= 0) return
  throw new TypeError(`${who}: size of the backing is ${String(size)}; it must be a whole number of bytes from 0 to 2^53 - 1: ${SEE}`)
}

/** What went wrong, for programs. The message says it to people. */
export type BackingErrorCode =
  | "io" // the host failed to read or write
  | "no-space" // the host or the image format has no room left
  | "out-of-bounds" // beyond the end of the disk, or an offset that is not a byte position
  | "read-only" // a change to something opened read-only
  | "corrupt" // metadata that cannot be right
  | "invalid-format" // not an image of the stated format
  | "unsupported" // a valid image or call that this version does not implement
  | "not-found" // no such file
  | "exists" // a new file's name is taken
  | "permission" // the host does not allow it
  | "busy" // in use by somebody else
  | "closed" // used after close
  | "invalid-argument" // an option or argument that makes no sense
  | "zone-invalid" // of a zoned disk: the zone cannot do that in its state, or the range is not inside of one zone
  | "zone-unaligned" // a write that does not begin at the zone's write pointer, or is not whole units of the write granularity
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
  /** The call may have been done all the same, as when a connection is lost. It matters to `Zones.append`. Default false. */
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
 * Text as a person may see it: names come from images and directories, and control characters in them, which a terminal would obey, are
 * replaced.
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
  // NaN and fractions fail here as well: neither is a safe integer. `offset + length` is not formed, so nothing can wrap.
  if (Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0 && length <= size - offset) return
  throw outOfBounds(size, offset, length, path)
}

/** Apart from the check, so that V8 inlines that wherever it is called: 30 ns a read and 60 a write of a raw image, measured. */
function outOfBounds(size: number, offset: number, length: number, path: string | undefined): BackingError {
  return new BackingError("out-of-bounds", `bytes ${offset} to ${offset + length} are not inside the disk of ${size} bytes`, {
    path, offset,
  })
}

/** @throws BackingError `invalid-argument` for a size that cannot be, and for less than `before`, the size that is, without `shrink` */
export function checkNewSize(
  { before, size, shrink, path }: { readonly before: number; readonly size: number; readonly shrink: boolean; readonly path?: string },
): void {
  const refusal = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  if (!Number.isSafeInteger(size) || size < 0 || size % 512 !== 0) throw refusal(`the size ${size} is not a multiple of 512 bytes`)
  if (size >= before || shrink) return
  throw refusal(`${size} bytes are less than the ${before} that the disk has, and what is cut off is lost; allow it by shrink`)
}

/** What may have a version. */
export interface Versioned {
  version?(): DiskVersion | undefined
}

/**
 * The version of a disk of `format` in `file`, and over `base` if there is one. Undefined where the file has none: a base that has none
 * counts as one that never changes.
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
