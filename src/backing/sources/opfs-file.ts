/** opfsFile: a file in a browser's origin private file system (OPFS), for disks on a page's own thread. */
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError } from "../backing.ts"
import { storedNothing } from "./opfs-errors.ts"
import { OpfsConnection } from "./opfs-connection.ts"
import { type OpfsWorker, startWorker } from "./opfs-start.ts"

/** Options of `opfsFile`. */
export interface OpfsFileOptions {
  /** Opens for reading only; others may read meanwhile. Default false. */
  readonly readOnly?: boolean
  /** Makes the file and its folders if they are missing. Default false: a missing file is `not-found`. */
  readonly create?: boolean
  /**
   * A worker that runs the module `vioblk/opfs-worker`, for a page whose Content Security Policy does not allow `worker-src blob:`. It can
   * serve any number of files, and the caller has to end it. Default: a worker for this file, from a blob: URL.
   */
  readonly worker?: OpfsWorker
}

const OPFS_FILE_RULES: Rules<OpfsFileOptions> = { readOnly: "boolean?", create: "boolean?", worker: "object?" }

/** Most bytes in one message to or from the worker. */
const PIECE = 1 << 22

/**
 * Opens a file of the origin private file system, in a page or in a worker. Browsers give synchronous access to such files only in workers,
 * so a small worker of ours does the work. Until the file is closed, nobody else can open it for writing.
 * @param path names with "/" between them, from the root of the origin's file system
 * @throws BackingError (as a rejection) `not-found`; `busy` if another tab or worker has it open; `unsupported` if the browser has no such
 * file system (outside secure contexts) or starts no worker
 * @throws TypeError (as a rejection) for wrong arguments
 */
export async function opfsFile(path: string, options: OpfsFileOptions = {}): Promise<AsyncImageFile> {
  checkValue("opfsFile", "path", path, "string")
  checkOptions("opfsFile", options, OPFS_FILE_RULES)
  const { readOnly = false, create = false } = options
  const worker = options.worker ?? startWorker(path)
  const connection = new OpfsConnection(worker, { path, isOwn: options.worker === undefined })
  await connection.open({ path, readOnly, create })
  return readOnly ? new OpfsFile(connection, path) : new WritableOpfsFile(connection, path)
}

class OpfsFile implements AsyncImageFile {
  readonly path: string
  readonly lock = "exclusive"
  protected readonly connection: OpfsConnection
  #closing: Promise<void> | undefined

  constructor(connection: OpfsConnection, path: string) {
    this.connection = connection
    this.path = path
  }

  get readOnly(): boolean {
    return true
  }

  async size(): Promise<number> {
    const { count } = await this.connection.ask({ call: "size" }, "ask for the size")
    return count
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    let done = 0
    while (done < buffer.length) {
      const request = { call: "read", length: Math.min(buffer.length - done, PIECE), offset: offset + done } as const
      const { count, bytes } = await this.connection.ask(request, `read ${buffer.length} bytes`, offset)
      if (count === 0) break
      buffer.set(bytes.subarray(0, count), done)
      done += count
    }
    return done
  }

  close(): Promise<void> {
    this.#closing ??= this.connection.close()
    return this.#closing
  }
}

class WritableOpfsFile extends OpfsFile {
  /** The first failed flush: writes before it may be lost, so no later flush may succeed. */
  #syncFailure: BackingError | undefined

  override get readOnly(): boolean {
    return false
  }

  async write(buffer: Uint8Array, offset: number): Promise<void> {
    // The buffer has no length any more when its memory is transferred or grows meanwhile. Then `slice` throws, and the write fails.
    const { length } = buffer
    for (let done = 0; done < length; ) {
      // A copy, because the message transfers its buffer, and guest RAM must stay here.
      const bytes = buffer.slice(done, done + PIECE)
      const { count } = await this.connection.ask({ call: "write", bytes, offset: offset + done }, `write ${length} bytes`, offset)
      if (count === 0) throw storedNothing(length, this.path, offset)
      done += count
    }
  }

  async truncate(size: number): Promise<void> {
    await this.connection.ask({ call: "truncate", size }, `set the size to ${size}`)
  }

  async sync(): Promise<void> {
    if (this.#syncFailure !== undefined) throw this.#syncFailure
    try {
      await this.connection.ask({ call: "flush" }, "flush")
    } catch (error) {
      if (error instanceof BackingError) this.#syncFailure ??= error
      throw error
    }
    // One that was under way before this and failed may have dropped what this one should have flushed.
    if (this.#syncFailure !== undefined) throw this.#syncFailure
  }
}
