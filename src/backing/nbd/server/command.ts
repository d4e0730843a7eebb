/** Commands: execute requests on the disk, in pieces of about a millisecond. A session runs them and sends their answers. */
import type { VirtioBacking } from "../../backing.ts"
import type { Request } from "../transmission-messages.ts"
import type { ByteQueue } from "./byte-queue.ts"
import { discard, flush, write, writePiece, writeZeroes, zeroesAtOnce } from "./disk-calls.ts"
import { type Refusal, simpleReply } from "./replies.ts"

/** The session, as its commands use it. */
export interface Client {
  readonly backing: VirtioBacking
  /** Replies are structured. */
  readonly structured: boolean
  /** `sent` is called once, when the host has taken `bytes` or the connection is gone. */
  send(bytes: Uint8Array, sent?: () => void): void
  /** Answers `request` with an error. */
  refuse(request: Request, refusal: Refusal): void
  /** Releases memory that a command was granted. */
  release(bytes: number): void
}

/** A request in progress. The session calls `start` and then `finish` for each piece, until `finish` returns true. */
export interface Command {
  readonly request: Request
  /** Bytes of an answer that is being prepared. */
  readonly filling: number
  /** The byte of the disk where a read is. */
  readonly position?: number
  /** Begins the next piece. @throws errors of the disk */
  start(): void | Promise<void>
  /** The piece is done: sends its answer, if any. Returns whether the command has ended. */
  finish(): boolean
  /** Ends the command early: it failed, or the client is gone. */
  abandon(): void
}

/** A command that answers with success and nothing else. */
abstract class PlainCommand implements Command {
  readonly request: Request
  readonly filling = 0
  protected readonly client: Client

  constructor(client: Client, request: Request) {
    this.client = client
    this.request = request
  }

  abstract start(): void | Promise<void>

  finish(): boolean {
    if (!this.isDone()) return false
    this.client.send(simpleReply(this.request, 0))
    return true
  }

  abandon(): void {}

  protected abstract isDone(): boolean
}

/** A command that changes a range, piece by piece, and then flushes if the client has set FUA. */
abstract class ChangingCommand extends PlainCommand {
  readonly #mustFlush: boolean
  #done = 0
  #hasFlushed = false
  #piece = 0

  constructor(client: Client, request: Request, options: { readonly mustFlush: boolean }) {
    super(client, request)
    this.#mustFlush = options.mustFlush
  }

  start(): void | Promise<void> {
    const left = this.request.length - this.#done
    if (left === 0) {
      this.#hasFlushed = true
      return this.#mustFlush ? flush(this.client.backing) : undefined
    }
    const offset = this.request.offset + this.#done
    this.#piece = this.lengthOf(offset, left)
    return this.change(offset, this.#piece)
  }

  protected isDone(): boolean {
    this.#done += this.#piece
    this.#piece = 0
    return this.#done === this.request.length && (this.#hasFlushed || !this.#mustFlush)
  }

  /** Bytes of the next piece, of `left` from `offset`. */
  protected abstract lengthOf(offset: number, left: number): number
  protected abstract change(offset: number, length: number): void | Promise<void>
}

/** NBD_CMD_WRITE. The budget has granted the memory of its payload. */
export class WriteCommand extends ChangingCommand {
  readonly #payload: ByteQueue

  constructor(client: Client, request: Request, options: { readonly payload: ByteQueue; readonly mustFlush: boolean }) {
    super(client, request, options)
    this.#payload = options.payload
  }

  override finish(): boolean {
    if (!super.finish()) return false
    this.client.release(this.request.length)
    return true
  }

  override abandon(): void {
    this.#payload.clear()
    this.client.release(this.request.length)
  }

  protected lengthOf(offset: number, left: number): number {
    return writePiece(this.client.backing, offset, left)
  }

  protected change(offset: number, length: number): void | Promise<void> {
    return write(this.client.backing, this.#payload.takeViews(length), offset)
  }
}

/** NBD_CMD_WRITE_ZEROES. */
export class ZeroCommand extends ChangingCommand {
  readonly #mayUnmap: boolean

  constructor(client: Client, request: Request, options: { readonly mayUnmap: boolean; readonly mustFlush: boolean }) {
    super(client, request, options)
    this.#mayUnmap = options.mayUnmap
  }

  protected lengthOf(offset: number, left: number): number {
    return rangePiece(this.client.backing, { offset, left, mayUnmap: this.#mayUnmap })
  }

  protected change(offset: number, length: number): void | Promise<void> {
    return writeZeroes(this.client.backing, offset, length, this.#mayUnmap)
  }
}

/** NBD_CMD_TRIM. */
export class TrimCommand extends ChangingCommand {
  protected lengthOf(offset: number, left: number): number {
    return rangePiece(this.client.backing, { offset, left, mayUnmap: true })
  }

  protected change(offset: number, length: number): void | Promise<void> {
    return discard(this.client.backing, offset, length)
  }
}

/** NBD_CMD_FLUSH: makes all answered writes durable. */
export class FlushCommand extends PlainCommand {
  start(): void | Promise<void> {
    return flush(this.client.backing)
  }

  protected isDone(): boolean {
    return true
  }
}

/** A refused request, answered in order. */
export class RefusedCommand implements Command {
  readonly request: Request
  readonly filling = 0
  readonly #client: Client
  readonly #refusal: Refusal

  constructor(client: Client, request: Request, refusal: Refusal) {
    this.#client = client
    this.request = request
    this.#refusal = refusal
  }

  start(): void {}

  finish(): boolean {
    this.#client.refuse(this.request, this.#refusal)
    return true
  }

  abandon(): void {}
}

/**
 * Bytes to zero or discard in one call. All pieces but the last end at a multiple of the disk's granularity, because cutting a cluster
 * would free neither half.
 */
function rangePiece(backing: VirtioBacking, { offset, left, mayUnmap }: { offset: number; left: number; mayUnmap: boolean }): number {
  const most = zeroesAtOnce(backing, mayUnmap)
  if (left <= most) return left
  const beyond = (offset + most) % (backing.discardGranularity ?? 512)
  return beyond < most ? most - beyond : most
}
