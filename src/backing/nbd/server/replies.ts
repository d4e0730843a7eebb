/** Replies of the transmission phase, as bytes. A reply to a read has its header stored right before its data. */
import { nbdErrorOf } from "../errors.ts"
import { BackingError } from "../../backing.ts"
import { NBD_ERROR, NBD_REPLY_FLAG, NBD_REPLY_TYPE, NBD_SIZE } from "../protocol.ts"
import {
  type Cookie, encodeBlockStatus, encodeErrorChunk, type StatusExtent, writeChunkHeader, writeSimpleReply,
} from "../transmission-messages.ts"
import { setU64, viewOf } from "../../bytes/fields.ts"
import type { PooledBuffer } from "./buffer-pool.ts"

/** Why a request was refused, or failed: a value of `NBD_ERROR`, and a message for the client, which reveals nothing about this host. */
export interface Refusal {
  readonly error: number
  readonly message: string
  /** The byte of the disk at which a read failed. */
  readonly offset?: number
}

/** The part of a disk's error for the client. The rest is for the operator. */
export function refusalOf(error: unknown): Refusal {
  if (!(error instanceof BackingError)) return { error: NBD_ERROR.EIO, message: "the disk failed" }
  // A JavaScript subclass may have an unknown code.
  return { error: nbdErrorOf(error.code) ?? NBD_ERROR.EIO, message: `the disk failed: ${error.code}` }
}

/** A reply without a payload: success, or an error without structured replies. */
export function simpleReply({ cookieHigh, cookieLow }: Cookie, error: number): Uint8Array {
  const bytes = Buffer.allocUnsafe(NBD_SIZE.simpleReply)
  writeSimpleReply(viewOf(bytes), 0, { cookieHigh, cookieLow, error })
  return bytes
}

/** The last chunk of a reply: an error. */
export function errorChunk(cookie: Cookie, { error, message, offset }: Refusal): Uint8Array {
  const payload = encodeErrorChunk({ error, message, ...(offset !== undefined && { offset }) })
  return chunk(cookie, offset === undefined ? NBD_REPLY_TYPE.ERROR : NBD_REPLY_TYPE.ERROR_OFFSET, payload)
}

/** The last chunk of a reply without a payload. */
export function emptyChunk(cookie: Cookie): Uint8Array {
  return chunk(cookie, NBD_REPLY_TYPE.NONE, new Uint8Array(0))
}

/** The only chunk of a reply about the status of blocks. */
export function statusChunk(cookie: Cookie, contextId: number, extents: readonly StatusExtent[]): Uint8Array {
  return chunk(cookie, NBD_REPLY_TYPE.BLOCK_STATUS, encodeBlockStatus({ contextId, extents }))
}

function chunk({ cookieHigh, cookieLow }: Cookie, type: number, payload: Uint8Array): Uint8Array {
  const bytes = Buffer.allocUnsafe(NBD_SIZE.chunkHeader + payload.length)
  writeChunkHeader(viewOf(bytes), 0, { cookieHigh, cookieLow, flags: NBD_REPLY_FLAG.DONE, type, length: payload.length })
  bytes.set(payload, NBD_SIZE.chunkHeader)
  return bytes
}

/** `length` bytes of data in `buffer`, as a simple reply. */
export function simpleData({ cookieHigh, cookieLow }: Cookie, { bytes, view, start }: PooledBuffer, length: number): Uint8Array {
  const at = start - NBD_SIZE.simpleReply
  writeSimpleReply(view, at, { cookieHigh, cookieLow, error: 0 })
  return Buffer.from(bytes.buffer, at, NBD_SIZE.simpleReply + length)
}

/** `length` bytes of the disk from `offset`, which are in `buffer`, as a chunk of a structured reply. */
export function dataChunk(
  { cookieHigh, cookieLow }: Cookie, { bytes, view, start }: PooledBuffer,
  data: { readonly offset: number; readonly length: number; readonly isLast: boolean },
): Uint8Array {
  const at = start - NBD_SIZE.offsetData - NBD_SIZE.chunkHeader
  const flags = data.isLast ? NBD_REPLY_FLAG.DONE : 0
  const length = NBD_SIZE.offsetData + data.length
  writeChunkHeader(view, at, { cookieHigh, cookieLow, flags, type: NBD_REPLY_TYPE.OFFSET_DATA, length })
  setU64(view, start - NBD_SIZE.offsetData, data.offset)
  return Buffer.from(bytes.buffer, at, NBD_SIZE.chunkHeader + length)
}
