/** Options of `nbdFile` and `nbdDisk`, with their defaults. */
import { BackingError } from "../../backing.ts"
import { checkCount, checkOptions, type Rules } from "../../../options.ts"
import type { NbdAddress } from "./uri.ts"

/** Options of `nbdFile` and `nbdDisk`. Times are milliseconds. */
export interface NbdOptions {
  /** Never write. Default false; an export that the server has read-only is read-only in any case. */
  readonly readOnly?: boolean
  /** For nbds: certificates in PEM of authorities that may have signed the server's. Default: those that Node knows. */
  readonly ca?: string | Uint8Array
  /** For nbds: our certificate in PEM, if the server asks for one. */
  readonly cert?: string | Uint8Array
  /** For nbds: the private key of `cert` in PEM. */
  readonly key?: string | Uint8Array
  /**
   * For nbds: the name that the server's certificate must be for. Default: tls-hostname of the URI, then its host, or localhost for a Unix
   * socket. */
  readonly servername?: string
  /** Connections to open if the server allows several (NBD_FLAG_CAN_MULTI_CONN), 1 to 16. Default 1. */
  readonly connections?: number
  /** Maximum of unanswered requests on one connection, 1 to 1024; others wait here. Default 64. */
  readonly maxInFlight?: number
  /** For a connection and its handshake. Default 10,000. */
  readonly connectTimeout?: number
  /**
   * If a request is not answered within this time, the connection counts as lost. Default 0: no limit. A server that is only slow may still
   * execute a write of the old connection after a newer one of the next, so choose a time after which it has surely given up.
   */
  readonly requestTimeout?: number
  /**
   * How long requests wait for a lost connection before they fail with `io`; the next request tries again. 0: a lost connection is final.
   * Default 30,000. */
  readonly reconnectTimeout?: number
  /**
   * Maximum of bytes of writes that are kept until the server has flushed them, to be sent again after a reconnection, because a server
   * that crashed may have lost them. From half of that on, the client sends its own FLUSH along with the writes. Default 64 MiB.
   */
  readonly unflushedLimit?: number
}

const NBD_OPTIONS_RULES: Rules<NbdOptions> = {
  readOnly: "boolean?", ca: "any?", cert: "any?", key: "any?", servername: "string?", connections: "number?", maxInFlight: "number?",
  connectTimeout: "number?", requestTimeout: "number?", reconnectTimeout: "number?", unflushedLimit: "number?",
}

/** The options with their defaults. */
export interface NbdSettings extends Pick<NbdOptions, "ca" | "cert" | "key" | "servername"> {
  readonly readOnly: boolean
  readonly connections: number
  readonly maxInFlight: number
  readonly connectTimeout: number
  readonly requestTimeout: number
  readonly reconnectTimeout: number
  readonly unflushedLimit: number
}

/**
 * Refuses certificates with a URI that connects unencrypted, where they would protect nothing.
 * @throws BackingError `invalid-argument`
 */
export function checkTlsOptions(address: NbdAddress, settings: NbdSettings): void {
  const name = (["ca", "cert", "key", "servername"] as const).find((option) => settings[option] !== undefined)
  if (address.tls || name === undefined) return
  throw new BackingError("invalid-argument", `${name} is for TLS, and this URI connects without it; write nbds in place of nbd`, {
    path: address.uri,
  })
}

/** The maximum of setTimeout. */
const LONGEST_TIME = 2 ** 31 - 1

/** @throws TypeError or RangeError, in the name of the function `who` */
export function nbdSettings(who: string, options: NbdOptions): NbdSettings {
  checkOptions(who, options, NBD_OPTIONS_RULES)
  checkCount(who, "connections", options.connections, 1, 16)
  checkCount(who, "maxInFlight", options.maxInFlight, 1, 1024)
  checkCount(who, "connectTimeout", options.connectTimeout, 1, LONGEST_TIME)
  checkCount(who, "requestTimeout", options.requestTimeout, 0, LONGEST_TIME)
  checkCount(who, "reconnectTimeout", options.reconnectTimeout, 0, LONGEST_TIME)
  checkCount(who, "unflushedLimit", options.unflushedLimit, 0)
  for (const name of ["ca", "cert", "key"] as const) {
    const value = options[name]
    if (value === undefined || typeof value === "string" || value instanceof Uint8Array) continue
    throw new TypeError(`${who}: ${name} must be a string or a Uint8Array with PEM in it`)
  }
  return {
    ...options, readOnly: options.readOnly ?? false, connections: options.connections ?? 1, maxInFlight: options.maxInFlight ?? 64,
    connectTimeout: options.connectTimeout ?? 10_000, requestTimeout: options.requestTimeout ?? 0,
    reconnectTimeout: options.reconnectTimeout ?? 30_000, unflushedLimit: options.unflushedLimit ?? 64 * 1024 * 1024,
  }
}
