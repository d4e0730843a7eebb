/** HostFile: an ImageFile over a regular file of the host, by node:fs. Errors of the host become BackingErrors. */
import {
  closeSync, constants, fdatasyncSync, fstatSync, ftruncateSync, openSync, readSync, readvSync, unlinkSync, writeSync, writevSync,
} from "node:fs"
import { closesWithBlock, type Disposing } from "../../disposing.ts"
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError, type DiskVersion, totalLength } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import { canPunchHoles, fallocate } from "./fallocate.ts"
import { hostError } from "./host-errors.ts"
import { fileIdentity } from "./proc-locks.ts"
import { readLater } from "./read-later.ts"
import { MAX_TRANSFER, transferAll } from "./transfer.ts"

/** In a smaller file, zeroing or freeing any part is fast. */
const FEW_BYTES = 1 << 24
/** Maximum of bytes of one fallocate(1) on a small file. */
const LONGEST_HOLE = 2 ** 30
/** Freeing takes up to 0.7 ms for each MiB if the file system tells its device; zeroing 0.1. All measured on ext4. */
const PUNCH_AT_ONCE = 1 << 25
const ZERO_AT_ONCE = 1 << 26
/** Maximum while it is unknown whether ranges can be zeroed here: on failure it has to be done in another way. */
const ZERO_TRIED_AT_ONCE = 1 << 22

/** Options of `HostFile`. */
export interface HostFileOptions {
  /** Opens without the right to write. Default false. */
  readonly readOnly?: boolean
  /** Makes a new, empty file and fails when the path exists already. Default false. */
  readonly create?: boolean
}

const HOST_FILE_RULES: Rules<HostFileOptions> = { readOnly: "boolean?", create: "boolean?" }

/** `using` closes it. */
export interface HostFile extends Disposing {}

/** An `ImageFile` over a regular file of the host. */
export class HostFile implements ImageFile {
  static { closesWithBlock(this) }
  readonly path: string
  readonly readOnly: boolean
  /** Identifies the file for any path to it: device and inode in the form of /proc/locks, such as `fe:00:2188455`. */
  readonly identity: string
  #fd = -1
  /** Whether there were writes since the last successful sync: fdatasync of a clean file still takes 47 us (measured). */
  #isDirty = false
  /** The first sync that failed. */
  #syncFailure: BackingError | undefined
  readonly #device: bigint
  /**
   * Whether the host punches holes into this file, and zeroes ranges of it; undefined if unknown. After a failure there is no second try.
   */
  #canPunch: boolean | undefined
  #canZero: boolean | undefined

  /**
   * Opens `path`.
   * @throws BackingError when it is missing, not a regular file, not accessible, or larger than 2^53 bytes; `exists` with `create`
   * @throws TypeError for wrong arguments
   */
  constructor(path: string, options: HostFileOptions = {}) {
    checkValue("HostFile", "path", path, "string")
    checkOptions("HostFile", options, HOST_FILE_RULES)
    this.path = path
    this.readOnly = options.readOnly ?? false
    const access = this.readOnly ? constants.O_RDONLY : constants.O_RDWR
    try {
      // O_NONBLOCK: opening a FIFO must not wait for its other end; regular files ignore it.
      this.#fd = openSync(path, access | constants.O_NONBLOCK | (options.create ? constants.O_CREAT | constants.O_EXCL : 0), 0o644)
    } catch (error) {
      throw hostError(error, options.create ? "create" : "open", path)
    }
    try {
      const stat = fstatSync(this.#fd, { bigint: true })
      if (stat.isDirectory()) throw new BackingError("invalid-format", "it is a directory, not a disk image", { path })
      if (!stat.isFile()) throw new BackingError("unsupported", "it is not a regular file", { path })
      this.identity = fileIdentity(stat.dev, stat.ino)
      this.#device = stat.dev
      if (stat.size > BigInt(Number.MAX_SAFE_INTEGER)) {
        throw new BackingError("unsupported", `its size of ${stat.size} bytes is beyond 2^53, the largest that can be addressed`, { path })
      }
    } catch (error) {
      closeSync(this.#fd)
      throw error
    }
  }

  size(): number {
    this.#checkOpen()
    try {
      return fstatSync(this.#fd).size
    } catch (error) {
      throw hostError(error, "ask for the size", this.path)
    }
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.readInto(buffer, 0, buffer.length, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.#checkOpen()
    this.#checkPosition(offset)
    try {
      let done = readSync(this.#fd, buffer, start, Math.min(length, MAX_TRANSFER), offset)
      while (done < length) {
        const more = readSync(this.#fd, buffer, start + done, Math.min(length - done, MAX_TRANSFER), offset + done)
        if (more === 0) break
        done += more
      }
      return done
    } catch (error) {
      throw hostError(error, `read ${length} bytes`, this.path, offset)
    }
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    this.#checkOpen()
    this.#checkPosition(offset)
    try {
      return transferAll(buffers, (part, position) => readvSync(this.#fd, part, position), offset)
    } catch (error) {
      throw hostError(error, `read ${totalLength(buffers)} bytes`, this.path, offset)
    }
  }

  readLater(buffer: Uint8Array, offset: number): Promise<number> {
    this.#checkOpen()
    this.#checkPosition(offset)
    return readLater(this.#fd, buffer, offset).catch((error: unknown) => {
      throw hostError(error, `read ${buffer.length} bytes`, this.path, offset)
    })
  }

  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#checkWritable()
    this.#checkPosition(offset)
    try {
      let done = writeSync(this.#fd, buffer, start, Math.min(length, MAX_TRANSFER), offset)
      while (done < length) {
        done += progress(writeSync(this.#fd, buffer, start + done, Math.min(length - done, MAX_TRANSFER), offset + done))
      }
    } catch (error) {
      throw hostError(error, `write ${length} bytes`, this.path, offset)
    }
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    this.#checkWritable()
    this.#checkPosition(offset)
    try {
      transferAll(buffers, (part, position) => progress(writevSync(this.#fd, part, position)), offset)
    } catch (error) {
      throw hostError(error, `write ${totalLength(buffers)} bytes`, this.path, offset)
    }
  }

  truncate(size: number): void {
    this.#checkWritable()
    this.#checkPosition(size)
    try {
      ftruncateSync(this.#fd, size)
    } catch (error) {
      throw hostError(error, `set the size to ${size} bytes`, this.path)
    }
  }

  /**
   * False if there is no fallocate(1), the file system has no holes, or punching one failed. May ask the host: see `canPunchHoles`.
   */
  get canPunchHole(): boolean {
    if (this.readOnly || this.#fd < 0) return false
    this.#canPunch ??= canPunchHoles(this.#fd, this.#device, this.size())
    return this.#canPunch
  }

  get punchesAtOnce(): number {
    return this.canPunchHole ? (this.#hasFewBytes() ? LONGEST_HOLE : PUNCH_AT_ONCE) : 0
  }

  punchHole(offset: number, length: number): boolean {
    this.#checkWritable()
    this.#checkPosition(offset)
    this.#checkPosition(offset + length)
    if (!this.canPunchHole) return false
    if (length === 0) return true
    this.#canPunch = fallocate(this.#fd, "-p", offset, length)
    return this.#canPunch
  }

  get zeroesAtOnce(): number {
    if (this.#canZero === undefined) return ZERO_TRIED_AT_ONCE
    return this.#canZero ? ZERO_AT_ONCE : 0
  }

  zeroRange(offset: number, length: number): boolean {
    this.#checkWritable()
    this.#checkPosition(offset)
    this.#checkPosition(offset + length)
    if (this.#canZero === false) return false
    if (length === 0) return true
    this.#canZero = fallocate(this.#fd, "-zn", offset, length)
    return this.#canZero
  }

  /** After a failure it always fails: the host may have dropped data, and would report success for the rest. */
  sync(): void {
    this.#checkOpen()
    if (this.#syncFailure !== undefined) throw this.#syncFailure
    if (!this.#isDirty) return
    try {
      fdatasyncSync(this.#fd)
    } catch (error) {
      this.#syncFailure = hostError(error, "sync", this.path)
      throw this.#syncFailure
    }
    this.#isDirty = false
  }

  /** The file's identity, its size and its modification time. */
  version(): DiskVersion {
    this.#checkOpen()
    try {
      const { size, mtimeNs } = fstatSync(this.#fd, { bigint: true })
      return { image: this.identity, generation: `${size}:${mtimeNs}` }
    } catch (error) {
      throw hostError(error, "ask for the time of the last change", this.path)
    }
  }

  close(): void {
    if (this.#fd < 0) return
    const fd = this.#fd
    this.#fd = -1
    try {
      closeSync(fd)
    } catch (error) {
      throw hostError(error, "close", this.path)
    }
  }

  /** The descriptor, for calls that need a child process. */
  protected get descriptor(): number {
    this.#checkOpen()
    return this.#fd
  }

  #hasFewBytes(): boolean {
    try {
      return fstatSync(this.#fd).blocks * 512 <= FEW_BYTES
    } catch (error) {
      throw hostError(error, "ask for the allocated size", this.path)
    }
  }

  #checkOpen(): void {
    if (this.#fd < 0) throw new BackingError("closed", "the image is closed", { path: this.path })
  }

  /** Refuses -1, which Node takes for the current position, and negative sizes, for which it cuts a file to 0 bytes. */
  #checkPosition(position: number): void {
    if (Number.isSafeInteger(position) && position >= 0) return
    throw new BackingError("out-of-bounds", `${position} is not a byte position in a file`, { path: this.path, offset: position })
  }

  #checkWritable(): void {
    this.#checkOpen()
    if (this.readOnly) throw new BackingError("read-only", "the image is open read-only", { path: this.path })
    this.#isDirty = true
  }
}

/** Removes an unfinished file. */
export function removeHostFile(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    throw hostError(error, "remove", path)
  }
}

/** Fails if a write stored nothing, because retrying would loop forever. */
function progress(count: number): number {
  if (count === 0) throw new Error("the host stored nothing and gave no reason")
  return count
}
