/**
 * Interrupts: the sink of a machine's interrupts: the level of every line, and the MSI messages in order. An emulator passes them on to its
 * interrupt controllers; drivers and tests read them.
 */
import { checkValue } from "../options.ts"
import type { PciInterrupts } from "../pci/function.ts"

/** A message-signalled interrupt: a store of 32 bits of `data` at the guest-physical `address`. */
export interface MsiMessage {
  readonly address: number
  readonly data: number
}

/** The argument of a listener. Read a line's level with `level(line)`, because another listener may have changed it. */
export type InterruptChange = { readonly type: "line"; readonly line: number } | { readonly type: "message"; readonly message: MsiMessage }

/** The interrupt outputs of one function. */
export interface InterruptConnection extends PciInterrupts {
  /** Lowers the pin, and ignores later interrupts of the function. */
  disconnect(): void
}

/** Maximum of kept messages; beyond it the oldest are dropped. */
export const MAX_KEPT_MESSAGES = 65536

/** The interrupts of a machine's devices: levels by line, and messages in order. */
export class Interrupts {
  /** Number of functions that raise each line. */
  readonly #holders: number[] = []
  /** A circular buffer once it is full: the oldest message is at #oldest. */
  #messages: MsiMessage[] = []
  #oldest = 0
  #dropped = 0
  /** Replaced, never changed, so that listeners may subscribe or leave during a call. */
  #listeners: readonly ((change: InterruptChange) => void)[] = []

  /** The level of `line`: true while any function that shares it interrupts. */
  level(line: number): boolean {
    return (this.#holders[line] ?? 0) > 0
  }

  /** The raised lines, in ascending order. */
  get raised(): readonly number[] {
    return [...this.#holders.keys()].filter((line) => this.level(line))
  }

  /** A copy of the messages since the last `takeMessages`, oldest first; at most the newest 65536. */
  get messages(): readonly MsiMessage[] {
    return [...this.#messages.slice(this.#oldest), ...this.#messages.slice(0, this.#oldest)]
  }

  /** Number of messages dropped so far, because nobody took them. */
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

  /**
   * Calls `listener` after each change of a line's level and each message, within the access that caused it. Returns a function that ends
   * it.
   */
  subscribe(listener: (change: InterruptChange) => void): () => void {
    checkValue("Interrupts.subscribe", "listener", listener, "function")
    // A new function, so that one listener may subscribe twice.
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
