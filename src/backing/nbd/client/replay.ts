/** Writes that are sent again after a reconnection, in their old order, before anything else is sent. */
import type { Command } from "./command.ts"

export class Replay {
  readonly #commands: readonly Command[]
  #sent = 0
  readonly #inFlight = new Set<Command>()

  constructor(commands: readonly Command[]) {
    this.#commands = commands
  }

  get isOver(): boolean {
    return this.#sent === this.#commands.length && this.#inFlight.size === 0
  }

  /** The next one to send; undefined if others must be answered first. */
  next(): Command | undefined {
    const next = this.#commands[this.#sent]
    if (next === undefined) return undefined
    // A server may serve requests in any order: of two writes to one place, the second waits for the first.
    for (const other of this.#inFlight) if (other.overlaps(next)) return undefined
    this.#sent++
    this.#inFlight.add(next)
    return next
  }

  /** The server has answered. Returns whether it is a write of this replay. */
  answered(command: Command): boolean {
    return this.#inFlight.delete(command)
  }
}
