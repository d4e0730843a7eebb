/**
 * Messages of the transmission phase, in both directions. Headers are stored into buffers that the caller reuses; payloads are decoded from
 * bytes. A decoder throws `NbdProtocolError` for an invalid message.
 */
import {
  NBD_LIMIT, NBD_REPLY_TYPE, NBD_REQUEST_MAGIC, NBD_SIMPLE_REPLY_MAGIC, NBD_SIZE, NBD_STRUCTURED_REPLY_MAGIC, NbdProtocolError,
} from "./protocol.ts"
import { encodeText, getU64, setU64, viewOf } from "../bytes/fields.ts"
import { WordReader } from "./words.ts"

/** A cookie as two 32-bit halves: the client chooses them, and the server repeats them. */
export interface Cookie {
  cookieHigh: number
  cookieLow: number
}

/** A request's header. Offset and length are bytes; `offset` is at least 2^53 where the field is. */
export interface Request extends Cookie {
  /** Of `NBD_CMD`. */
  type: number
  /** Of `NBD_CMD_FLAG`. */
  flags: number
  offset: number
  length: number
}

/** Stores 28 bytes at `at`. */
export function writeRequest(view: DataView, at: number, request: Readonly<Request>): void {
  view.setUint32(at, NBD_REQUEST_MAGIC)
  view.setUint16(at + 4, request.flags)
  view.setUint16(at + 6, request.type)
  view.setUint32(at + 8, request.cookieHigh)
  view.setUint32(at + 12, request.cookieLow)
  setU64(view, at + 16, request.offset)
  view.setUint32(at + 24, request.length)
}

/** Reads 28 bytes at `at`. Nothing but the magic number is checked. */
export function readRequest(view: DataView, at: number): Request {
  if (view.getUint32(at) !== NBD_REQUEST_MAGIC) throw new NbdProtocolError("a request does not begin with its magic number")
  return {
    flags: view.getUint16(at + 4), type: view.getUint16(at + 6), cookieHigh: view.getUint32(at + 8), cookieLow: view.getUint32(at + 12),
    offset: getU64(view, at + 16), length: view.getUint32(at + 24),
  }
}

/** Stores 16 bytes at `at`. `error` is of `NBD_ERROR`, or 0. */
export function writeSimpleReply(view: DataView, at: number, reply: Readonly<Cookie & { error: number }>): void {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC)
  view.setUint32(at + 4, reply.error)
  view.setUint32(at + 8, reply.cookieHigh)
  view.setUint32(at + 12, reply.cookieLow)
}

/** The header of a chunk of a structured reply. `length` is that of its payload in bytes. */
export interface ChunkHeader extends Cookie {
  /** Of `NBD_REPLY_FLAG`. */
  flags: number
  /** Of `NBD_REPLY_TYPE`. */
  type: number
  length: number
}

/** Stores 20 bytes at `at`. */
export function writeChunkHeader(view: DataView, at: number, chunk: Readonly<ChunkHeader>): void {
  view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC)
  view.setUint16(at + 4, chunk.flags)
  view.setUint16(at + 6, chunk.type)
  view.setUint32(at + 8, chunk.cookieHigh)
  view.setUint32(at + 12, chunk.cookieLow)
  view.setUint32(at + 16, chunk.length)
}

/** The payload of an error chunk. `offset` is there in NBD_REPLY_TYPE_ERROR_OFFSET. */
export interface ErrorChunk {
  readonly error: number
  readonly message: string
  readonly offset?: number
}

/** Every type with bit 15 set begins as NBD_REPLY_TYPE_ERROR does; of an unknown one, that beginning is read. */
export function decodeErrorChunk(type: number, payload: Uint8Array): ErrorChunk {
  const reader = new WordReader(payload, "an error chunk")
  const error = reader.u32()
  if (error === 0) throw new NbdProtocolError("an error chunk with the error 0")
  const message = reader.text(reader.u16())
  if (type === NBD_REPLY_TYPE.ERROR_OFFSET) return { error, message, offset: reader.u64() }
  return { error, message }
}

/** The payload of an error chunk as bytes; with `offset`, of NBD_REPLY_TYPE_ERROR_OFFSET. The message is cut at the limit for strings. */
export function encodeErrorChunk({ error, message, offset }: ErrorChunk): Uint8Array {
  const text = encodeText(message).subarray(0, NBD_LIMIT.string)
  const payload = new Uint8Array(6 + text.length + (offset === undefined ? 0 : 8))
  const view = viewOf(payload)
  view.setUint32(0, error)
  view.setUint16(4, text.length)
  payload.set(text, 6)
  if (offset !== undefined) setU64(view, 6 + text.length, offset)
  return payload
}

/** A run of bytes with one status. */
export interface StatusExtent {
  readonly length: number
  /** Of `NBD_STATE` in the context base:allocation. */
  readonly flags: number
}

export interface BlockStatus {
  readonly contextId: number
  readonly extents: readonly StatusExtent[]
}

/** Extents that are taken from one block status, of which a server may send a million: whoever needs more asks again. */
const MOST_EXTENTS = 65_536

/** The payload of NBD_REPLY_TYPE_BLOCK_STATUS. Every extent is longer than 0; whether they fit the request, the caller checks. */
export function decodeBlockStatus(payload: Uint8Array): BlockStatus {
  const count = (payload.length - NBD_SIZE.contextId) / NBD_SIZE.descriptor
  if (!Number.isInteger(count) || count < 1 || count > NBD_LIMIT.descriptors) {
    throw new NbdProtocolError(`a block status of ${payload.length} bytes`)
  }
  const reader = new WordReader(payload, "a block status")
  const contextId = reader.u32()
  const extents = Array.from({ length: Math.min(count, MOST_EXTENTS) }, () => ({ length: reader.u32(), flags: reader.u32() }))
  if (extents.some(({ length }) => length === 0)) throw new NbdProtocolError("a block status with an extent of 0 bytes")
  return { contextId, extents }
}

export function encodeBlockStatus({ contextId, extents }: BlockStatus): Uint8Array {
  const payload = new Uint8Array(NBD_SIZE.contextId + extents.length * NBD_SIZE.descriptor)
  const view = viewOf(payload)
  view.setUint32(0, contextId)
  extents.forEach(({ length, flags }, index) => {
    view.setUint32(4 + index * 8, length)
    view.setUint32(8 + index * 8, flags)
  })
  return payload
}
