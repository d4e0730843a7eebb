/** nbdDisk: an export as a raw disk. */
import { type AsyncDisposing, closesWithBlock } from "../../disposing.ts"
import { checkValue } from "../../options.ts"
import { BackingError, checkRange, type DiskVersion, type VirtioBacking } from "../backing.ts"
import { BlockAccess, type NbdExtent } from "./client/block-access.ts"
import { NbdClient } from "./client/client.ts"
import { checkTlsOptions, type NbdOptions, nbdSettings } from "./client/options.ts"
import { parseNbdUri } from "./client/uri.ts"

/** Bytes that one call discards, or zeroes: the server's work, not that of our thread. */
const TRIM_AT_ONCE = 2 ** 30
const ZEROES_AT_ONCE = 2 ** 27

/** `await using` closes it. */
export interface NbdDisk extends AsyncDisposing {}

/** A disk behind an NBD server. Every method answers with a promise. */
export class NbdDisk implements VirtioBacking {
  static { closesWithBlock(this, "later") }
  readonly asynchronous = true
  readonly size: number
  /** Also true if the server has the export read-only. */
  readonly readOnly: boolean
  readonly discardGranularity: number
  readonly zeroesAtOnce = ZEROES_AT_ONCE
  readonly unmapsAtOnce = TRIM_AT_ONCE
  /** Present if the server can flush. */
  readonly flush?: () => Promise<void>
  /** Present if the server knows NBD_CMD_TRIM. */
  readonly discard?: (offset: number, length: number) => Promise<void>
  /** Present if the server knows NBD_CMD_WRITE_ZEROES. */
  readonly writeZeroes?: (offset: number, length: number, mayUnmap: boolean) => Promise<void>
  readonly #blocks: BlockAccess
  readonly #uri: string
  #isClosed = false

  /** `nbdDisk` opens one. `uri` is for messages. */
  constructor(blocks: BlockAccess, uri: string, options: { readonly readOnly: boolean }) {
    this.#blocks = blocks
    this.#uri = uri
    this.size = blocks.size
    this.readOnly = blocks.readOnly || options.readOnly
    this.discardGranularity = blocks.preferredBlock
    if (blocks.canFlush) this.flush = () => this.#flush()
    if (blocks.canTrim && !this.readOnly) this.discard = (offset, length) => this.#change(offset, length, () => blocks.trim(offset, length))
    if (blocks.canZero && !this.readOnly) {
      this.writeZeroes = (offset, length, mayUnmap) => this.#change(offset, length, () => blocks.zero(offset, length, { mayUnmap }))
    }
  }

  /** The export's address. There is no generation, because the protocol cannot tell whether the export has changed. */
  version(): DiskVersion {
    return { image: this.#uri }
  }

  async pread(buffer: Uint8Array, offset: number): Promise<void> {
    this.#check(offset, buffer.length)
    if (buffer.length > 0) await this.#blocks.read(buffer, offset)
  }

  pwrite(buffer: Uint8Array, offset: number): Promise<void> {
    return this.#change(offset, buffer.length, () => this.#blocks.write(buffer, offset))
  }

  /**
   * The allocation of a range (`base:allocation`): at least one extent, in order, from `offset` on. They may end before the range does;
   * then ask again from there. For a server without this context, the result is one extent that is neither a hole nor zero.
   * @throws BackingError
   */
  async blockStatus(offset: number, length: number): Promise<readonly NbdExtent[]> {
    this.#check(offset, length)
    return this.#blocks.status(offset, length)
  }

  /**
   * Waits for requests in progress, flushes, and disconnects. Reads that a silent server does not answer fail after 10 to 20 s; writes and
   * flushes have the time of `requestTimeout`.
   * @throws BackingError if the server may have lost a write that it had answered
   */
  async close(): Promise<void> {
    this.#isClosed = true
    await this.#blocks.close({ flush: true })
  }

  async #flush(): Promise<void> {
    this.#check(0, 0)
    if (!this.readOnly) await this.#blocks.flush()
  }

  async #change(offset: number, length: number, change: () => Promise<void>): Promise<void> {
    this.#check(offset, length)
    if (this.readOnly) throw new BackingError("read-only", "the disk is read-only", { path: this.#uri })
    if (length > 0) await change()
  }

  #check(offset: number, length: number): void {
    if (this.#isClosed) throw new BackingError("closed", "the disk has been closed", { path: this.#uri })
    checkRange(this.size, offset, length, this.#uri)
  }
}

/**
 * Connects to an NBD server; the export is the disk, with no cache between: `nbd://host:port/export`, `nbds://` with TLS,
 * `nbd+unix:///export?socket=PATH`. A lost connection is re-established, see `reconnectTimeout`. It keeps the process alive until `close`.
 * @throws BackingError if the URI is wrong, nobody listens, or the server refuses
 */
export async function nbdDisk(uri: string, options: NbdOptions = {}): Promise<NbdDisk> {
  checkValue("nbdDisk", "uri", uri, "string")
  const settings = nbdSettings("nbdDisk", options)
  const address = parseNbdUri(uri)
  checkTlsOptions(address, settings)
  const client = await NbdClient.open(address, settings)
  return new NbdDisk(new BlockAccess(client, settings), uri, settings)
}
