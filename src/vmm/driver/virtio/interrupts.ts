/**
 * InterruptRouter: the guest's driver for its interrupt controller, one for each platform. It hears of every interrupt and calls the
 * handlers of its line or message.
 *
 * An access to a device register may raise an interrupt before the access returns. A real CPU takes the interrupt afterwards; drivers here
 * put `hold` and `release` around such accesses for the same effect.
 */
import { DriverError } from "../errors.ts"
import type { InterruptMessage, Platform } from "../platform.ts"

/** Handles an interrupt of a line. Returns whether the handler's device caused it: lines are shared. */
export type LineHandler = () => boolean
export type MessageHandler = () => void

/** A message that has been assigned to a handler. */
export interface AssignedMessage extends InterruptMessage {
  /** Ends the assignment. */
  release(): void
}

/** Local APIC addresses on x86: 0xFEE00000, destination id in bits 12-19; the vector is in bits 0-7 of the data. */
const MESSAGE_BASE = 0xfee0_0000
const MESSAGE_DESTINATION_STEP = 0x1000
const MESSAGE_DESTINATIONS = 256
/** The vectors below belong to exceptions and the old interrupt controller, the ones above to the APIC itself. */
const FIRST_VECTOR = 0x30
const VECTORS = 0xf0 - FIRST_VECTOR
/** The router gives a line up, until its next change, when it is still asserted after this many rounds of handlers. */
const ROUNDS_MAX = 1000

const routers = new WeakMap<Platform, InterruptRouter>()

/** Calls interrupt handlers. Get it from `InterruptRouter.of(platform)`: a message can be taken only once. */
export class InterruptRouter {
  /** Counts interrupts that no handler claimed. */
  spurious = 0
  readonly #platform: Platform
  readonly #lines = new Map<number, Set<LineHandler>>()
  readonly #messages = new Map<string, MessageHandler>()
  #unsubscribe: (() => void) | undefined
  #held = 0
  #isRunning = false
  #isPending = false

  private constructor(platform: Platform) {
    this.#platform = platform
  }

  static of(platform: Platform): InterruptRouter {
    let router = routers.get(platform)
    if (router === undefined) routers.set(platform, (router = new InterruptRouter(platform)))
    return router
  }

  /** Calls `handler` while `line` is asserted. Returns a function that ends it. */
  onLine(line: number, handler: LineHandler): () => void {
    const handlers = this.#lines.get(line) ?? new Set()
    handlers.add(handler)
    this.#lines.set(line, handlers)
    this.#listen()
    return () => {
      handlers.delete(handler)
      if (handlers.size === 0) this.#lines.delete(line)
      this.#listen()
    }
  }

  /** Picks a free message, and calls `handler` whenever it arrives. */
  assignMessage(handler: MessageHandler): AssignedMessage {
    for (let number = 0; number < VECTORS * MESSAGE_DESTINATIONS; number++) {
      const address = MESSAGE_BASE + Math.floor(number / VECTORS) * MESSAGE_DESTINATION_STEP
      const data = FIRST_VECTOR + (number % VECTORS)
      const key = keyOf(address, data)
      if (this.#messages.has(key)) continue
      this.#messages.set(key, handler)
      this.#listen()
      const release = (): void => {
        this.#messages.delete(key)
        this.#listen()
      }
      return { address, data, release }
    }
    throw new DriverError("unsupported", "all interrupt messages are in use")
  }

  /** Keeps handlers from running until `release`. Calls may nest. */
  hold(): void {
    this.#held++
  }

  /** Ends one `hold`. After the last one, handlers run for all that came meanwhile. */
  release(): void {
    this.#held--
    if (this.#held === 0 && this.#isPending) this.#dispatch()
  }

  #listen(): void {
    const isNeeded = this.#lines.size > 0 || this.#messages.size > 0
    if (isNeeded) this.#unsubscribe ??= this.#platform.interrupts.subscribe(() => this.#dispatch())
    else {
      this.#unsubscribe?.()
      this.#unsubscribe = undefined
    }
  }

  #dispatch(): void {
    this.#isPending = true
    if (this.#held > 0 || this.#isRunning) return
    this.#isRunning = true
    try {
      for (let round = 0; this.#isPending && round < ROUNDS_MAX; round++) {
        this.#isPending = false
        this.#deliverMessages()
        for (const [line, handlers] of this.#lines) this.#deliverLine(line, handlers)
      }
    } finally {
      this.#isRunning = false
    }
  }

  #deliverMessages(): void {
    // Without handlers, messages stay where they are: a test may take them itself.
    if (this.#messages.size === 0) return
    for (const message of this.#platform.interrupts.takeMessages()) {
      const handler = this.#messages.get(keyOf(message.address, message.data))
      if (handler === undefined) this.spurious++
      else handler()
    }
  }

  #deliverLine(line: number, handlers: ReadonlySet<LineHandler>): void {
    if (!this.#platform.interrupts.level(line)) return
    let isOurs = false
    for (const handler of handlers) if (handler()) isOurs = true
    if (!isOurs) this.spurious++
    // The line is still asserted after its device was served: the device has raised it again. An unclaimed line would loop here forever.
    else if (this.#platform.interrupts.level(line)) this.#isPending = true
  }
}

function keyOf(address: number, data: number): string {
  return `${address}:${data}`
}
