/**
 * Messages of the handshake, in both directions, as pure functions from and to bytes. A decoder throws `NbdProtocolError` for an invalid
 * one.
 */
import { IHAVEOPT, type Magic, NBD_INFO, NBD_LIMIT, NBD_REP_MAGIC, NBD_SIZE, NBDMAGIC, NbdProtocolError } from "./protocol.ts"
import { joined } from "../bytes/buffers.ts"
import { decodeText, encodeText, viewOf } from "../bytes/fields.ts"
import { isMagic, lengthAndText, setMagic, u16, u32, u64, WordReader } from "./words.ts"

/** The server's first message. `flags` are of `NBD_FLAG`. */
export function encodeGreeting(flags: number): Uint8Array {
  return joined([magicBytes(NBDMAGIC), magicBytes(IHAVEOPT), u16(flags)])
}

/** The handshake flags in the server's first 18 bytes. */
export function decodeGreeting(bytes: Uint8Array): number {
  const view = viewOf(bytes)
  if (!isMagic(view, 0, NBDMAGIC)) throw new NbdProtocolError("it does not begin with NBDMAGIC: no NBD server listens there")
  if (!isMagic(view, 8, IHAVEOPT)) throw new NbdProtocolError("the server speaks the oldstyle handshake, which names no export")
  return view.getUint16(16)
}

/** An option of the client, with its data. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  return joined([magicBytes(IHAVEOPT), u32(option, data.length), data])
}

/** What the 16 bytes before an option's data say. `length` is not bounded yet. */
export function decodeOptionHeader(bytes: Uint8Array): { readonly option: number; readonly length: number } {
  const view = viewOf(bytes)
  if (!isMagic(view, 0, IHAVEOPT)) throw new NbdProtocolError("an option does not begin with IHAVEOPT")
  return { option: view.getUint32(8), length: view.getUint32(12) }
}

/** A reply of the server to an option. */
export function encodeOptionReply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  return joined([magicBytes(NBD_REP_MAGIC), u32(option, type, data.length), data])
}

/** What the 20 bytes before a reply's data say. `length` is not bounded yet. */
export interface OptionReplyHeader {
  readonly option: number
  readonly type: number
  readonly length: number
}

export function decodeOptionReplyHeader(bytes: Uint8Array): OptionReplyHeader {
  const view = viewOf(bytes)
  if (!isMagic(view, 0, NBD_REP_MAGIC)) throw new NbdProtocolError("a reply to an option does not begin with its magic number")
  return { option: view.getUint32(8), type: view.getUint32(12), length: view.getUint32(16) }
}

/** The data of NBD_OPT_INFO and NBD_OPT_GO. */
export interface InfoRequest {
  readonly name: string
  /** Of `NBD_INFO`. */
  readonly requests: readonly number[]
}

export function encodeInfoRequest({ name, requests }: InfoRequest): Uint8Array {
  return joined([lengthAndText(name), u16(requests.length), u16(...requests)])
}

export function decodeInfoRequest(data: Uint8Array): InfoRequest {
  const reader = new WordReader(data, "NBD_OPT_INFO or NBD_OPT_GO")
  const name = reader.lengthAndText()
  const count = reader.u16()
  if (reader.left !== count * 2) throw new NbdProtocolError(`NBD_OPT_INFO or NBD_OPT_GO: ${count} requests in ${reader.left} bytes`)
  return { name, requests: Array.from({ length: count }, () => reader.u16()) }
}

/** The data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly name: string
  readonly queries: readonly string[]
}

export function encodeMetaContextRequest({ name, queries }: MetaContextRequest): Uint8Array {
  return joined([lengthAndText(name), u32(queries.length), ...queries.map(lengthAndText)])
}

export function decodeMetaContextRequest(data: Uint8Array): MetaContextRequest {
  const reader = new WordReader(data, "NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT")
  const name = reader.lengthAndText()
  const count = reader.u32()
  // Each query has a length: the count is bounded by the data that came, before an array is made.
  if (count * 4 > reader.left) throw new NbdProtocolError(`a request for meta contexts has ${count} queries in ${reader.left} bytes`)
  const queries = Array.from({ length: count }, () => reader.lengthAndText())
  reader.end()
  return { name, queries }
}

/** The data of NBD_REP_META_CONTEXT. */
export interface MetaContext {
  readonly id: number
  readonly name: string
}

export function encodeMetaContext({ id, name }: MetaContext): Uint8Array {
  return joined([u32(id), encodeText(name)])
}

export function decodeMetaContext(data: Uint8Array): MetaContext {
  const reader = new WordReader(data, "NBD_REP_META_CONTEXT")
  return { id: reader.u32(), name: reader.text(reader.left) }
}

/** Size in bytes and transmission flags (`NBD_FLAG_T`) of an export. */
export interface ExportInfo {
  readonly size: number
  readonly flags: number
}

/** The data of NBD_REP_INFO for NBD_INFO_EXPORT. */
export function encodeInfoExport({ size, flags }: ExportInfo): Uint8Array {
  return joined([u16(NBD_INFO.EXPORT), u64(size), u16(flags)])
}

/** The answer to NBD_OPT_EXPORT_NAME, with the zeroes unless the client asked for none. */
export function encodeExportName(info: ExportInfo, options: { readonly zeroes: boolean }): Uint8Array {
  return joined([u64(info.size), u16(info.flags), new Uint8Array(options.zeroes ? NBD_SIZE.exportNameZeroes : 0)])
}

/** The 10 bytes that NBD_OPT_EXPORT_NAME is answered with. */
export function decodeExportName(data: Uint8Array): ExportInfo {
  const reader = new WordReader(data, "the answer to NBD_OPT_EXPORT_NAME")
  return checkedExport({ size: reader.u64(), flags: reader.u16() })
}

/** Bytes. Powers of two, `maximum` apart. */
export interface BlockSizes {
  readonly minimum: number
  readonly preferred: number
  readonly maximum: number
}

/** The data of NBD_REP_INFO for NBD_INFO_BLOCK_SIZE. */
export function encodeInfoBlockSize({ minimum, preferred, maximum }: BlockSizes): Uint8Array {
  return joined([u16(NBD_INFO.BLOCK_SIZE), u32(minimum, preferred, maximum)])
}

/** The data of NBD_REP_INFO for NBD_INFO_NAME and NBD_INFO_DESCRIPTION. */
export function encodeInfoText(type: number, text: string): Uint8Array {
  return joined([u16(type), encodeText(text)])
}

/** What one NBD_REP_INFO says; `type` alone where it is of no type that is known here. */
export interface Info {
  readonly type: number
  readonly export?: ExportInfo
  readonly blockSizes?: BlockSizes
  readonly text?: string
}

export function decodeInfo(data: Uint8Array): Info {
  const reader = new WordReader(data, "NBD_REP_INFO")
  const type = reader.u16()
  switch (type) {
    case NBD_INFO.EXPORT:
      checkLength("NBD_INFO_EXPORT", data, NBD_SIZE.infoExport)
      return { type, export: checkedExport({ size: reader.u64(), flags: reader.u16() }) }
    case NBD_INFO.BLOCK_SIZE:
      checkLength("NBD_INFO_BLOCK_SIZE", data, NBD_SIZE.infoBlockSize)
      return { type, blockSizes: checkedBlockSizes({ minimum: reader.u32(), preferred: reader.u32(), maximum: reader.u32() }) }
    case NBD_INFO.NAME:
    case NBD_INFO.DESCRIPTION:
      return { type, text: reader.text(reader.left) }
    default:
      return { type }
  }
}

/** The data of NBD_REP_SERVER. */
export function encodeServer(name: string, description = ""): Uint8Array {
  return joined([lengthAndText(name), encodeText(description)])
}

/** The text of an error reply, "" where there is none. */
export function decodeErrorText(data: Uint8Array): string {
  return decodeText(data.subarray(0, NBD_LIMIT.string))
}

function checkLength(what: string, data: Uint8Array, length: number): void {
  if (data.length !== length) throw new NbdProtocolError(`${what} has ${data.length} bytes instead of ${length}`)
}

function checkedExport(info: ExportInfo): ExportInfo {
  if (!Number.isSafeInteger(info.size)) throw new NbdProtocolError("the export is larger than 2^53 - 1 bytes")
  return info
}

function checkedBlockSizes(sizes: BlockSizes): BlockSizes {
  const { minimum, preferred, maximum } = sizes
  const right =
    isPowerOfTwo(minimum) && minimum <= NBD_LIMIT.minimumBlock && isPowerOfTwo(preferred) && preferred >= Math.max(minimum, 512) &&
    maximum >= preferred
  if (!right) throw new NbdProtocolError(`the block sizes ${minimum}, ${preferred} and ${maximum} are invalid`)
  return sizes
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value))
}

function magicBytes(magic: Magic): Uint8Array {
  const bytes = new Uint8Array(8)
  setMagic(viewOf(bytes), 0, magic)
  return bytes
}
