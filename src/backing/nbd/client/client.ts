/**
 * The client: commands go out over one or several connections, bounded in number and bytes; a lost connection comes back without
 * whoever waits for an answer noticing.
 *
 * What is sent again after a reconnection: the writes that the server has not flushed (see `Unflushed`), in order and alone, then the other
 * commands that it has not answered. A server may still be working on a request of the old connection when the new one begins; the protocol
 * has nothing against that, and neither has this client.
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

/** Bytes of payload on their way at most, over all connections; one command may always go. */
const MOST_PAYLOAD = 32 * 1024 * 1024

/**
 * "up": connected. "reconnecting": commands wait. "down": the connection did not come back in time; the next command tries again.
 * "broken": for ever, see `#failure`.
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
  /** A FLUSH of our own, which makes room in `#unflushed`. */
  #ownFlush: Command | undefined
  /** The server is shutting down: the connection is left when the bytes that have come are through. */
  #mustLeave = false
  /** The first FLUSH that failed: the server may have dropped what it could not write, so that no later one, and no write, succeeds. */
  #flushFailure: BackingError | undefined
  /** Why there is no connection in the state "down". */
  #lastLoss: BackingError
  /** Why nothing goes any more. */
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
   * Connects, once: a server that is not there is an error.
   * @throws BackingError
   */
  static async open(address: NbdAddress, settings: NbdSettings, host: NbdHost = { dial, timer: hostTimer }): Promise<NbdClient> {
    const client = new NbdClient(address, settings, host)
    const { connections, negotiated } = await connect(client.#destination).catch((error: unknown) => {
      // A server that breaks the protocol on a first connection keeps the others from being opened.
      throw client.#failure ?? error
    })
    client.#negotiated = negotiated
    const isStableAtOnce = (negotiated.flags & NBD_FLAG_T.SEND_FLUSH) === 0
    client.#unflushed = new Unflushed(settings.unflushedLimit, { keepAnswered: !isStableAtOnce && settings.reconnectTimeout > 0 })
    client.#connections = connections
    client.#state = "up"
    return client
  }

  /** What the server said of the export. It stays the same. */
  get export(): Negotiated {
    if (this.#negotiated === undefined) throw new Error("the NBD client is used before it is connected")
    return this.#negotiated
  }

  /** Sends a command as soon as there is room for it. Its promise rejects with a `BackingError` when it fails. */
  submit(fields: CommandFields): Command {
    const command = new Command(fields)
    return this.#submit(command, this.#isClosing ? this.#closed() : this.#refusalFor(command))
  }

  #submit(command: Command, failure?: BackingError): Command {
    // Until now nobody was kept waiting, whatever became of the connection.
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

  /** Waits for what is under way, for reads not long; then, with `flush`, has the server flush. A second call does nothing. */
  async close(options: { readonly flush: boolean }): Promise<void> {
    if (this.#isClosing) return
    this.#isClosing = true
    const canFlush = options.flush && (this.export.flags & NBD_FLAG_T.SEND_FLUSH) !== 0
    const mustFlush = (): boolean => canFlush && this.#unflushed.isDirty && this.#failure === undefined
    try {
      await this.#unsettled.none(() => {
        if (!mustFlush()) this.#break(this.#closed())
      })
      if (mustFlush()) await this.#submit(Command.flush(), this.#flushFailure).promise
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
      // A write is sent again because it is in `#unflushed` without an answer.
      if (!command.changes) this.#queue.putBack([command])
      return
    }
    const failure = error === undefined ? undefined : errorOf(command, this.address.uri)
    if (this.#replay.answered(command) && command.answer !== 0) {
      // Whoever wrote this was told long ago that it had succeeded.
      if (failure !== undefined) this.#break(failure)
      return
    }
    // What is sent again by itself is no progress: a request that brings the server down each time has to fail in the end.
    this.#reconnection.startAnew()
    if (command.changes) this.#unflushed.answered(command, { keep: failure === undefined && command.type !== NBD_CMD.TRIM })
    this.#settle(command, command.type === NBD_CMD.FLUSH ? this.#flushAnswered(command, failure) : failure)
  }

  idle(): void {
    if (!this.#mustLeave) return this.#pump()
    // The server may still do a write that it has not answered, after a newer one that its successor got: that answer is waited for.
    if (this.#connections.some(({ inFlight }) => inFlight > 0)) return
    for (const connection of this.#connections) connection.disconnect()
    this.#lose(new BackingError("io", "the server is shutting down", { path: this.address.uri }))
  }

  lost(connection: Connection, error: Error | undefined): void {
    // One that is still being opened is looked after by `connect`.
    if (this.#connections.includes(connection)) this.#lose(ended(this.address, error))
  }

  violated(error: NbdProtocolError): void {
    this.#break(violation(this.address, error))
  }

  #refusalFor(command: Command): BackingError | undefined {
    if (this.#failure !== undefined) return this.#failure
    return command.changes || command.type === NBD_CMD.FLUSH ? this.#flushFailure : undefined
  }

  /** Sends what there is room for. */
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

  /** The next command to send, taken out of its queue; undefined where there is none, or none may go yet. */
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

  /** Returns why the flush does not count: it failed, or one before it did, and the server may have dropped what both cover. */
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

  /** The connections are over. What was on its way waits for new ones. */
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

  /** Everybody who waits is told. Writes that were answered are kept: another connection may come. */
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
