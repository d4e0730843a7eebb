/**
 * NBD URIs ([NBD] doc/uri.md): the server and the export. They may come from an image's backing file name, so each part is checked, and
 * unknown parts are refused.
 */
import { BackingError } from "../../backing.ts"
import { NBD_DEFAULT_PORT, NBD_LIMIT } from "../protocol.ts"
import { encodeText } from "../../bytes/fields.ts"

/** Where an export is. */
export interface NbdAddress {
  /** The URI, for messages. */
  readonly uri: string
  readonly target: { readonly host: string; readonly port: number } | { readonly socket: string }
  readonly exportName: string
  /** True for nbds: a connection that is not encrypted fails. */
  readonly tls: boolean
  /** The name that the server's certificate must be for; left out: `host`. */
  readonly tlsHostname?: string
}

const FORM = /^(nbds?(?:\+unix)?):\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i
const AUTHORITY = /^(\[[0-9a-f:.]+\]|[a-z0-9._~-]+)?(?::([0-9]*))?$/i
const LONGEST_URI = 3 * (NBD_LIMIT.string + 4096)
/** Maximum length of sun_path, without the final NUL. */
const LONGEST_SOCKET = 107

/** @throws BackingError `invalid-argument` for anything but a supported NBD URI */
export function parseNbdUri(uri: string): NbdAddress {
  const refuse: Refuse = (problem) => {
    const shown = uri.length > 200 ? `${uri.slice(0, 200)}...` : uri
    throw new BackingError("invalid-argument", `${problem}; NBD URIs look like nbd://host:port/export or nbd+unix:///export?socket=PATH`, {
      path: shown,
    })
  }
  if (uri.length > LONGEST_URI) return refuse(`the URI has ${uri.length} characters, more than ${LONGEST_URI}`)
  if (/[\u0000-\u0020\u007f]/.test(uri)) return refuse("the URI has spaces or control characters in it; write them as %20 and so on")
  const form = FORM.exec(uri)
  if (form === null) return refuse("this is not an NBD URI")
  const [, scheme = "", authority = "", path = "", query = ""] = form
  const name = decode(path, "export name", refuse)
  if (name.includes("\0")) return refuse("the export name has a NUL in it")
  if (encodeText(name).length > NBD_LIMIT.string) return refuse(`the export name is longer than ${NBD_LIMIT.string} bytes`)
  const { socket, tlsHostname } = parseQuery(query, refuse)
  const isUnix = scheme.toLowerCase().endsWith("+unix")
  if (isUnix && authority !== "") return refuse("a Unix socket has no host")
  if (!isUnix && socket !== undefined) return refuse("socket= belongs to nbd+unix and nbds+unix")
  return {
    uri, target: isUnix ? { socket: checkSocket(socket, refuse) } : parseAuthority(authority, refuse), exportName: name,
    tls: scheme.toLowerCase().startsWith("nbds"), ...(tlsHostname === undefined ? {} : { tlsHostname }),
  }
}

type Refuse = (problem: string) => never

function decode(text: string, what: string, refuse: Refuse): string {
  try {
    return decodeURIComponent(text)
  } catch (error) {
    if (error instanceof URIError) return refuse(`the ${what} has a % without two hexadecimal digits of UTF-8 behind it`)
    throw error
  }
}

function parseAuthority(authority: string, refuse: Refuse): { readonly host: string; readonly port: number } {
  if (authority.includes("@")) return refuse("user names are not supported")
  const match = AUTHORITY.exec(authority)
  if (match === null) return refuse("the host or the port is malformed")
  const [, host = "localhost", portText = ""] = match
  const port = portText === "" ? NBD_DEFAULT_PORT : Number(portText)
  if (port < 1 || port > 65_535) return refuse("the port is not a number from 1 to 65535")
  return { host: host.replace(/^\[|\]$/g, ""), port }
}

function parseQuery(query: string, refuse: Refuse): { readonly socket?: string; readonly tlsHostname?: string } {
  const found = new Map<string, string>()
  for (const pair of query.split("&")) {
    if (pair === "") continue
    const [key = "", ...rest] = pair.split("=")
    const name = decode(key, "query", refuse)
    if (found.has(name)) return refuse(`"${name}" is given twice`)
    found.set(name, decode(rest.join("="), `value of ${name}`, refuse))
  }
  for (const [name, value] of found) {
    const isKnown =
      name === "socket" || name === "tls-hostname" || (name === "tls-type" && value === "x509") ||
        (name === "tls-verify-peer" && value === "1")
    if (!isKnown) return refuse(`"${name}=${value.slice(0, 40)}" is not supported; certificates are given as options`)
  }
  const socket = found.get("socket")
  const tlsHostname = found.get("tls-hostname")
  return { ...(socket === undefined ? {} : { socket }), ...(tlsHostname === undefined ? {} : { tlsHostname }) }
}

function checkSocket(socket: string | undefined, refuse: Refuse): string {
  if (socket === undefined || socket === "") return refuse("socket=PATH is missing")
  // A NUL in front names a socket of Linux's abstract namespace.
  if (socket.includes("\0", 1)) return refuse("the socket's path has a NUL in it")
  if (encodeText(socket).length > LONGEST_SOCKET) return refuse(`the socket's path is longer than ${LONGEST_SOCKET} bytes`)
  return socket
}
