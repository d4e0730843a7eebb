/**
 * Outbox: commands that wait to be written to a connection, in order. A write is copied piece by piece as it is sent, so that the other
 * side reads the first piece while the next one is copied.
 */
import { NBD_SIZE } from "../../protocol.ts"
import type { Command } from "../command.ts"
import type { WriteBuffer } from "../write-buffers.ts"

/** A command is about to be written: its header goes to the first bytes of `bytes`. */
type Begin = (command: Command, bytes: Uint8Array) => void

export class Outbox {
  readonly #commands: Command[] = []
  /** Bytes of the first command, a WRITE, that have been taken. */
  #taken = 0

  /** Commands that were not completely taken. */
  get length(): number {
    return this.#commands.length
  }

  /** Commands of which no byte was taken. */
  get waiting(): readonly Command[] {
    return this.#taken > 0 ? this.#commands.slice(1) : this.#commands
  }

  add(command: Command): void {
    this.#commands.push(command)
  }

  /** Whether only a part of `command` was taken. */
  isInside(command: Command): boolean {
    return this.#taken > 0 && command === this.#commands[0]
  }

  /**
   * Takes the next bytes to write, `most` or a few more. Calls `begin` for each command that begins in them, to store its header. Headers
   * of consecutive commands without payload share a buffer; a WRITE has its own, followed by its payload.
   */
  take(most: number, begin: Begin): Uint8Array[] {
    const buffers: Uint8Array[] = []
    let left = most
    for (let [first] = this.#commands; first !== undefined && left > 0; [first] = this.#commands) {
      const bytes = first.wire === undefined ? this.#takeHeaders(begin) : this.#takeWrite(first, { wire: first.wire, most: left, begin })
      buffers.push(bytes)
      left -= bytes.length
    }
    return buffers
  }

  /** The headers of the commands up to the next WRITE. */
  #takeHeaders(begin: Begin): Uint8Array {
    const next = this.#commands.findIndex(({ wire }) => wire !== undefined)
    const taken = this.#commands.splice(0, next < 0 ? this.#commands.length : next)
    const headers = new Uint8Array(taken.length * NBD_SIZE.request)
    for (const [index, command] of taken.entries()) {
      begin(command, headers.subarray(index * NBD_SIZE.request, (index + 1) * NBD_SIZE.request))
    }
    return headers
  }

  /** The next bytes of a WRITE, the first command. */
  #takeWrite(command: Command, { wire, most, begin }: { wire: WriteBuffer; most: number; begin: Begin }): Uint8Array {
    const { bytes } = wire
    const start = this.#taken
    const end = Math.min(Math.max(start + most, NBD_SIZE.request), bytes.length)
    if (start === 0) begin(command, bytes)
    wire.copyTo(end)
    this.#taken = end
    if (end === bytes.length) {
      this.#commands.shift()
      this.#taken = 0
    }
    return start === 0 && end === bytes.length ? bytes : bytes.subarray(start, end)
  }
}
