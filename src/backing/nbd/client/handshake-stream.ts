/** The bytes of a handshake, read in pieces of known length, with bounds on unread bytes and on time. */
import { NbdProtocolError } from "../protocol.ts"
import type { Wire, WireReader } from "./wire.ts"

/** Maximum of unread bytes of a server: a whole reply with its data, and the next one. */
const MOST_WAITING = 64 * 1024
const INPUT_BYTES = 16 * 1024

/** The server closed the connection, or it broke; `cause` is the host's error, if there is one. */
export class ConnectionEnded extends Error {
  override readonly name = "ConnectionEnded"
}

export class HandshakeStream implements WireReader {
  readonly #input = new Uint8Array(INPUT_BYTES)
  #waiting: Uint8Array = new Uint8Array(0)
  #failure: Error | undefined
  /** The read in progress. */
  #wanted: { readonly length: number; readonly resolve: (bytes: Uint8Array) => void; readonly reject: (error: Error) => void } | undefined

  target(): Uint8Array {
    return this.#input
  }

  received(bytes: Uint8Array, length: number): void {
    if (this.#waiting.length + length > MOST_WAITING) return this.fail(new NbdProtocolError("the server sent more than was asked for"))
    const joined = new Uint8Array(this.#waiting.length + length)
    joined.set(this.#waiting)
    joined.set(bytes.subarray(0, length), this.#waiting.length)
    this.#waiting = joined
    this.#serve()
  }

  ended(error: Error | undefined): void {
    this.fail(new ConnectionEnded("the server closed the connection during the handshake", { cause: error }))
  }

  /** Fails the read in progress, and later ones that need more bytes than have come. */
  fail(error: Error): void {
    this.#failure ??= error
    this.#serve()
  }

  /** Resolves to exactly `length` bytes. Rejects with the error of `fail`. */
  read(length: number): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      this.#wanted = { length, resolve, reject }
      this.#serve()
    })
  }

  /** The error of the first `fail`. */
  get failure(): Error | undefined {
    return this.#failure
  }

  /** Unread bytes. */
  get waiting(): Uint8Array {
    return this.#waiting
  }

  #serve(): void {
    const wanted = this.#wanted
    if (wanted === undefined) return
    if (this.#waiting.length >= wanted.length) {
      this.#wanted = undefined
      const bytes = this.#waiting.slice(0, wanted.length)
      this.#waiting = this.#waiting.slice(wanted.length)
      wanted.resolve(bytes)
    } else if (this.#failure !== undefined) {
      this.#wanted = undefined
      wanted.reject(this.#failure)
    }
  }
}

/** A wire in its handshake. */
export interface HandshakeWire {
  readonly wire: Wire
  readonly stream: HandshakeStream
}
