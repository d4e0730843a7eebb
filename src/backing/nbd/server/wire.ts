/** The interfaces between the phases of a connection (handshake and transmission) and the socket. */
import type { ByteQueue } from "./byte-queue.ts"
import type { Export } from "./export.ts"

/** The socket, as a phase sees it. */
export interface Wire {
  /** Sent bytes that the host has not taken yet. */
  readonly unsent: number
  /** Sends `bytes`, which must not change before `sent` is called. It is called once, even if the connection is gone. */
  send(bytes: Uint8Array, sent?: () => void): void
  /** Sends the collected bytes. */
  flush(): void
  /** The phase can take bytes again. */
  proceed(): void
  /** Ends the connection after everything has been sent. */
  end(): void
}

/** The result of showing received bytes to a phase: it wants more, or takes none before it calls `proceed`. */
export type Appetite = "more" | "blocked"

export interface Phase {
  /** Takes the bytes that it can use. @throws NbdProtocolError for invalid bytes: the connection ends */
  take(inbox: ByteQueue): Appetite
  /** Everything has been sent. */
  drained(): void
  /** Takes nothing more, because the client has closed its side or the server closes. Ends the connection after all answers. */
  finish(): void
  /** The connection is gone. */
  closed(): void
}

/** The result of the handshake. */
export interface Agreement {
  readonly target: Export
  /** The size of the export that the client was told. */
  readonly size: number
  /** Replies are structured. */
  readonly structured: boolean
  /** The client may ask for the status of blocks. */
  readonly status: boolean
}
