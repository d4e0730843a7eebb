/** What the two phases of a connection, handshake and transmission, know of each other and of the socket. */
import type { ByteQueue } from "./byte-queue.ts"
import type { Export } from "./export.ts"

/** The socket, as a phase sees it. */
export interface Wire {
  /** Bytes that were sent and that the host has not taken. */
  readonly unsent: number
  /** Sends `bytes`, which nobody changes before `sent` is called. It is called once, also when the connection is gone. */
  send(bytes: Uint8Array, sent?: () => void): void
  /** Lets go what was collected. */
  flush(): void
  /** What kept the phase from taking bytes is gone. */
  proceed(): void
  /** Ends the connection once all that was sent has gone out. */
  end(): void
}

/** What a phase says after it was shown what came: it wants more bytes, or it takes none before it calls `proceed`. */
export type Appetite = "more" | "blocked"

export interface Phase {
  /** Takes what it can use. @throws NbdProtocolError when the client sent what cannot be right: the connection ends */
  take(inbox: ByteQueue): Appetite
  /** All that was sent has gone out. */
  drained(): void
  /** Takes nothing more: the client has sent all that it will, or the server closes. Ends the connection when all has been answered. */
  finish(): void
  /** The connection is gone. */
  closed(): void
}

/** What the handshake has agreed on. */
export interface Agreement {
  readonly target: Export
  /** Bytes that the client was told the export has. */
  readonly size: number
  /** Replies are structured. */
  readonly structured: boolean
  /** The client may ask for the status of blocks. */
  readonly status: boolean
}
