/** Commands: what a request does to the disk, in pieces of about a millisecond. A session runs them and sends what they answer. */
import type { VirtioBacking } from "../../backing.ts"
import type { Request } from "../transmission-messages.ts"
import type { ByteQueue } from "./byte-queue.ts"
import { discard, flush, write, writePiece, writeZeroes, zeroesAtOnce } from "./disk-calls.ts"
import { type Refusal, simpleReply } from "./replies.ts"

/** What a command needs of the session that runs it. */
export interface Client {
  readonly backing: VirtioBacking
  /** Replies are structured. */
  readonly structured: boolean
  /** `sent` is called once: when the host has taken `bytes`, or when the connection is gone. */
  send(bytes: Uint8Array, sent?: () => void): void
  /** Answers `request` with an error. */
  refuse(request: Request, refusal: Refusal): void
  /** Gives back memory that a command was granted. */
  release(bytes: number): void
}

/** A request at work. The session calls `start`, and `finish` once that is done, in turn, until `finish` returns true. */
export interface Command {
  readonly request: Request
  /** Bytes of an answer that is being prepared. */
  readonly filling: number
  /** The byte of the disk where a read is. */
  readonly position?: number
  /** Does the next piece. @throws what the disk throws */
  start(): void | Promise<void>
  /** The piece is done. Sends what there is to send. Returns whether the command is over. */
  finish(): boolean
  /** The command is over before its end: it failed, or the client has gone. */
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

/** A command that changes a range, piece by piece, and then flushes where the client forces unit access. */
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

/** NBD_CMD_WRITE. Its payload is memory that it was granted. */
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

/** NBD_CMD_FLUSH: what was answered before is on stable storage afterwards. */
export class FlushCommand extends PlainCommand {
  start(): void | Promise<void> {
    return flush(this.client.backing)
  }

  protected isDone(): boolean {
    return true
  }
}

/** A request that is refused: the answer comes in its turn, as every other. */
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
 * Bytes to zero or discard in one call. A piece before the last ends on the disk's granularity: a cut through a cluster frees neither half.
 */
function rangePiece(backing: VirtioBacking, { offset, left, mayUnmap }: { offset: number; left: number; mayUnmap: boolean }): number {
  const most = zeroesAtOnce(backing, mayUnmap)
  if (left <= most) return left
  const beyond = (offset + most) % (backing.discardGranularity ?? 512)
  return beyond < most ? most - beyond : most
}
