/** The client's side of the fixed newstyle handshake, [NBD] "Newstyle negotiation": from the first byte to the transmission phase. */
import { BackingError } from "../../backing.ts"
import * as messages from "../option-messages.ts"
import { BASE_ALLOCATION, isErrorReply, NBD_FLAG, NBD_FLAG_C, NBD_INFO, NBD_LIMIT, NBD_OPT, NBD_REP, NBD_SIZE } from "../protocol.ts"
import { NbdProtocolError } from "../protocol.ts"
import { encodeText } from "../../bytes/fields.ts"
import { u32 } from "../words.ts"
import type { HandshakeWire } from "./handshake-stream.ts"
import type { NbdSettings } from "./options.ts"
import type { NbdAddress } from "./uri.ts"

/** The result of the handshake. */
export interface Negotiated extends messages.ExportInfo {
  readonly blockSizes: messages.BlockSizes
  readonly structured: boolean
  /** The id of base:allocation; undefined if the server does not offer it. */
  readonly contextId: number | undefined
}

/** Maximum of replies to one option, and of bytes of one reply. */
const MOST_REPLIES = 64
const LONGEST_REPLY = NBD_LIMIT.string + 64

/** Defaults for a server that states no block sizes: [NBD] "Size constraints". */
const DEFAULT_SIZES: messages.BlockSizes = { minimum: 1, preferred: 4096, maximum: NBD_LIMIT.payload }

/** The last reply to an option, and those before it. */
interface Answer {
  readonly type: number
  /** The server's message, for errors. */
  readonly text: string
  readonly before: readonly { readonly type: number; readonly data: Uint8Array }[]
}

/**
 * Leads the connection into the transmission phase.
 * @throws BackingError if the server refuses, NbdProtocolError if it breaks the protocol, ConnectionEnded if it disconnects
 */
export async function shakeHands(connection: HandshakeWire, address: NbdAddress, settings: NbdSettings): Promise<Negotiated> {
  const { wire, stream } = connection
  const flags = messages.decodeGreeting(await stream.read(NBD_SIZE.greeting))
  if ((flags & NBD_FLAG.FIXED_NEWSTYLE) === 0) {
    throw new BackingError("unsupported", "the server does not speak the fixed newstyle handshake", { path: address.uri })
  }
  const noZeroes = (flags & NBD_FLAG.NO_ZEROES) !== 0
  wire.write([u32(NBD_FLAG_C.FIXED_NEWSTYLE | (noZeroes ? NBD_FLAG_C.NO_ZEROES : 0))])
  if (address.tls) await startTls(connection, address, settings)
  const structured = (await ask(connection, NBD_OPT.STRUCTURED_REPLY)).type === NBD_REP.ACK
  const contextId = structured ? await selectAllocation(connection, address) : undefined
  const info = await go(connection, address)
  if (info !== undefined) return { ...info, structured, contextId }
  const bare = await chooseByName(connection, address, noZeroes)
  return { ...bare, blockSizes: DEFAULT_SIZES, structured, contextId }
}

async function startTls(connection: HandshakeWire, address: NbdAddress, settings: NbdSettings): Promise<void> {
  const answer = await ask(connection, NBD_OPT.STARTTLS)
  if (answer.type !== NBD_REP.ACK) throw noTls(address, answer)
  // A man in the middle may have injected bytes, which must not count as encrypted.
  if (connection.stream.waiting.length > 0) throw new NbdProtocolError("the server sent unencrypted bytes after the start of TLS")
  const host = "host" in address.target ? address.target.host : undefined
  try {
    await connection.wire.startTls(settings, settings.servername ?? address.tlsHostname ?? host)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new BackingError("permission", `cannot begin TLS: ${reason}`, { path: address.uri, cause: error })
  }
}

async function selectAllocation(connection: HandshakeWire, address: NbdAddress): Promise<number | undefined> {
  const request = messages.encodeMetaContextRequest({ name: address.exportName, queries: [BASE_ALLOCATION] })
  const answer = await ask(connection, NBD_OPT.SET_META_CONTEXT, request)
  if (answer.type !== NBD_REP.ACK) return undefined
  const contexts = answer.before.filter(({ type }) => type === NBD_REP.META_CONTEXT).map(({ data }) => messages.decodeMetaContext(data))
  if (contexts.length > 1 || contexts.some(({ name }) => name !== BASE_ALLOCATION)) {
    throw new NbdProtocolError("the server selected meta contexts that were not requested")
  }
  return contexts[0]?.id
}

/** Undefined if the server is too old for NBD_OPT_GO. */
async function go(
  connection: HandshakeWire,
  address: NbdAddress,
): Promise<(messages.ExportInfo & Pick<Negotiated, "blockSizes">) | undefined> {
  const request = messages.encodeInfoRequest({ name: address.exportName, requests: [NBD_INFO.BLOCK_SIZE] })
  const answer = await ask(connection, NBD_OPT.GO, request)
  if (answer.type === NBD_REP.ERR_UNSUP) return undefined
  if (answer.type !== NBD_REP.ACK) throw refusal(address, `the server does not give the export "${address.exportName}"`, answer)
  const infos = answer.before.filter(({ type }) => type === NBD_REP.INFO).map(({ data }) => messages.decodeInfo(data))
  const found = infos.find(({ type }) => type === NBD_INFO.EXPORT)?.export
  if (found === undefined) throw new NbdProtocolError("the server did not send the size of the export")
  return { ...found, blockSizes: infos.find(({ type }) => type === NBD_INFO.BLOCK_SIZE)?.blockSizes ?? DEFAULT_SIZES }
}

/** NBD_OPT_EXPORT_NAME: the server answers, or closes the connection. */
async function chooseByName({ wire, stream }: HandshakeWire, address: NbdAddress, noZeroes: boolean): Promise<messages.ExportInfo> {
  wire.write([messages.encodeOption(NBD_OPT.EXPORT_NAME, encodeText(address.exportName))])
  const info = messages.decodeExportName(await stream.read(NBD_SIZE.exportName))
  if (!noZeroes) await stream.read(NBD_SIZE.exportNameZeroes)
  return info
}

/** Sends an option, and reads its replies up to the last one. */
async function ask({ wire, stream }: HandshakeWire, option: number, data?: Uint8Array): Promise<Answer> {
  wire.write([messages.encodeOption(option, data)])
  const before: { type: number; data: Uint8Array }[] = []
  while (before.length < MOST_REPLIES) {
    const header = messages.decodeOptionReplyHeader(await stream.read(NBD_SIZE.optionReplyHeader))
    if (header.option !== option) throw new NbdProtocolError(`a reply to option ${header.option}, but option ${option} was sent`)
    if (header.length > LONGEST_REPLY) throw new NbdProtocolError(`a reply of ${header.length} bytes to option ${option}`)
    const reply = { type: header.type, data: header.length === 0 ? new Uint8Array(0) : await stream.read(header.length) }
    if (reply.type === NBD_REP.ACK || isErrorReply(reply.type)) {
      return { type: reply.type, text: isErrorReply(reply.type) ? messages.decodeErrorText(reply.data) : "", before }
    }
    before.push(reply)
  }
  throw new NbdProtocolError(`more than ${MOST_REPLIES} replies to option ${option}`)
}

/** Servers without TLS answer in several ways: unsupported, not set up, invalid. */
function noTls(address: NbdAddress, { text }: Answer): BackingError {
  const said = text === "" ? "" : ` (it says: ${text.slice(0, 200)})`
  return new BackingError("unsupported", `the server does not offer TLS; an nbd URI connects without it, unencrypted${said}`, {
    path: address.uri,
  })
}

function refusal(address: NbdAddress, what: string, { type, text }: Answer): BackingError {
  const said = text === "" ? "" : ` (it says: ${text.slice(0, 200)})`
  const path = address.uri
  switch (type) {
    case NBD_REP.ERR_UNKNOWN:
      return new BackingError("not-found", `${what}: it has none of that name${said}`, { path })
    case NBD_REP.ERR_TLS_REQD:
      return new BackingError("permission", `${what} without TLS; use nbds://${said}`, { path })
    case NBD_REP.ERR_POLICY:
      return new BackingError("permission", `${what}: its settings forbid it${said}`, { path })
    case NBD_REP.ERR_SHUTDOWN:
      return new BackingError("io", `${what}: it is shutting down${said}`, { path })
    case NBD_REP.ERR_UNSUP:
    case NBD_REP.ERR_PLATFORM:
      return new BackingError("unsupported", `${what}${said}`, { path })
    default:
      return new BackingError("io", `${what}: error 0x${type.toString(16)}${said}`, { path })
  }
}
