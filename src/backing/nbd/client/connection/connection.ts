/** One connection in the transmission phase: finds commands by their cookie, collects requests into one write, and parses answers. */
import { NBD_CMD, NBD_SIZE, NbdProtocolError } from "../../protocol.ts"
import { writeRequest } from "../../transmission-messages.ts"
import { viewOf } from "../../../bytes/fields.ts"
import type { Command } from "../command.ts"
import { Outbox } from "./outbox.ts"
import { type ReplyContext, ReplyParser, type ReplySink } from "./reply-parser.ts"
import type { Wire, WireReader } from "../wire.ts"

/** Maximum of bytes written in one turn of the event loop: unsent bytes take memory here, and delay reads. */
const WRITTEN_AT_ONCE = 128 * 1024

/** The owner of a connection, with callbacks. */
export interface ConnectionOwner {
  /** The server has answered `command`; `command.error` says whether it failed. */
  answered(command: Command): void
  /** All received bytes have been processed, so all commands that were answered together are known. */
  idle(): void
  /** The connection is over. Its commands in flight are not answered. */
  lost(connection: Connection, error: Error | undefined): void
  /** The server broke the protocol. The connection has been destroyed. */
  violated(error: NbdProtocolError): void
}

export class Connection implements WireReader, ReplySink {
  readonly #wire: Wire
  readonly #owner: ConnectionOwner
  readonly #parser: ReplyParser
  readonly #slots: (Command | undefined)[]
  /** Use count of each slot, the high half of its cookie, so that a late answer to an earlier command is detected. */
  readonly #uses: Uint32Array
  readonly #free: number[]
  /** Commands that wait to be written, and have no slots yet. */
  readonly #outbox = new Outbox()
  #isOver = false
  /** Bytes of payload in flight. */
  payload = 0

  /** @param size commands in flight at most */
  constructor(wire: Wire, context: ReplyContext, size: number, owner: ConnectionOwner) {
    this.#wire = wire
    this.#owner = owner
    this.#parser = new ReplyParser(context, this)
    this.#slots = Array.from({ length: size }, () => undefined)
    this.#uses = new Uint32Array(size)
    this.#free = Array.from({ length: size }, (_, index) => size - 1 - index)
  }

  /** Commands in flight. */
  get inFlight(): number {
    return this.#slots.length - this.#free.length + this.#outbox.waiting.length
  }

  get isOver(): boolean {
    return this.#isOver
  }

  get isFull(): boolean {
    return this.inFlight >= this.#slots.length
  }

  /** The commands in flight, in no order. */
  *commands(): Generator<Command> {
    for (const command of this.#slots) if (command !== undefined) yield command
    yield* this.#outbox.waiting
  }

  /** Sends a command, with others of the same turn of the event loop. There must be room. */
  send(command: Command): void {
    command.prepare()
    this.payload += command.payload
    this.#outbox.add(command)
    // Runs after the promises of this turn, so that requests of those who just got answers go out together.
    if (this.#outbox.length === 1) process.nextTick(this.#write)
  }

  /** Disconnects: NBD_CMD_DISC, and the end of the stream. */
  disconnect(): void {
    if (this.#isOver) return
    // Replayed writes may still wait to be sent, though nobody awaits them: a write must not be cut in the middle.
    if (this.#outbox.length > 0) this.#wire.write(this.#outbox.take(Number.POSITIVE_INFINITY, this.#begin))
    this.#isOver = true
    const header = new Uint8Array(NBD_SIZE.request)
    const nothing = { type: NBD_CMD.DISC, flags: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 }
    writeRequest(viewOf(header), 0, nothing)
    this.#wire.write([header])
    this.#wire.end()
  }

  /** Ends it at once, without calling the owner. */
  destroy(): void {
    this.#isOver = true
    this.#wire.destroy()
  }

  target(): Uint8Array {
    return this.#parser.target()
  }

  received(bytes: Uint8Array, length: number): void {
    if (this.#isOver) return
    try {
      this.#parser.take(bytes, length)
    } catch (error) {
      if (!(error instanceof NbdProtocolError)) throw error
      if (this.#isOver) return
      this.destroy()
      return this.#owner.violated(error)
    }
    if (!this.#isOver) this.#owner.idle()
  }

  ended(error: Error | undefined): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#owner.lost(this, error)
  }

  find(cookieHigh: number, cookieLow: number): Command | undefined {
    // The owner may have left during these bytes; the rest is dropped.
    return this.#uses[cookieLow] === cookieHigh && !this.#isOver ? this.#slots[cookieLow] : undefined
  }

  completed(cookieLow: number, command: Command): void {
    if (this.#outbox.isInside(command)) this.#sendRest(command)
    this.#slots[cookieLow] = undefined
    this.#free.push(cookieLow)
    this.payload -= command.payload
    this.#owner.answered(command)
  }

  /** A server may refuse a write before it has received all of it, but still reads the rest. */
  #sendRest(command: Command): void {
    if (command.error === undefined) throw new NbdProtocolError("a write succeeded before all of it was sent")
    this.#wire.write(this.#outbox.take(Number.POSITIVE_INFINITY, this.#begin))
  }

  readonly #write = (): void => {
    if (this.#isOver || this.#outbox.length === 0) return
    this.#wire.write(this.#outbox.take(WRITTEN_AT_ONCE, this.#begin))
    if (this.#outbox.length > 0) setImmediate(this.#write)
  }

  readonly #begin = (command: Command, bytes: Uint8Array): void => {
    const slot = this.#free.pop()
    if (slot === undefined) throw new Error("the connection has no room for a command")
    this.#slots[slot] = command
    this.#uses[slot] = (this.#uses[slot] ?? 0) + 1
    const { type, flags, offset, length } = command
    writeRequest(viewOf(bytes), 0, { type, flags, cookieHigh: this.#uses[slot] ?? 0, cookieLow: slot, offset, length })
  }
}
