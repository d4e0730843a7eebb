/** blobFile: a `Blob`, or a `File` that a person picked in a page, as the file of a disk. */
import { checkMembers, checkOptions, reasonOf, type Rules } from "../../options.ts"
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError, type BackingErrorCode, type DiskVersion } from "../backing.ts"

/** The part of a `Blob` that `blobFile` uses: its declaration compiles without the DOM's types. */
export interface BlobLike {
  /** Bytes. */
  readonly size: number
  slice(start: number, end: number): { arrayBuffer(): Promise<ArrayBuffer> }
}

const BLOB_RULES: Rules<BlobLike> = { size: "number", slice: "function" }

/** Options of `blobFile`. */
export interface BlobFileOptions {
  /** The file's name in messages. Default: the name of a `File`, otherwise "blob". */
  readonly name?: string
}

const BLOB_FILE_RULES: Rules<BlobFileOptions> = { name: "string?" }

/**
 * `blob` as a read-only file. A `File` stands for the file on the user's disk as it was when it was picked: once that has changed or been
 * removed, reads reject with a `BackingError` (`io`, `not-found`), and the user must pick it again.
 *
 * @throws TypeError for wrong options, or a value that is not a Blob
 */
export function blobFile(blob: BlobLike, options: BlobFileOptions = {}): AsyncImageFile {
  checkMembers("blobFile", "the blob", blob, BLOB_RULES, "Blob")
  checkOptions("blobFile", options, BLOB_FILE_RULES)
  return new BlobFile(blob, options.name ?? nameOf(blob))
}

class BlobFile implements AsyncImageFile {
  readonly path: string
  readonly readOnly = true
  /** In a browser each read is a message to another process. */
  readonly preferredRead = 262_144
  readonly #blob: BlobLike
  #isClosed = false

  constructor(blob: BlobLike, name: string) {
    this.#blob = blob
    this.path = name
  }

  version(): DiskVersion {
    const { lastModified } = this.#blob as { readonly lastModified?: unknown }
    return { image: `file ${this.path}`, generation: `${this.#blob.size}:${String(lastModified)}` }
  }

  async size(): Promise<number> {
    this.#checkOpen()
    return this.#blob.size
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    this.#checkOpen()
    const length = Math.max(0, Math.min(buffer.length, this.#blob.size - offset))
    if (length === 0) return 0
    const bytes = await this.#bytes(offset, length)
    this.#checkOpen()
    if (bytes.byteLength !== length) {
      throw new BackingError("io", `the blob gave ${bytes.byteLength} bytes instead of ${length}`, { path: this.path, offset })
    }
    buffer.set(new Uint8Array(bytes))
    return length
  }

  async close(): Promise<void> {
    this.#isClosed = true
  }

  async #bytes(offset: number, length: number): Promise<ArrayBuffer> {
    try {
      return await this.#blob.slice(offset, offset + length).arrayBuffer()
    } catch (error) {
      // Any error of a Blob is a failure of the source.
      const { code, message } = failureOf(error)
      throw new BackingError(code, message, { path: this.path, offset, cause: error })
    }
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new BackingError("closed", "the file is closed", { path: this.path })
  }
}

/** The error names come from the File API, "Errors and Exceptions". */
function failureOf(error: unknown): { readonly code: BackingErrorCode; readonly message: string } {
  const name = error instanceof Error ? error.name : ""
  const remedy = "pick the file again"
  if (name === "NotReadableError") {
    return { code: "io", message: `the file changed, or cannot be read any more, since it was picked; ${remedy}` }
  }
  if (name === "NotFoundError") return { code: "not-found", message: `the file is gone since it was picked; ${remedy}` }
  if (name === "SecurityError") return { code: "permission", message: `the browser does not allow the file to be read; ${remedy}` }
  return { code: "io", message: `the blob cannot be read: ${reasonOf(error).slice(0, 200)}` }
}

function nameOf(blob: object): string {
  const name: unknown = Reflect.get(blob, "name")
  return typeof name === "string" && name !== "" ? name : "blob"
}
