/**
 * Unflushed: writes that the server may lose, because it has not answered or not flushed them. After a reconnection they are sent again, in
 * their first order, before anything else: a server that crashed may have lost acknowledged writes, and the client cannot tell a crash from
 * a cut cable. Flushed writes are not sent again.
 */
import { NBD_CMD } from "../protocol.ts"
import type { Command } from "./command.ts"
import { WriteBuffers } from "./write-buffers.ts"

/** Memory of an entry beside its bytes. */
const ENTRY_BYTES = 256

export class Unflushed {
  readonly #limit: number
  /** Whether answered writes are kept. */
  readonly #isKeeping: boolean
  readonly #commands = new Set<Command>()
  readonly #buffers = new WriteBuffers()
  /** Number of answered writes. */
  #answers = 0
  /** The number of the last answer that a flush has covered. */
  #flushed = 0
  /** Bytes kept for answered writes. */
  #bytes = 0

  /**
   * @param limit bytes of answered writes above which `isFull`
   * @param options `keepAnswered` is false if writes are durable when they are answered, or if there is no reconnection
   */
  constructor(limit: number, options: { readonly keepAnswered: boolean }) {
    this.#limit = limit
    this.#isKeeping = options.keepAnswered
  }

  /** Whether to send no more writes until a flush has made room. */
  get isFull(): boolean {
    return this.#bytes > this.#limit
  }

  /** Whether to send a flush now, along with the writes for which there is still room. */
  get isHalfFull(): boolean {
    return this.#bytes > this.#limit / 2
  }

  /** Whether some answered writes have not been flushed. */
  get isDirty(): boolean {
    return this.#answers > this.#flushed
  }

  /** The number of the last answer: what a FLUSH that is sent now will cover. */
  get answers(): number {
    return this.#answers
  }

  /** A change is about to be sent, for the first time or again. */
  sent(command: Command): void {
    this.#commands.add(command)
    if (command.type === NBD_CMD.WRITE && command.buffer !== undefined) command.wire ??= this.#buffers.take(command.buffer)
  }

  /** The server has answered a write. `keep` is false if nothing can be lost: it failed, or it was a TRIM. */
  answered(command: Command, { keep }: { readonly keep: boolean }): void {
    if (command.answer !== 0) return
    command.answer = ++this.#answers
    if (keep && this.#isKeeping) this.#bytes += costOf(command)
    else this.#forget(command, { isRead: command.error === undefined })
  }

  /** The server has flushed all writes up to answer number `answer`. */
  flushed(answer: number): void {
    this.#flushed = Math.max(this.#flushed, answer)
    for (const command of this.#commands) {
      if (command.answer === 0 || command.answer > answer) continue
      this.#bytes -= costOf(command)
      this.#forget(command, { isRead: true })
    }
    this.#buffers.trim()
  }

  /** Removes and returns the unanswered writes, for which nobody waits any more. */
  dropUnanswered(): readonly Command[] {
    const dropped = [...this.#commands].filter(({ answer }) => answer === 0)
    for (const command of dropped) this.#forget(command, { isRead: false })
    return dropped
  }

  /** The writes to send again, in order. */
  all(): readonly Command[] {
    return [...this.#commands]
  }

  /** `isRead`: the server has read all of it. It may refuse a write before it has, and then the socket still sends from the buffer. */
  #forget(command: Command, { isRead }: { readonly isRead: boolean }): void {
    this.#commands.delete(command)
    if (isRead && command.wire !== undefined) this.#buffers.give(command.wire)
    command.wire = undefined
  }
}

function costOf({ wire }: Command): number {
  return (wire?.size ?? 0) + ENTRY_BYTES
}
