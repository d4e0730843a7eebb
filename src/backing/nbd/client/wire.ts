/** A byte stream to an NBD server over node:net or node:tls. The reader chooses the buffers for received bytes. */
import { connect as connectNet, type Socket } from "node:net"
import { connect as connectTls } from "node:tls"
import type { NbdSettings } from "./options.ts"
import type { NbdAddress } from "./uri.ts"

/** The reader of a wire. None of the calls may throw. */
export interface WireReader {
  /** The buffer for the next bytes, called before each read. A TLS socket has its own buffers and does not call it. */
  target(): Uint8Array
  /** `bytes[0 .. length)` are new. `bytes` is what `target` returned last, or a buffer of the socket's. */
  received(bytes: Uint8Array, length: number): void
  /** The connection is over: the server closed it, or `error` says why. Called once, and not after `destroy`. */
  ended(error: Error | undefined): void
}

export interface Wire {
  /** Changes the reader. */
  reader: WireReader
  /** Sends the buffers, which must not be changed until the connection is over or the server has answered what is in them. */
  write(buffers: readonly Uint8Array[]): void
  /** Begins TLS on this connection. Nothing may be in transit in either direction. */
  startTls(settings: Pick<NbdSettings, "ca" | "cert" | "key">, servername: string | undefined): Promise<void>
  /** Ends the connection after everything has been sent. */
  end(): void
  /** Ends the connection at once. No call of the reader follows. */
  destroy(): void
}

/** Opens a connection. Errors come to `reader.ended`. */
export type Dial = (address: NbdAddress, reader: WireReader) => Wire

/** Seconds of silence after which the host sends keep-alive probes. */
const KEEP_ALIVE_DELAY = 30_000

/** Milliseconds for a server to take the last bytes. */
const LINGER_MS = 10_000

export const dial: Dial = (address, reader) => new SocketWire(address, reader)

class SocketWire implements Wire {
  reader: WireReader
  #socket: Socket
  /** Bytes go to targets of the reader; after `startTls` they come as events. */
  #isOver = false

  constructor(address: NbdAddress, reader: WireReader) {
    this.reader = reader
    const { target } = address
    const onread = {
      buffer: () => this.reader.target(),
      callback: (length: number, bytes: Uint8Array) => {
        if (!this.#isOver) this.reader.received(bytes, length)
        return true
      },
    }
    // An nbds connection uses events from the start, because a socket that fills our buffers cannot be wrapped in TLS.
    const how = address.tls ? {} : { onread }
    this.#socket = connectNet("socket" in target ? { path: target.socket, ...how } : { ...target, ...how, noDelay: true })
    if (!("socket" in target)) this.#socket.setKeepAlive(true, KEEP_ALIVE_DELAY)
    if (address.tls) this.#socket.on("data", this.#onData)
    this.#listen(this.#socket)
  }

  write(buffers: readonly Uint8Array[]): void {
    const socket = this.#socket
    const [only] = buffers
    if (buffers.length === 1 && only !== undefined) return void socket.write(only)
    socket.cork()
    for (const buffer of buffers) socket.write(buffer)
    socket.uncork()
  }

  startTls({ ca, cert, key }: Pick<NbdSettings, "ca" | "cert" | "key">, servername: string | undefined): Promise<void> {
    const plain = this.#socket
    plain.off("data", this.#onData)
    return new Promise((resolve, reject) => {
      const bytesOf = (pem: string | Uint8Array | undefined): string | Buffer | undefined => (
        pem instanceof Uint8Array ? Buffer.from(pem) : pem
      )
      const secure = connectTls({
        socket: plain, minVersion: "TLSv1.2", ca: bytesOf(ca), cert: bytesOf(cert), key: bytesOf(key),
        // An IP address cannot be a server name indication, but is checked against the certificate.
        ...(servername === undefined ? {} : { host: servername }),
        ...(servername === undefined || /^[0-9.]+$|:/.test(servername) ? {} : { servername }),
      })
      this.#socket = secure
      secure.once("secureConnect", resolve)
      secure.once("error", reject)
      secure.once("close", () => reject(new Error("the server closed the connection")))
      secure.on("data", this.#onData)
      this.#listen(secure)
    })
  }

  end(): void {
    this.#isOver = true
    const socket = this.#socket
    // `end` alone is not enough: a server that keeps its side open, or goes on sending, would keep the socket.
    socket.destroySoon()
    // A server that does not read keeps the socket for a while, but not the process.
    socket.unref()
    const timer = setTimeout(() => socket.destroy(), LINGER_MS).unref()
    socket.once("close", () => clearTimeout(timer))
  }

  destroy(): void {
    this.#isOver = true
    this.#socket.destroy()
  }

  readonly #onData = (bytes: Uint8Array): void => {
    if (!this.#isOver) this.reader.received(bytes, bytes.length)
  }

  #listen(socket: Socket): void {
    const over = (error?: Error): void => {
      if (this.#isOver) return
      this.#isOver = true
      socket.destroy()
      this.reader.ended(error)
    }
    socket.on("error", over)
    socket.on("end", () => over())
    socket.on("close", () => over())
  }
}
