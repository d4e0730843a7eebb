/** Commands that wait to be sent, first come, first served. */
import type { Command } from "./command.ts"

export class CommandQueue {
  #commands: (Command | undefined)[] = []
  #head = 0

  get first(): Command | undefined {
    return this.#commands[this.#head]
  }

  get isEmpty(): boolean {
    return this.#head === this.#commands.length
  }

  add(command: Command): void {
    this.#commands.push(command)
  }

  /** Takes the first one out. */
  take(): Command | undefined {
    const command = this.#commands[this.#head]
    if (command === undefined) return undefined
    this.#commands[this.#head++] = undefined
    // The front is empty. Cutting it off now and then is faster than shifting each time.
    if (this.#head === this.#commands.length || this.#head >= 1024) {
      this.#commands = this.#commands.slice(this.#head)
      this.#head = 0
    }
    return command
  }

  /** Puts commands before all others. */
  putBack(commands: readonly Command[]): void {
    this.#commands = [...commands, ...this.#commands.slice(this.#head)]
    this.#head = 0
  }

  /** Removes and returns the commands for which `isWanted` is true. */
  removeWhere(isWanted: (command: Command) => boolean): readonly Command[] {
    const all = this.#commands.slice(this.#head).filter((command) => command !== undefined)
    this.#commands = all.filter((command) => !isWanted(command))
    this.#head = 0
    return all.filter(isWanted)
  }
}
