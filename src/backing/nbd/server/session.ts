/**
 * Session: the transmission phase of one client. Takes requests from the socket while there is room, runs them piece by piece in its turns
 * of the thread, and sends the answers. A synchronous disk serves a client's requests in order; an asynchronous one serves several at once.
 */
import type { VirtioBacking } from "../../backing.ts"
import { NBD_CMD, NBD_SIZE } from "../protocol.ts"
import { readRequest, type Request } from "../transmission-messages.ts"
import { viewOf } from "../../bytes/fields.ts"
import type { Budget, Holder } from "./budget.ts"
import type { BufferPool } from "./buffer-pool.ts"
import { ByteQueue } from "./byte-queue.ts"
import type { Client, Command } from "./command.ts"
import { type Acceptance, type Terms, judge } from "./request-check.ts"
import { errorChunk, refusalOf, type Refusal, simpleReply } from "./replies.ts"
import type { Scheduler, Worker } from "./scheduler.ts"
import type { Agreement, Appetite, Phase, Wire } from "./wire.ts"

/** Maximum of requests of one client in progress. */
const MOST_REQUESTS = 128
/** Bytes of unread answers beyond which a client is not served. */
const MOST_UNSENT = 2 << 20
/** A smaller payload is copied, because a view would keep its whole chunk of 64 KiB alive. */
const KEPT_CHUNK = 1 << 14

export interface SessionOptions {
  readonly wire: Wire
  readonly agreement: Agreement
  readonly budget: Budget
  readonly scheduler: Scheduler
  readonly pool: BufferPool
  /** Called with errors of the disk. */
  onError(error: unknown): void
  /** The client has to go. */
  evict(): void
  /** The client is gone, and no call of the disk is in progress any more. */
  onIdle(): void
}

/** A write whose payload is being received, even a refused one. */
interface Incoming {
  readonly acceptance: Acceptance
  readonly payload: ByteQueue
  left: number
}

export class Session implements Phase, Worker, Client, Holder {
  isQueued = false
  readonly backing: VirtioBacking
  readonly structured: boolean
  readonly #options: SessionOptions
  readonly #wire: Wire
  readonly #terms: Terms
  /** A request for which there is no memory yet. */
  #pending: Acceptance | undefined
  #incoming: Incoming | undefined
  /** Commands with work to do; those in `#answered` finish a piece first. */
  readonly #ready: Command[] = []
  readonly #answered = new Set<Command>()
  /** Commands that wait for the disk. */
  readonly #waiting = new Set<Command>()
  /** Whether nothing more is taken from the client, which is disconnected after all answers. */
  #isEnding = false
  #isClosed = false

  constructor(options: SessionOptions) {
    const { agreement } = options
    this.#options = options
    this.#wire = options.wire
    this.backing = agreement.target.backing
    this.structured = agreement.structured
    this.#terms = { ...agreement, client: this, pool: options.pool }
  }

  /** Whether no call of the disk is in progress. */
  get isIdle(): boolean {
    return this.#waiting.size === 0
  }

  take(inbox: ByteQueue): Appetite {
    let appetite: Appetite | undefined
    // All received requests are parsed before the first is executed, so that their answers go out together.
    while (appetite === undefined && !this.#isEnding) appetite = this.#takeOne(inbox)
    if (this.#ready.length > 0) this.#options.scheduler.add(this)
    return appetite ?? "blocked"
  }

  drained(): void {
    this.#options.scheduler.add(this)
  }

  finish(): void {
    this.#isEnding = true
    this.#pending = undefined
    this.#dropIncoming()
    this.#endIfDone()
  }

  closed(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#isEnding = true
    this.#pending = undefined
    this.#dropIncoming()
    for (const command of this.#ready.splice(0)) command.abandon()
    this.#answered.clear()
    this.#options.budget.leave(this)
    if (this.isIdle) this.#options.onIdle()
  }

  wake(): void {
    this.#wire.proceed()
  }

  evict(): void {
    // A client may wait for a slow disk.
    if (this.isIdle) this.#options.evict()
  }

  /** Does one piece of the first command that can continue. */
  step(): boolean {
    const [command] = this.#ready
    if (command === undefined || this.#isClosed || this.#isFull()) return false
    const result = this.#goOn(command)
    if (result === false) return true
    this.#ready.shift()
    if (result === true) this.#over()
    else this.#waitFor(command, result)
    return this.#ready.length > 0
  }

  flush(): void {
    this.#wire.flush()
  }

  send(bytes: Uint8Array, sent?: () => void): void {
    if (sent === undefined) return this.#wire.send(bytes)
    this.#wire.send(bytes, () => {
      sent()
      if (this.#ready.length > 0) this.#options.scheduler.add(this)
    })
  }

  refuse(request: Request, refusal: Refusal): void {
    this.send(this.structured ? errorChunk(request, refusal) : simpleReply(request, refusal.error))
  }

  release(bytes: number): void {
    this.#options.budget.give(this, bytes)
    this.#wire.proceed()
  }

  /** Takes a request, or a part of one. Returns undefined if it can continue. */
  #takeOne(inbox: ByteQueue): Appetite | undefined {
    if (this.#incoming !== undefined) return this.#takePayload(inbox, this.#incoming) ? undefined : "more"
    if (this.#pending === undefined) {
      if (this.#ready.length + this.#waiting.size >= MOST_REQUESTS) return "blocked"
      if (inbox.length < NBD_SIZE.request) return "more"
      const request = readRequest(viewOf(inbox.take(NBD_SIZE.request)), 0)
      if (request.type === NBD_CMD.DISC) return void this.finish()
      this.#pending = judge(request, this.#terms)
    }
    return this.#admit(this.#pending) ? undefined : "blocked"
  }

  /** Takes the received part of a payload. Returns false if more has to come. */
  #takePayload(inbox: ByteQueue, incoming: Incoming): boolean {
    const { acceptance, payload } = incoming
    while (incoming.left > 0 && inbox.length > 0) {
      const part = inbox.takeSome(incoming.left)
      incoming.left -= part.length
      if (acceptance.memory > 0) payload.push(part.length < KEPT_CHUNK ? part.slice() : part)
    }
    if (incoming.left > 0) return false
    this.#incoming = undefined
    this.#ready.push(acceptance.command(payload))
    return true
  }

  /** Accepts a request. Returns false while there is no memory for it. */
  #admit(acceptance: Acceptance): boolean {
    const { memory, payload } = acceptance
    if (memory > 0 && !this.#options.budget.take(this, memory)) return false
    this.#pending = undefined
    if (payload > 0) this.#incoming = { acceptance, payload: new ByteQueue(), left: payload }
    else this.#ready.push(acceptance.command(new ByteQueue()))
    return true
  }

  #dropIncoming(): void {
    const memory = this.#incoming?.acceptance.memory ?? 0
    this.#incoming = undefined
    if (memory > 0) this.#options.budget.give(this, memory)
  }

  /** Does the next piece of a command. Returns whether it has ended, or the promise that it waits for. */
  #goOn(command: Command): boolean | Promise<void> {
    try {
      const later = this.#answered.delete(command) ? undefined : command.start()
      return later ?? command.finish()
    } catch (error) {
      this.#fail(command, error)
      return true
    }
  }

  /** Whether the client has to read answers before it is served again. */
  #isFull(): boolean {
    let bytes = this.#wire.unsent
    for (const { filling } of this.#waiting) bytes += filling
    return bytes > MOST_UNSENT
  }

  #waitFor(command: Command, later: Promise<void>): void {
    this.#waiting.add(command)
    // A thenable need not be a Promise.
    Promise.resolve(later).then(
      () => this.#resume(command),
      (error: unknown) => this.#resume(command, { error }),
    )
  }

  /** The disk has answered. */
  #resume(command: Command, failure?: { readonly error: unknown }): void {
    this.#waiting.delete(command)
    if (this.#isClosed) {
      command.abandon()
      if (failure !== undefined) this.#options.onError(failure.error)
      if (this.isIdle) this.#options.onIdle()
      return
    }
    if (failure === undefined) {
      this.#answered.add(command)
      this.#ready.unshift(command)
    } else {
      this.#fail(command, failure.error)
      this.#over()
    }
    this.#options.scheduler.add(this)
  }

  #fail(command: Command, error: unknown): void {
    const { position } = command
    const { error: number, message } = refusalOf(error)
    this.refuse(command.request, { error: number, message, ...(position !== undefined && this.structured && { offset: position }) })
    command.abandon()
    this.#options.onError(error)
  }

  /** A command has ended, so there may be room for the next one. */
  #over(): void {
    this.#wire.proceed()
    this.#endIfDone()
  }

  #endIfDone(): void {
    if (this.#isEnding && !this.#isClosed && this.#ready.length === 0 && this.isIdle) this.#wire.end()
  }
}
