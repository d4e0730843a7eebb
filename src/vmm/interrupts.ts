/**
 * Interrupts: where the interrupts of a machine's devices end up: the level of every line, and the MSI messages in order. An emulator
 * passes them on to its interrupt controllers; drivers and tests look at them.
 */
import { checkValue } from "../options.ts"
import type { PciInterrupts } from "../pci/function.ts"

/** A message-signalled interrupt: a store of 32 bits of `data` at the guest-physical `address`. */
export interface MsiMessage {
  readonly address: number
  readonly data: number
}

/** What a listener hears. A line's level is asked for with `level(line)`: another listener may have changed it meanwhile. */
export type InterruptChange = { readonly type: "line"; readonly line: number } | { readonly type: "message"; readonly message: MsiMessage }

/** The interrupt outputs of one function. */
export interface InterruptConnection extends PciInterrupts {
  /** Lowers the pin; whatever the function still sends afterwards is ignored. */
  disconnect(): void
}

/** Messages that nobody takes are kept up to here; then the oldest go. */
export const MAX_KEPT_MESSAGES = 65536

/** Where the interrupts of the devices of a machine end up: levels by line, and messages in order. */
export class Interrupts {
  /** By line: how many functions hold it up. */
  readonly #holders: number[] = []
  /** A ring once it is full: the oldest is at #oldest. */
  #messages: MsiMessage[] = []
  #oldest = 0
  #dropped = 0
  /** Replaced, never changed, so that listeners may come and go while they are being called. */
  #listeners: readonly ((change: InterruptChange) => void)[] = []

  /** The level of `line`: true while any function that shares it interrupts. */
  level(line: number): boolean {
    return (this.#holders[line] ?? 0) > 0
  }

  /** The lines that are up, in ascending order. */
  get raised(): readonly number[] {
    return [...this.#holders.keys()].filter((line) => this.level(line))
  }

  /** The messages that have come since they were last taken, oldest first; the newest 65536. A copy. */
  get messages(): readonly MsiMessage[] {
    return [...this.#messages.slice(this.#oldest), ...this.#messages.slice(0, this.#oldest)]
  }

  /** How many messages were discarded because nobody took them, ever. */
  get dropped(): number {
    return this.#dropped
  }

  /** Returns `messages` and forgets them. */
  takeMessages(): readonly MsiMessage[] {
    const messages = this.#oldest === 0 ? this.#messages : this.messages
    this.#messages = []
    this.#oldest = 0
    return messages
  }

  /** Calls `listener` after each change of a line's level and each message, within the access that caused it. Returns what ends that. */
  subscribe(listener: (change: InterruptChange) => void): () => void {
    checkValue("Interrupts.subscribe", "listener", listener, "function")
    // A function of its own, so that the same listener may subscribe twice.
    const call = (change: InterruptChange): void => listener(change)
    this.#listeners = [...this.#listeners, call]
    return () => {
      this.#listeners = this.#listeners.filter((other) => other !== call)
    }
  }

  /** The outputs of a function whose pin is wired to `line`. */
  connect(line: number): InterruptConnection {
    let raised = false
    let connected = true
    const drive = (level: boolean): void => {
      if (level === raised) return
      raised = level
      this.#hold(line, level ? 1 : -1)
    }
    return {
      intx: (level) => {
        if (connected) drive(level)
      },
      message: (address, data) => {
        if (connected) this.#deliver({ address, data })
      },
      disconnect: () => {
        connected = false
        drive(false)
      },
    }
  }

  #hold(line: number, change: 1 | -1): void {
    const before = this.level(line)
    this.#holders[line] = (this.#holders[line] ?? 0) + change
    if (this.level(line) !== before) this.#tell({ type: "line", line })
  }

  #deliver(message: MsiMessage): void {
    if (this.#messages.length < MAX_KEPT_MESSAGES) this.#messages.push(message)
    else {
      this.#messages[this.#oldest] = message
      this.#oldest = (this.#oldest + 1) % MAX_KEPT_MESSAGES
      this.#dropped++
    }
    this.#tell({ type: "message", message })
  }

  #tell(change: InterruptChange): void {
    for (const listener of this.#listeners) listener(change)
  }
}
