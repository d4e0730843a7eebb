/**
 * The client: sends commands over one or several connections, bounded in number and bytes, and re-establishes a lost connection without
 * failing the commands that wait.
 *
 * After a reconnection it sends again first the unflushed writes (see `Unflushed`), in order, then the other unanswered commands. The
 * server may still be executing a request of the old connection; neither the protocol nor this client can prevent that.
 */
import { BackingError } from "../../backing.ts"
import { NBD_CMD, NBD_ERROR, NBD_FLAG_T, type NbdProtocolError } from "../protocol.ts"
import { Command, type CommandFields } from "./command.ts"
import { errorOf } from "./command-error.ts"
import { CommandQueue } from "./command-queue.ts"
import { connect, type Destination, ended, type NbdHost, violation } from "./connect.ts"
import type { Connection, ConnectionOwner } from "./connection/connection.ts"
import type { Negotiated } from "./handshake.ts"
import type { NbdSettings } from "./options.ts"
import { Reconnection } from "./reconnection.ts"
import { Replay } from "./replay.ts"
import { hostTimer } from "./timer.ts"
import { Unflushed } from "./unflushed.ts"
import { Unsettled } from "./unsettled.ts"
import type { NbdAddress } from "./uri.ts"
import { Watchdog, type Watched } from "./watchdog.ts"
import { dial } from "./wire.ts"

/** Maximum of bytes of payload in transit on all connections. One command is always allowed. */
const MOST_PAYLOAD = 32 * 1024 * 1024

/**
 * "up": connected. "reconnecting": commands wait. "down": reconnecting timed out; the next command tries again.
 * "broken": final, see `#failure`.
 */
type State = "up" | "reconnecting" | "down" | "broken"

const ignore = (): void => undefined

export class NbdClient implements ConnectionOwner, Watched {
  readonly address: NbdAddress
  readonly #destination: Destination
  readonly #abort = new AbortController()
  readonly #queue = new CommandQueue()
  readonly #reconnection: Reconnection
  readonly #watchdog: Watchdog
  #state: State = "reconnecting"
  #connections: readonly Connection[] = []
  #negotiated: Negotiated | undefined
  #unflushed = new Unflushed(0, { keepAnswered: false })
  #replay = new Replay([])
  /** Our own FLUSH, which makes room in `#unflushed`. */
  #ownFlush: Command | undefined
  /** The server is shutting down: leaves the connection after the received bytes have been processed. */
  #mustLeave = false
  /** The first FLUSH that failed: the server may have dropped data, so no later flush and no write succeeds. */
  #flushFailure: BackingError | undefined
  /** Why there is no connection in the state "down". */
  #lastLoss: BackingError
  /** Why the client is broken. */
  #failure: BackingError | undefined
  #isClosing = false
  readonly #unsettled: Unsettled

  private constructor(address: NbdAddress, settings: NbdSettings, host: NbdHost) {
    this.address = address
    this.#destination = { ...host, address, settings, owner: this, signal: this.#abort.signal }
    this.#lastLoss = new BackingError("io", "no connection", { path: address.uri })
    this.#reconnection = new Reconnection(host.timer, settings.reconnectTimeout, this.#abort.signal)
    this.#watchdog = new Watchdog(host.timer, settings.requestTimeout, this)
    this.#unsettled = new Unsettled(host.timer)
  }

  /**
   * Connects, without retries.
   * @throws BackingError
   */
  static async open(address: NbdAddress, settings: NbdSettings, host: NbdHost = { dial, timer: hostTimer }): Promise<NbdClient> {
    const client = new NbdClient(address, settings, host)
    const { connections, negotiated } = await connect(client.#destination).catch((error: unknown) => {
      // If the server breaks the protocol on the first connection, the others are not opened.
      throw client.#failure ?? error
    })
    client.#negotiated = negotiated
    const isStableAtOnce = (negotiated.flags & NBD_FLAG_T.SEND_FLUSH) === 0
    client.#unflushed = new Unflushed(settings.unflushedLimit, { keepAnswered: !isStableAtOnce && settings.reconnectTimeout > 0 })
    client.#connections = connections
    client.#state = "up"
    return client
  }

  /** The negotiated properties of the export, which never change. */
  get export(): Negotiated {
    if (this.#negotiated === undefined) throw new Error("the NBD client is used before it is connected")
    return this.#negotiated
  }

  /** Sends a command as soon as there is room. Its promise rejects with a `BackingError` if it fails. */
  submit(fields: CommandFields): Command {
    const command = new Command(fields)
    return this.#submit(command, this.#isClosing ? this.#closed() : this.#refusalFor(command))
  }

  #submit(command: Command, failure?: BackingError): Command {
    // Nobody was waiting until now, so the timeout begins here.
    if (this.#unsettled.isNone) this.#reconnection.startAnew()
    this.#unsettled.add(command)
    if (failure !== undefined) {
      this.#settle(command, failure)
      return command
    }
    this.#queue.add(command)
    if (this.#state === "up") this.#pump()
    else if (this.#state === "down") this.#reconnect(this.#lastLoss)
    return command
  }

  /**
   * Waits for commands in progress (for reads not long), then flushes, with `flush`. A second call does nothing.
   * @throws BackingError if the server may have lost a write that it had answered
   */
  async close(options: { readonly flush: boolean }): Promise<void> {
    if (this.#isClosing) return
    this.#isClosing = true
    const canFlush = options.flush && (this.export.flags & NBD_FLAG_T.SEND_FLUSH) !== 0
    const mustFlush = (): boolean => canFlush && this.#unflushed.isDirty
    try {
      await this.#unsettled.none(() => {
        if (!mustFlush()) this.#break(this.#closed())
      })
      if (mustFlush()) await this.#submit(Command.flush(), this.#failure ?? this.#flushFailure).promise
    } finally {
      this.#abort.abort()
      this.#watchdog.stop()
      for (const connection of this.#connections) connection.disconnect()
      this.#connections = []
      this.#state = "broken"
      this.#failure ??= this.#closed()
    }
  }

  answered(command: Command): void {
    const { error } = command
    if (error?.error === NBD_ERROR.ESHUTDOWN && this.#destination.settings.reconnectTimeout > 0) {
      this.#mustLeave = true
      // A write needs nothing here: it is sent again because it is in `#unflushed` without an answer.
      if (!command.changes) this.#queue.putBack([command])
      return
    }
    const failure = error === undefined ? undefined : errorOf(command, this.address.uri)
    if (this.#replay.answered(command) && command.answer !== 0) {
      // The writer was told long ago that this write had succeeded.
      if (failure !== undefined) this.#break(failure)
      return
    }
    // An answer to a replayed write is not progress: otherwise a request that crashes the server each time would never fail.
    this.#reconnection.startAnew()
    if (command.changes) this.#unflushed.answered(command, { keep: failure === undefined && command.type !== NBD_CMD.TRIM })
    this.#settle(command, command.type === NBD_CMD.FLUSH ? this.#flushAnswered(command, failure) : failure)
  }

  idle(): void {
    if (!this.#mustLeave) return this.#pump()
    // The server may still execute an unanswered write, after a newer one on the next connection, so that answer is awaited.
    if (this.#connections.some(({ inFlight }) => inFlight > 0)) return
    for (const connection of this.#connections) connection.disconnect()
    this.#lose(new BackingError("io", "the server is shutting down", { path: this.address.uri }))
  }

  lost(connection: Connection, error: Error | undefined): void {
    // `connect` handles a connection that is still being opened.
    if (this.#connections.includes(connection)) this.#lose(ended(this.address, error))
  }

  violated(error: NbdProtocolError): void {
    this.#break(violation(this.address, error))
  }

  #refusalFor(command: Command): BackingError | undefined {
    if (this.#failure !== undefined) return this.#failure
    return command.changes || command.type === NBD_CMD.FLUSH ? this.#flushFailure : undefined
  }

  /** Sends commands while there is room. */
  #pump(): void {
    while (this.#state === "up" && !this.#mustLeave) {
      const connection = this.#roomiest()
      const command = connection === undefined ? undefined : this.#next()
      if (connection === undefined || command === undefined) return
      if (command.changes) this.#unflushed.sent(command)
      else if (command.type === NBD_CMD.FLUSH) command.answer = this.#unflushed.answers
      this.#watchdog.sending(command)
      connection.send(command)
    }
  }

  #roomiest(): Connection | undefined {
    let best: Connection | undefined
    for (const connection of this.#connections) {
      if (!connection.isFull && (best === undefined || connection.inFlight < best.inFlight)) best = connection
    }
    return best
  }

  /** The next command to send, taken out of its queue; undefined if there is none, or none may go yet. */
  #next(): Command | undefined {
    if (!this.#replay.isOver) return this.#replay.next()
    const { first } = this.#queue
    if (first === undefined) return undefined
    if (first.changes && this.#unflushed.isHalfFull && this.#ownFlush === undefined) return this.#makeRoom()
    if (first.changes && this.#unflushed.isFull) return undefined
    let payload = first.payload
    for (const connection of this.#connections) payload += connection.payload
    return payload > MOST_PAYLOAD && payload > first.payload ? undefined : this.#queue.take()
  }

  #makeRoom(): Command {
    this.#ownFlush = Command.flush()
    this.#unsettled.add(this.#ownFlush)
    this.#ownFlush.promise.catch(ignore)
    return this.#ownFlush
  }

  /** Returns why the flush is not valid: it failed, or an earlier one did, after which the server may have dropped data. */
  #flushAnswered(command: Command, failure: BackingError | undefined): BackingError | undefined {
    this.#flushFailure ??= failure
    if (this.#flushFailure === undefined) {
      this.#unflushed.flushed(command.answer)
      return undefined
    }
    const refused = this.#queue.removeWhere((other) => other.changes || other.type === NBD_CMD.FLUSH)
    for (const other of refused) this.#settle(other, this.#flushFailure)
    return this.#flushFailure
  }

  #settle(command: Command, error?: BackingError): void {
    if (command === this.#ownFlush) this.#ownFlush = undefined
    command.settle(error)
    this.#unsettled.remove(command)
  }

  /** The commands that wait for an answer, in no order. */
  *inFlight(): Generator<Command> {
    for (const connection of this.#connections) yield* connection.commands()
  }

  timedOut(): void {
    const { requestTimeout } = this.#destination.settings
    this.#lose(new BackingError("io", `a request was not answered within ${requestTimeout} ms`, { path: this.address.uri }))
  }

  /** The connections have ended. Their commands wait for new ones. */
  #lose(error: BackingError): void {
    this.#leave()
    if (this.#destination.settings.reconnectTimeout === 0) this.#break(error)
    else this.#reconnect(error)
  }

  /** Closes the connections; commands in flight that change nothing go back to the front of the queue. */
  #leave(): void {
    const inFlight = [...this.inFlight()]
    for (const connection of this.#connections) connection.destroy()
    this.#connections = []
    this.#watchdog.stop()
    this.#mustLeave = false
    this.#replay = new Replay([])
    this.#queue.putBack(inFlight.filter(({ changes }) => !changes))
  }

  /** @param error why there is no connection */
  #reconnect(error: BackingError): void {
    this.#state = "reconnecting"
    void this.#reconnection.run(error, () => connect(this.#destination, this.#negotiated)).then((result) => {
      const isWanted = this.#state === "reconnecting" && !this.#abort.signal.aborted
      if (!isWanted) return "failure" in result ? undefined : result.connections.forEach((connection) => connection.destroy())
      if ("failure" in result) return result.isFinal ? this.#break(result.failure) : this.#giveUp(result.failure)
      this.#connections = result.connections
      this.#state = "up"
      this.#replay = new Replay(this.#unflushed.all())
      this.#pump()
    })
  }

  /** Fails all waiting commands. Answered writes are kept for another connection. */
  #giveUp(error: BackingError): void {
    this.#state = "down"
    this.#lastLoss = error
    const waiting = [...this.#unflushed.dropUnanswered(), ...this.#queue.removeWhere(() => true)]
    for (const command of waiting) this.#settle(command, error)
  }

  #closed(): BackingError {
    return new BackingError("closed", "the disk has been closed", { path: this.address.uri })
  }

  #break(error: BackingError): void {
    this.#leave()
    this.#failure ??= error
    this.#giveUp(error)
    this.#state = "broken"
    this.#abort.abort()
  }
}
