/** NbdServer: serves disks by NBD, the network block device protocol, to QEMU, libnbd and the Linux kernel. */
import { createServer, type Server, type Socket } from "node:net"
import { createSecureContext, type TlsOptions } from "node:tls"
import { type AsyncDisposing, closesWithBlock } from "../../../disposing.ts"
import { checkCount, checkOptions, checkValue, type Rules } from "../../../options.ts"
import { BackingError, type BackingErrorCode } from "../../backing.ts"
import { NBD_DEFAULT_PORT, NbdProtocolError } from "../protocol.ts"
import { Budget } from "./budget.ts"
import { BufferPool } from "./buffer-pool.ts"
import { Connection, type Shared } from "./connection.ts"
import { ExportTable, type NbdExport } from "./export.ts"
import { Scheduler } from "./scheduler.ts"

/** TLS options of an `NbdServer`: text in PEM, not names of files. */
export interface NbdServerTls {
  readonly cert: string
  readonly key: string
  /** Certificates of authorities. If given, a client must have a certificate that one of them signed. */
  readonly ca?: string
}

const TLS_RULES: Rules<NbdServerTls> = { cert: "string", key: "string", ca: "string?" }

/** Options of `NbdServer`. */
export interface NbdServerOptions {
  /** The exports, at least one. */
  readonly exports: readonly NbdExport[]
  /** If given, every client must use TLS. Default: no client can. */
  readonly tls?: NbdServerTls
  /** Maximum of clients at a time. Default 64. */
  readonly maxClients?: number
  /** Maximum of bytes of memory for all clients together: data of writes, answers to reads. From 64 MiB up; default 256 MiB. */
  readonly maxMemory?: number
  /** Milliseconds that a client has to choose an export. Default 10,000. */
  readonly handshakeTimeout?: number
  /** Milliseconds that `close` waits for clients that do not read their answers. Default 10,000. */
  readonly closeTimeout?: number
  /** Called with errors of clients (`NbdProtocolError`, with the client's address) and of disks, in more detail than clients get. */
  readonly onError?: (error: unknown) => void
}

const NBD_SERVER_RULES: Rules<NbdServerOptions> = {
  exports: "array", tls: "object?", maxClients: "number?", maxMemory: "number?", handshakeTimeout: "number?", closeTimeout: "number?",
  onError: "function?",
}

/** The address of an `NbdServer`: a port, or a Unix socket. */
export interface NbdListenOptions {
  /** 0: any free one. Default 10809, or none with `socket`. */
  readonly port?: number
  /** A name or an address of this host. Default "127.0.0.1". */
  readonly host?: string
  /** Path of a Unix socket, which must not exist; `close` removes it. */
  readonly socket?: string
}

const LISTEN_RULES: Rules<NbdListenOptions> = { port: "number?", host: "string?", socket: "string?" }

/** The address on which it listens. */
export type NbdAddress = { readonly host: string; readonly port: number } | { readonly socket: string }

const CLIENT_MEMORY = 64 << 20
/** Milliseconds in which a client must release a part of its memory while others wait; otherwise it is disconnected. */
const MEMORY_PATIENCE = 30_000
/** The maximum of Node's timers. */
const MOST_MS = 2 ** 31 - 1

/** `await using` closes it. */
export interface NbdServer extends AsyncDisposing {}

/**
 * Serves disks over NBD. The caller keeps owning them: `close` the server, then the disks. Several clients may share an export; a flush of
 * one covers answered writes of all. It works in turns of some milliseconds, and the memory for clients is bounded.
 */
export class NbdServer {
  static { closesWithBlock(this, "later") }
  readonly #shared: Shared
  readonly #closeTimeout: number
  readonly #server: Server
  readonly #connections = new Set<Connection>()
  #isListening = false
  #closing: Promise<void> | undefined
  #gone: (() => void) | undefined

  /**
   * @throws TypeError or RangeError for a wrong option
   * @throws BackingError `invalid-argument` for a certificate or a key that cannot be used
   */
  constructor(options: NbdServerOptions) {
    checkOptions("NbdServer", options, NBD_SERVER_RULES)
    const { maxClients = 64, maxMemory = 256 << 20, handshakeTimeout = 10_000, closeTimeout = 10_000 } = options
    checkCount("NbdServer", "maxClients", maxClients, 1)
    checkCount("NbdServer", "maxMemory", maxMemory, CLIENT_MEMORY)
    checkCount("NbdServer", "handshakeTimeout", handshakeTimeout, 1, MOST_MS)
    checkCount("NbdServer", "closeTimeout", closeTimeout, 1, MOST_MS)
    this.#closeTimeout = closeTimeout
    this.#shared = {
      exports: new ExportTable(options.exports),
      budget: new Budget({ total: maxMemory, each: CLIENT_MEMORY, patience: MEMORY_PATIENCE }),
      scheduler: new Scheduler(),
      pool: new BufferPool(),
      tls: options.tls === undefined ? undefined : tlsOptions(options.tls),
      handshakeTimeout,
      onError: (error) => this.#report(error, options.onError),
    }
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket))
    this.#server.maxConnections = maxClients
    this.#server.on(
      "drop",
      () => this.#shared.onError(new BackingError("busy", `a client was turned away: there are ${maxClients} already`)),
    )
  }

  /** Number of connected clients. */
  get clients(): number {
    return this.#connections.size
  }

  /**
   * Begins to listen. Resolves to the address.
   * @throws TypeError or RangeError for a wrong option
   * @throws BackingError `busy` for a port or a socket that is taken, `permission`, `not-found`, `io`; `closed` after `close`
   */
  async listen(options: NbdListenOptions = {}): Promise<NbdAddress> {
    checkOptions("listen", options, LISTEN_RULES)
    const { socket, host = "127.0.0.1", port = NBD_DEFAULT_PORT } = options
    checkCount("listen", "port", port, 0, 65_535)
    if (socket !== undefined) checkValue("listen", "socket", socket, "string")
    if (socket !== undefined && (options.port !== undefined || options.host !== undefined)) {
      throw new TypeError("listen: socket excludes port and host")
    }
    if (this.#closing !== undefined) throw new BackingError("closed", "the server is closed")
    if (this.#isListening) throw new BackingError("busy", "the server is listening already")
    this.#isListening = true
    const where = socket ?? `port ${port} of ${host}`
    try {
      await listening(this.#server, socket === undefined ? { host, port } : { path: socket })
    } catch (error) {
      this.#isListening = false
      throw listenError(error, where, socket !== undefined)
    }
    this.#server.on("error", (error) => this.#shared.onError(listenError(error, where, false)))
    const address = this.#server.address()
    return typeof address === "object" && address !== null ? { host: address.address, port: address.port } : { socket: socket ?? "" }
  }

  /**
   * Takes no more clients and requests, answers those in progress, and resolves when all clients have gone and no call of a disk is in
   * progress. A second call waits for the same. The disks stay open.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    if (this.#isListening) this.#server.close()
    const timer = setTimeout(() => {
      for (const connection of this.#connections) connection.destroy()
    }, this.#closeTimeout)
    timer.unref()
    for (const connection of this.#connections) connection.shutDown()
    if (this.#connections.size > 0) await new Promise<void>((resolve) => void (this.#gone = resolve))
    clearTimeout(timer)
  }

  #accept(socket: Socket): void {
    if (this.#closing !== undefined) return void socket.destroy()
    const connection: Connection = new Connection(socket, this.#shared, () => {
      this.#connections.delete(connection)
      if (this.#connections.size === 0) this.#gone?.()
    })
    this.#connections.add(connection)
  }

  /** Calls `onError`. An exception of it is thrown later, outside our own calls. */
  #report(error: unknown, onError: ((error: unknown) => void) | undefined): void {
    try {
      onError?.(error)
    } catch (bug) {
      queueMicrotask(() => {
        throw bug
      })
    }
    if (error instanceof BackingError || error instanceof NbdProtocolError) return
    queueMicrotask(() => {
      throw error
    })
  }
}

/** Resolves when `server` listens, and rejects with Node's error if it cannot. */
function listening(server: Server, where: { readonly host: string; readonly port: number } | { readonly path: string }): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (work: () => void): void => {
      server.off("error", onError).off("listening", onListening)
      work()
    }
    const onError = (error: Error): void => end(() => reject(error))
    const onListening = (): void => end(resolve)
    server.on("error", onError).on("listening", onListening)
    server.listen(where)
  })
}

function tlsOptions(tls: NbdServerTls): TlsOptions {
  checkOptions("NbdServer: tls", tls, TLS_RULES)
  const { cert, key, ca } = tls
  const options: TlsOptions = {
    // The client's certificate is checked after the TLS handshake, when the client can be told.
    cert, key, minVersion: "TLSv1.2", ...(ca !== undefined && { ca, requestCert: true, rejectUnauthorized: false }),
  }
  try {
    createSecureContext(options)
  } catch (error) {
    if (!(error instanceof Error)) throw error
    throw new BackingError("invalid-argument", `the certificate or the key for TLS cannot be used: ${error.message}`, { cause: error })
  }
  return options
}

const CODE_BY_ERRNO: Readonly<Record<string, readonly [code: BackingErrorCode, reason: string]>> = {
  EADDRINUSE: ["busy", "it is in use; choose another one"],
  EACCES: ["permission", "permission denied"],
  EPERM: ["permission", "operation not permitted"],
  ENOTFOUND: ["not-found", "there is no such host"],
  EADDRNOTAVAIL: ["not-found", "this host has no such address"],
}

/** For Unix sockets. Node says EACCES for a folder that does not exist as well. */
const SOCKET_REMEDIES: Readonly<Record<string, string>> = {
  EADDRINUSE: "it exists already; remove it if no server listens there",
  EACCES: "its folder does not exist, or may not be written",
}

/** The error for Node's error about listening at `where`. */
function listenError(error: unknown, where: string, isSocket: boolean): BackingError {
  const errno = error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : ""
  const message = error instanceof Error ? error.message : String(error)
  const [code, reason] = CODE_BY_ERRNO[errno] ?? ["io", message]
  const remedy = (isSocket ? SOCKET_REMEDIES[errno] : undefined) ?? reason
  return new BackingError(code, `cannot listen at ${where}: ${remedy}`, { cause: error })
}
