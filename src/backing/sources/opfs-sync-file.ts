/** opfsSyncFile: an ImageFile in a browser's origin private file system (OPFS), for disks in a worker. */
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import type { ImageFile } from "../image-file.ts"
import { opfsError, storedNothing } from "./opfs-errors.ts"
import { type AccessHandle, openAccessHandle, type OpfsScope } from "./opfs-service.ts"

/** Options of `opfsSyncFile`. */
export interface OpfsSyncFileOptions {
  /** Opens for reading only; others may read meanwhile. Default false. */
  readonly readOnly?: boolean
  /** Makes the file and its folders if they are missing. Default false: a missing file is `not-found`. */
  readonly create?: boolean
}

const OPFS_SYNC_FILE_RULES: Rules<OpfsSyncFileOptions> = { readOnly: "boolean?", create: "boolean?" }

/**
 * Opens a file of the origin private file system for synchronous access, which browsers allow only in workers. Until it is closed, nobody
 * else can open it for writing.
 * @param path names with "/" between them, from the root of the origin's file system
 * @throws BackingError (as a rejection) `not-found`; `busy` if another tab or worker has it open; `unsupported` outside workers and secure
 * contexts
 * @throws TypeError (as a rejection) for wrong arguments
 */
export async function opfsSyncFile(path: string, options: OpfsSyncFileOptions = {}): Promise<ImageFile> {
  checkValue("opfsSyncFile", "path", path, "string")
  checkOptions("opfsSyncFile", options, OPFS_SYNC_FILE_RULES)
  const { readOnly = false, create = false } = options
  let handle: AccessHandle
  try {
    handle = await openAccessHandle({ path, readOnly, create }, globalThis as unknown as OpfsScope)
  } catch (error) {
    throw opfsError(error, "open", path)
  }
  return new OpfsSyncFile(handle, { path, readOnly })
}

/** Owns the handle. */
class OpfsSyncFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  readonly lock = "exclusive"
  readonly #handle: AccessHandle
  /** The first failed flush: writes before it may be lost, so no later flush may succeed. */
  #syncFailure: BackingError | undefined

  constructor(handle: AccessHandle, about: { readonly path: string; readonly readOnly: boolean }) {
    this.#handle = handle
    this.path = about.path
    this.readOnly = about.readOnly
  }

  size(): number {
    return this.#try("ask for the size", undefined, () => this.#handle.getSize())
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.#try(`read ${buffer.length} bytes`, offset, () => {
      let done = this.#handle.read(buffer, { at: offset })
      while (done < buffer.length) {
        const more = this.#handle.read(buffer.subarray(done), { at: offset + done })
        if (more === 0) break
        done += more
      }
      return done
    })
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    return this.read(buffer.subarray(start, start + length), offset)
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    let done = 0
    for (const buffer of buffers) {
      const count = this.read(buffer, offset + done)
      done += count
      if (count < buffer.length) break
    }
    return done
  }

  write(buffer: Uint8Array, offset: number): void {
    this.#checkWritable()
    let done = 0
    while (done < buffer.length) {
      const part = done === 0 ? buffer : buffer.subarray(done)
      const count = this.#try(`write ${buffer.length} bytes`, offset, () => this.#handle.write(part, { at: offset + done }))
      if (count === 0) throw storedNothing(buffer.length, this.path, offset)
      done += count
    }
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.write(buffer.subarray(start, start + length), offset)
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    let at = offset
    for (const buffer of buffers) {
      this.write(buffer, at)
      at += buffer.length
    }
  }

  truncate(size: number): void {
    this.#checkWritable()
    this.#try(`set the size to ${size}`, undefined, () => this.#handle.truncate(size))
  }

  sync(): void {
    if (this.#syncFailure !== undefined) throw this.#syncFailure
    try {
      if (!this.readOnly) this.#handle.flush()
    } catch (error) {
      this.#syncFailure = opfsError(error, "flush", this.path)
      throw this.#syncFailure
    }
  }

  close(): void {
    this.#handle.close()
  }

  #checkWritable(): void {
    if (this.readOnly) throw new BackingError("read-only", "the file is open read-only", { path: this.path })
  }

  /** `act` makes only calls of the browser, so all of its errors are the browser's. */
  #try<T>(doing: string, offset: number | undefined, act: () => T): T {
    try {
      return act()
    } catch (error) {
      throw opfsError(error, doing, this.path, offset)
    }
  }
}
