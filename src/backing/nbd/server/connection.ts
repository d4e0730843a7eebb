/** Connection: one client's socket. Passes bytes to the present phase, stops reading if that is full, and begins TLS on request. */
import type { Socket } from "node:net"
import { createServer, type TlsOptions } from "node:tls"
import { NbdProtocolError } from "../protocol.ts"
import type { Budget } from "./budget.ts"
import type { BufferPool } from "./buffer-pool.ts"
import { ByteQueue } from "./byte-queue.ts"
import type { ExportTable } from "./export.ts"
import { Handshake } from "./handshake.ts"
import type { Scheduler } from "./scheduler.ts"
import { Session } from "./session.ts"
import type { Agreement, Phase, Wire } from "./wire.ts"

/** Maximum of bytes that are collected for one write of several answers. */
const CORKED = 1 << 16
/** Milliseconds for a client to take its last answers, and then to close its side. */
const LAST_ANSWERS_MS = 10_000
const LINGER_MS = 1000

/** The parts that all connections of a server share. */
export interface Shared {
  readonly exports: ExportTable
  readonly budget: Budget
  readonly scheduler: Scheduler
  readonly pool: BufferPool
  readonly tls: TlsOptions | undefined
  /** Milliseconds that a client has to choose an export. */
  readonly handshakeTimeout: number
  onError(error: unknown): void
}

export class Connection implements Wire {
  readonly #shared: Shared
  readonly #onGone: () => void
  /** The client's address, for messages. */
  readonly #peer: string
  readonly #inbox = new ByteQueue()
  #socket: Socket
  #phase: Phase
  #session: Session | undefined
  #timer: ReturnType<typeof setTimeout> | undefined
  #isCorked = false
  #corked = 0
  #isProceeding = false
  #mustProceed = false
  /** The client sends no more. */
  #hasEnded = false
  /** The TLS handshake is in progress; `#socket` is the raw socket. */
  #isStartingTls = false
  #isEnding = false
  #isClosed = false
  /** Removes the listeners of the phases from the socket. */
  #detach: () => void = () => {}

  /** `onGone` is called once, when the socket is closed and no call of the disk is in progress for it. */
  constructor(socket: Socket, shared: Shared, onGone: () => void) {
    this.#shared = shared
    this.#onGone = onGone
    this.#socket = socket
    this.#peer = socket.remoteAddress === undefined ? "a client" : `client ${socket.remoteAddress}:${socket.remotePort ?? 0}`
    socket.setNoDelay(true)
    socket.setKeepAlive(true)
    this.#setTimer(shared.handshakeTimeout, () => this.#drop("it has not chosen an export in time"))
    this.#phase = this.#shakeHands(shared.tls === undefined ? "off" : "required")
    this.#attach(socket)
    this.flush()
  }

  get unsent(): number {
    return this.#socket.writableLength
  }

  send(bytes: Uint8Array, sent?: () => void): void {
    if (this.#isClosed || this.#isEnding) return void (sent !== undefined && process.nextTick(sent))
    if (!this.#isCorked) {
      this.#isCorked = true
      this.#socket.cork()
    }
    this.#corked += bytes.length
    // With an error as argument too, once the socket is gone.
    this.#socket.write(bytes, sent === undefined ? undefined : () => sent())
    if (this.#corked >= CORKED) this.flush()
  }

  flush(): void {
    if (!this.#isCorked) return
    this.#isCorked = false
    this.#corked = 0
    this.#socket.uncork()
  }

  proceed(): void {
    // A phase that is inside `take` is asked again afterwards, because it may or may not have used the new room.
    this.#mustProceed = true
    if (this.#isProceeding) return
    this.#isProceeding = true
    try {
      while (this.#mustProceed && !this.#isClosed) {
        this.#mustProceed = false
        this.#feed()
      }
    } catch (error) {
      if (!(error instanceof NbdProtocolError)) throw error
      this.#drop(error.message)
    } finally {
      this.#isProceeding = false
    }
  }

  end(): void {
    if (this.#isEnding) return
    this.flush()
    this.#isEnding = true
    this.#inbox.clear()
    this.#setTimer(LAST_ANSWERS_MS, () => this.destroy())
    this.#socket.end(() => {
      if (!this.#isClosed) this.#setTimer(LINGER_MS, () => this.destroy())
    })
    // Later bytes are read and dropped: closing with unread bytes would reset the TCP connection, and lose answers that are still being
    // sent.
    this.#socket.resume()
  }

  /** The server closes: answers pending requests, then ends the connection; at once if the client has not chosen an export. */
  shutDown(): void {
    if (this.#session === undefined) this.destroy()
    else this.#session.finish()
  }

  /** Ends the connection at once. */
  destroy(): void {
    // Node ends with a segmentation fault when the socket under TLS is destroyed in a callback of the TLS handshake (20.20).
    if (this.#isStartingTls) setImmediate(() => this.#socket.destroy())
    else this.#socket.destroy()
  }

  #shakeHands(tls: "off" | "required" | "done"): Handshake {
    return new Handshake({
      wire: this,
      exports: this.#shared.exports,
      tls,
      onTls: (acknowledge) => this.#startTls(acknowledge),
      onAgreed: (agreement) => this.#agree(agreement),
    })
  }

  #agree(agreement: Agreement): void {
    clearTimeout(this.#timer)
    const { budget, scheduler, pool, onError } = this.#shared
    this.#session = new Session({
      wire: this, agreement, budget, scheduler, pool, onError,
      evict: () => this.#drop("it keeps other clients waiting for memory"),
      onIdle: () => this.#onGone(),
    })
    this.#phase = this.#session
    this.#mustProceed = true
  }

  /** Passes received bytes to the phase. */
  #feed(): void {
    if (this.#isEnding) return
    const appetite = this.#phase.take(this.#inbox)
    if (this.#isEnding) return
    if (appetite === "blocked") this.#socket.pause()
    else if (this.#hasEnded) this.#phase.finish()
    else this.#socket.resume()
  }

  #attach(socket: Socket): void {
    const onData = (bytes: Uint8Array): void => {
      if (this.#isEnding) return
      this.#inbox.push(bytes)
      this.proceed()
      this.flush()
    }
    const onDrain = (): void => {
      this.#phase.drained()
      this.flush()
    }
    const onEnd = (): void => {
      this.#hasEnded = true
      this.proceed()
    }
    socket.on("data", onData).on("drain", onDrain).on("end", onEnd)
    this.#detach = () => void socket.off("data", onData).off("drain", onDrain).off("end", onEnd)
    socket.on("error", (error) => this.#fail(error))
    socket.on("close", () => this.#close())
  }

  /** [NBD] "TLS support": the acknowledgement is the last unencrypted message. */
  #startTls(acknowledge: () => void): void {
    const { tls } = this.#shared
    if (tls === undefined) throw new Error("TLS without a certificate")
    // Bytes that a man in the middle appends to STARTTLS must not count as encrypted.
    if (this.#inbox.length > 0) return this.#drop("it sent more bytes after NBD_OPT_STARTTLS, before TLS began")
    const plain = this.#socket
    this.#detach()
    plain.pause()
    acknowledge()
    this.flush()
    // A separate server, because that is the documented way to check a client's certificate.
    const server = createServer(tls, (secure) => {
      this.#isStartingTls = false
      this.#socket = secure
      this.#attach(secure)
      // Node would end it without an error.
      if (tls.requestCert === true && !secure.authorized) {
        return this.#drop(`its certificate is not accepted: ${String(secure.authorizationError)}`)
      }
      secure.disableRenegotiation()
      this.#phase = this.#shakeHands("done")
      this.proceed()
    })
    server.on("tlsClientError", (error) => {
      this.#fail(error)
      this.destroy()
    })
    this.#isStartingTls = true
    server.emit("connection", plain)
  }

  #fail(error: Error & { readonly code?: string }): void {
    // An operator can do nothing about a client that disconnects without a message.
    if (error.code === "ECONNRESET" || error.code === "EPIPE" || this.#isClosed) return
    this.#shared.onError(new NbdProtocolError(`${this.#peer}: ${error.message}`, { cause: error }))
  }

  /** Replaces the timer. It keeps no process alive. */
  #setTimer(ms: number, expire: () => void): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(expire, ms)
    this.#timer.unref()
  }

  #drop(reason: string): void {
    this.#shared.onError(new NbdProtocolError(`${this.#peer}: ${reason}; its connection was closed`))
    this.destroy()
  }

  #close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#timer)
    this.#inbox.clear()
    this.#phase.closed()
    if (this.#session === undefined) this.#onGone()
  }
}
