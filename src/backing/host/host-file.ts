/** HostFile: an ImageFile over a regular file of the host, by node:fs. What the host reports becomes a BackingError. */
import { spawnSync } from "node:child_process"
import { closeSync, constants, fdatasyncSync, fstatSync, ftruncateSync, openSync, readSync, readvSync, unlinkSync, writeSync, writevSync } from "node:fs"
import { BackingError, type BackingErrorCode, totalLength } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"

/** preadv(2) and pwritev(2) take at most IOV_MAX buffers. */
const IOV_MAX = 1024
/** Bytes that one call moves at most: node:fs refuses 2^31 and more, and takes lengths modulo 2^32 in places. */
const MAX_TRANSFER = 2 ** 30

const CODE_BY_ERRNO: Readonly<Record<string, BackingErrorCode>> = {
  ENOENT: "not-found",
  ENOTDIR: "not-found",
  EEXIST: "exists",
  EACCES: "permission",
  EPERM: "permission",
  EROFS: "permission",
  ETXTBSY: "busy",
  EBUSY: "busy",
  ENOSPC: "no-space",
  EDQUOT: "no-space",
  EFBIG: "no-space",
  EISDIR: "invalid-format",
}

const REASON_BY_ERRNO: Readonly<Record<string, string>> = {
  ENOENT: "no such file",
  ENOTDIR: "a part of its path is not a directory",
  EACCES: "permission denied",
  EPERM: "operation not permitted",
  EROFS: "it is on a read-only file system",
  ENOSPC: "no space left on the file system",
  EDQUOT: "disk quota exceeded",
  EFBIG: "larger than the file system allows",
  EEXIST: "it exists already; choose another name or remove it first",
  EIO: "the host reports an input/output error",
  EISDIR: "it is a directory",
  EMFILE: "too many open files",
}

/** Turns what node:fs threw into a `BackingError` that says what was tried, where, and why it failed. */
function hostError(error: unknown, doing: string, path: string, offset?: number): BackingError {
  const errno = error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : ""
  const reason = REASON_BY_ERRNO[errno] ?? (error instanceof Error ? error.message : String(error))
  const where = offset === undefined ? "" : ` at byte ${offset}`
  return new BackingError(CODE_BY_ERRNO[errno] ?? "io", `cannot ${doing}${where}: ${reason}`, { path, offset, cause: error })
}

export interface HostFileOptions {
  /** Opens without the right to write. Default false. */
  readonly readOnly?: boolean
  /** Makes a new, empty file and fails when the path exists already. Default false. */
  readonly create?: boolean
}

/** An `ImageFile` over a regular file of the host. */
export class HostFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  /** Names the file whatever path leads to it: device and inode in the form of /proc/locks, such as `fe:00:2188455`. */
  readonly identity: string
  #fd: number
  /** Something was written since the last sync that succeeded: fdatasync of a clean file still costs 47 us (measured). */
  #dirty = false
  /** The first sync that failed. */
  #syncFailure: BackingError | undefined
  /** Punching failed once: it is not tried again on this file. */
  #cannotPunch = process.platform !== "linux"

  /** Opens `path`. Throws `BackingError` when it is missing, not a regular file, not accessible, or larger than 2^53 bytes. */
  constructor(path: string, options: HostFileOptions = {}) {
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
      if (stat.size > BigInt(Number.MAX_SAFE_INTEGER)) throw new BackingError("unsupported", `its size of ${stat.size} bytes is beyond 2^53, the largest that can be addressed`, { path })
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
    try {
      return transferAll(buffers, (part, position) => readvSync(this.#fd, part, position), offset)
    } catch (error) {
      throw hostError(error, `read ${totalLength(buffers)} bytes`, this.path, offset)
    }
  }

  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#checkWritable()
    try {
      let done = writeSync(this.#fd, buffer, start, Math.min(length, MAX_TRANSFER), offset)
      while (done < length) done += progress(writeSync(this.#fd, buffer, start + done, Math.min(length - done, MAX_TRANSFER), offset + done))
    } catch (error) {
      throw hostError(error, `write ${length} bytes`, this.path, offset)
    }
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    this.#checkWritable()
    try {
      transferAll(buffers, (part, position) => progress(writevSync(this.#fd, part, position)), offset)
    } catch (error) {
      throw hostError(error, `write ${totalLength(buffers)} bytes`, this.path, offset)
    }
  }

  truncate(size: number): void {
    this.#checkWritable()
    try {
      ftruncateSync(this.#fd, size)
    } catch (error) {
      throw hostError(error, `set the size to ${size} bytes`, this.path)
    }
  }

  /**
   * Node has no fallocate(2): this runs util-linux's fallocate(1) on the open descriptor, at the price of a process (about 2 ms,
   * whatever the length). False where there is no such program or the file system has no holes.
   */
  punchHole(offset: number, length: number): boolean {
    this.#checkWritable()
    if (this.#cannotPunch) return false
    const args = ["--punch-hole", "--offset", String(offset), "--length", String(length), "/proc/self/fd/3"]
    const { status } = spawnSync("fallocate", args, { stdio: ["ignore", "ignore", "ignore", this.#fd] })
    this.#cannotPunch = status !== 0
    return status === 0
  }

  /** Once it has failed it goes on failing: the host may have dropped what it could not write, and would call the rest a success. */
  sync(): void {
    this.#checkOpen()
    if (this.#syncFailure !== undefined) throw this.#syncFailure
    if (!this.#dirty) return
    try {
      fdatasyncSync(this.#fd)
    } catch (error) {
      this.#syncFailure = hostError(error, "sync", this.path)
      throw this.#syncFailure
    }
    this.#dirty = false
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

  /** For what only a child process can do with the open file. */
  protected get descriptor(): number {
    this.#checkOpen()
    return this.#fd
  }

  #checkOpen(): void {
    if (this.#fd < 0) throw new BackingError("closed", "the image is closed", { path: this.path })
  }

  #checkWritable(): void {
    this.#checkOpen()
    if (this.readOnly) throw new BackingError("read-only", "the image is open read-only", { path: this.path })
    this.#dirty = true
  }
}

/** The numbers of `makedev(3)` taken apart, as Linux prints them in /proc/locks. */
function fileIdentity(device: bigint, inode: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn)
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn)
  const hex = (number: bigint): string => number.toString(16).padStart(2, "0")
  return `${hex(major)}:${hex(minor)}:${inode}`
}

/** Removes a file that was made in vain. */
export function removeHostFile(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    throw hostError(error, "remove", path)
  }
}

/** A write of some bytes that stored none would loop for ever. */
function progress(count: number): number {
  if (count === 0) throw new Error("the host stored nothing and gave no reason")
  return count
}

/** Moves all buffers by `step`, at most IOV_MAX at a time, going on after short counts. Returns the bytes moved; fewer than all at the end of the file. */
function transferAll(buffers: readonly Uint8Array[], step: (part: readonly Uint8Array[], position: number) => number, offset: number): number {
  if (totalLength(buffers) > MAX_TRANSFER) buffers = buffers.flatMap(cutLarge)
  let done = 0
  let index = 0 // the first buffer that is not finished
  let within = 0 // bytes of it that are
  while (index < buffers.length) {
    let part = buffers.length - index <= IOV_MAX && index === 0 ? buffers : buffers.slice(index, index + IOV_MAX)
    const first = buffers[index]
    if (within > 0 && first !== undefined) part = [first.subarray(within), ...part.slice(1)]
    let count = step(part, offset + done)
    if (count === 0) return done
    done += count
    count += within
    for (let buffer = buffers[index]; buffer !== undefined && count >= buffer.length; buffer = buffers[index]) {
      count -= buffer.length
      index++
    }
    within = count
  }
  return done
}

/** A buffer in pieces that one call can move. */
function cutLarge(buffer: Uint8Array): Uint8Array[] {
  return Array.from({ length: Math.ceil(buffer.length / MAX_TRANSFER) }, (_, index) => buffer.subarray(index * MAX_TRANSFER, (index + 1) * MAX_TRANSFER))
}
