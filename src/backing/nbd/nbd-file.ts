/** nbdFile: an export as a file that answers later, for images in any format behind an NBD server. */
import { checkValue } from "../../options.ts"
import type { AsyncImageFile } from "../async-image-file.ts"
import { BackingError } from "../backing.ts"
import { BlockAccess } from "./client/block-access.ts"
import type { NbdHost } from "./client/connect.ts"
import { NbdClient } from "./client/client.ts"
import { NbdDisk } from "./nbd-disk.ts"
import { checkTlsOptions, type NbdOptions, type NbdSettings, nbdSettings } from "./client/options.ts"
import { type NbdAddress, parseNbdUri } from "./client/uri.ts"

/** What `nbdFile` returns. `host` is for tests. */
export class NbdFile implements AsyncImageFile {
  readonly path: string
  readonly #address: NbdAddress
  readonly #settings: NbdSettings
  readonly #host: NbdHost | undefined
  #opening: Promise<BlockAccess> | undefined
  /** What `#opening` resolved to. */
  #blocks: BlockAccess | undefined
  #isClosed = false

  constructor(address: NbdAddress, settings: NbdSettings, host?: NbdHost) {
    this.path = address.uri
    this.#address = address
    this.#settings = settings
    this.#host = host
  }

  /** What the options say; from the first answer on, also what the server says. */
  get readOnly(): boolean {
    return this.#blocks?.readOnly ?? this.#settings.readOnly
  }

  /** The size of the export, from the first answer on. */
  get largestSize(): number {
    return this.#blocks?.size ?? Number.POSITIVE_INFINITY
  }

  async size(): Promise<number> {
    return (await this.#open()).size
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    const blocks = await this.#open()
    const length = Math.max(0, Math.min(buffer.length, blocks.size - offset))
    if (length > 0) await blocks.read(buffer.subarray(0, length), offset)
    return length
  }

  async write(buffer: Uint8Array, offset: number): Promise<void> {
    const blocks = await this.#openForWriting()
    if (offset + buffer.length > blocks.size) throw this.#tooSmall(offset + buffer.length, blocks)
    await blocks.write(buffer, offset)
  }

  async truncate(size: number): Promise<void> {
    const blocks = await this.#openForWriting()
    if (size > blocks.size) throw this.#tooSmall(size, blocks)
    if (size === blocks.size) return
    throw new BackingError("unsupported", `an export cannot be truncated to ${size} bytes: the server sets its size`, { path: this.path })
  }

  async sync(): Promise<void> {
    const blocks = await this.#openForWriting()
    await blocks.flush()
  }

  punchHole(offset: number, length: number): Promise<boolean> {
    return this.#zero(offset, length, { mayUnmap: true })
  }

  zeroRange(offset: number, length: number): Promise<boolean> {
    return this.#zero(offset, length, { mayUnmap: false })
  }

  async disk({ readOnly }: { readonly readOnly: boolean }): Promise<NbdDisk> {
    const blocks = await this.#open()
    return new NbdDisk(blocks, this.path, { readOnly: readOnly || this.#settings.readOnly })
  }

  async close(): Promise<void> {
    this.#isClosed = true
    const opening = this.#opening
    if (opening === undefined) return
    // One that could not be opened has nothing to close; whoever opened it was told.
    const blocks = await opening.catch(() => undefined)
    await blocks?.close({ flush: false })
  }

  /** Asks only for zeroes that the server makes without writing them. */
  async #zero(offset: number, length: number, { mayUnmap }: { readonly mayUnmap: boolean }): Promise<boolean> {
    const blocks = await this.#openForWriting()
    if (!blocks.canZero) return false
    try {
      await blocks.zero(offset, length, { mayUnmap, fast: true })
      return true
    } catch (error) {
      if (error instanceof BackingError && error.code === "unsupported") return false
      throw error
    }
  }

  #tooSmall(size: number, blocks: BlockAccess): BackingError {
    const message = `the file would have ${size} bytes, and the export has ${blocks.size}; make the export larger`
    return new BackingError("no-space", message, { path: this.path })
  }

  async #openForWriting(): Promise<BlockAccess> {
    const blocks = await this.#open()
    if (blocks.readOnly) throw new BackingError("read-only", "the export is read-only", { path: this.path })
    return blocks
  }

  /** Connects with the first call. One that failed may be made again. */
  #open(): Promise<BlockAccess> {
    if (this.#isClosed) return Promise.reject(new BackingError("closed", "the file has been closed", { path: this.path }))
    this.#opening ??= this.#connect().catch((error: unknown) => {
      this.#opening = undefined
      throw error
    })
    return this.#opening
  }

  async #connect(): Promise<BlockAccess> {
    const client = await NbdClient.open(this.#address, this.#settings, this.#host)
    this.#blocks = new BlockAccess(client, this.#settings)
    return this.#blocks
  }
}

/**
 * An export of an NBD server as a file, for `openDisk`: `nbd://host:port/export`, `nbds://` with TLS, `nbd+unix:///export?socket=PATH`. It
 * connects with the first call. An export has the size that the server gave it: an image in it grows up to there, and what needs more room
 * then fails with `no-space`. `createDisk` with `overwrite` makes an image in one.
 * @throws BackingError `invalid-argument` when the URI is wrong
 */
export function nbdFile(uri: string, options: NbdOptions = {}): AsyncImageFile {
  checkValue("nbdFile", "uri", uri, "string")
  const [address, settings] = [parseNbdUri(uri), nbdSettings("nbdFile", options)]
  checkTlsOptions(address, settings)
  return new NbdFile(address, settings)
}
