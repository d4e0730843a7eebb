/** Opens connections: dials, does the handshake within a time limit, and opens as many connections as both sides allow. */
import { BackingError, type BackingErrorCode } from "../../backing.ts"
import { NBD_FLAG_T, NbdProtocolError } from "../protocol.ts"
import { Connection, type ConnectionOwner } from "./connection/connection.ts"
import { type Negotiated, shakeHands } from "./handshake.ts"
import { ConnectionEnded, HandshakeStream } from "./handshake-stream.ts"
import type { NbdSettings } from "./options.ts"
import type { Timer } from "./timer.ts"
import type { NbdAddress } from "./uri.ts"
import type { Dial } from "./wire.ts"

/** The host, as the client uses it. */
export interface NbdHost {
  readonly dial: Dial
  readonly timer: Timer
}

/** The used part of `AbortSignal`, so that the package's declarations compile without the platform's types. */
export interface EndSignal {
  readonly aborted: boolean
  addEventListener(type: "abort", listener: () => void): void
  removeEventListener(type: "abort", listener: () => void): void
}

/** The address, and options of connecting. */
export interface Destination extends NbdHost {
  readonly address: NbdAddress
  readonly settings: NbdSettings
  readonly owner: ConnectionOwner
  /** Aborts connecting. */
  readonly signal: EndSignal
}

export interface Connected {
  readonly connections: readonly Connection[]
  readonly negotiated: Negotiated
}

/**
 * Opens all connections.
 * @param before what was negotiated the last time: it must be the same again
 * @throws BackingError; its cause is an NbdProtocolError if a retry is useless
 */
export async function connect(destination: Destination, before?: Negotiated): Promise<Connected> {
  const first = await openConnection(destination, before)
  const isShared = (first.negotiated.flags & NBD_FLAG_T.CAN_MULTI_CONN) !== 0
  const more = isShared ? destination.settings.connections - 1 : 0
  const others = await Promise.allSettled(Array.from({ length: more }, () => openConnection(destination, first.negotiated)))
  const connections = [first.connection]
  let failure: unknown
  for (const other of others) {
    if (other.status === "fulfilled") connections.push(other.value.connection)
    else failure ??= other.reason
  }
  if (failure === undefined && connections.some(({ isOver }) => isOver)) failure = ended(destination.address, new ConnectionEnded("closed"))
  if (failure === undefined) return { connections, negotiated: first.negotiated }
  for (const connection of connections) connection.destroy()
  throw failure
}

async function openConnection(
  destination: Destination,
  before: Negotiated | undefined,
): Promise<{ readonly connection: Connection; readonly negotiated: Negotiated }> {
  const { address, settings, timer, owner, signal } = destination
  const stream = new HandshakeStream()
  const wire = destination.dial(address, stream)
  const stop = (reason: string): void => {
    stream.fail(new ConnectionEnded(reason))
    wire.destroy()
  }
  const onAbort = (): void => stop("the disk has been closed")
  signal.addEventListener("abort", onAbort)
  const cancel = timer.after(settings.connectTimeout, () => stop(`no answer within ${settings.connectTimeout} ms`))
  try {
    if (signal.aborted) onAbort()
    const negotiated = await shakeHands({ wire, stream }, address, settings)
    if (before !== undefined) checkSame(before, negotiated)
    const connection = new Connection(wire, negotiated, settings.maxInFlight, owner)
    wire.reader = connection
    if (stream.waiting.length > 0) throw new NbdProtocolError("the server sent a reply before a request")
    if (stream.failure !== undefined) throw stream.failure
    return { connection, negotiated }
  } catch (error) {
    wire.destroy()
    if (error instanceof NbdProtocolError) throw violation(address, error)
    if (error instanceof ConnectionEnded) throw ended(address, error)
    throw error
  } finally {
    cancel()
    signal.removeEventListener("abort", onAbort)
  }
}

/** The error for a server that broke the protocol. */
export function violation(address: NbdAddress, error: NbdProtocolError): BackingError {
  return new BackingError("io", `the server breaks the NBD protocol: ${error.message}`, { path: address.uri, cause: error })
}

/** Refuses an export with other properties, because the guest knows the old ones. */
function checkSame(before: Negotiated, now: Negotiated): void {
  const facts = ({ size, flags, blockSizes, structured, contextId }: Negotiated): string =>
    `${size} bytes, flags 0x${flags.toString(16)}, block sizes ${blockSizes.minimum}/${blockSizes.preferred}/${blockSizes.maximum}` +
    `${structured ? ", structured replies" : ""}${contextId === undefined ? "" : ", block status"}`
  if (facts(before) === facts(now)) return
  throw new NbdProtocolError(`after reconnecting, the export is a different one: it had ${facts(before)}, and now has ${facts(now)}`)
}

const REASONS: Readonly<Record<string, readonly [code: BackingErrorCode, reason: string]>> = {
  ECONNREFUSED: ["io", "nobody listens there"],
  ENOENT: ["not-found", "there is no such socket"],
  ENOTFOUND: ["not-found", "there is no host of that name"],
  EAI_AGAIN: ["io", "the host's name cannot be looked up"],
  EACCES: ["permission", "permission denied"],
  EPERM: ["permission", "operation not permitted"],
  ECONNRESET: ["io", "the server reset the connection"],
  EPIPE: ["io", "the server closed the connection"],
  ETIMEDOUT: ["io", "the host does not answer"],
  EHOSTUNREACH: ["io", "there is no route to the host"],
  ENETUNREACH: ["io", "there is no route to the host's network"],
}

/** The error for a connection that could not be made, or that is over. */
export function ended(address: NbdAddress, error: Error | undefined): BackingError {
  const root = error instanceof ConnectionEnded && error.cause instanceof Error ? error.cause : error
  const known = root !== undefined && "code" in root && typeof root.code === "string" ? REASONS[root.code] : undefined
  const [code, reason] = known ?? ["io", root?.message ?? "the server closed the connection"]
  return new BackingError(code, `no connection: ${reason}`, { path: address.uri, cause: root })
}
