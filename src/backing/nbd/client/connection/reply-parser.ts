/**
 * Parses the server's messages of the transmission phase from a stream of bytes. Payload goes straight into the command's buffer: the
 * socket reads large ones into it; smaller ones are copied once.
 */
import {
  NBD_CMD, NBD_LIMIT, NBD_REPLY_FLAG, NBD_REPLY_TYPE, NBD_SIMPLE_REPLY_MAGIC, NBD_SIZE, NBD_STRUCTURED_REPLY_MAGIC,
} from "../../protocol.ts"
import { isErrorChunk, NbdProtocolError } from "../../protocol.ts"
import { decodeBlockStatus, decodeErrorChunk } from "../../transmission-messages.ts"
import { getU64, viewOf } from "../../../bytes/fields.ts"
import type { Command } from "../command.ts"

/** The connection of the messages. */
export interface ReplySink {
  /** The command in flight with this cookie. */
  find(cookieHigh: number, cookieLow: number): Command | undefined
  /** The answer is complete. */
  completed(cookieLow: number, command: Command): void
}

export interface ReplyContext {
  /** Whether structured replies have been negotiated. */
  readonly structured: boolean
  /** The id of base:allocation; undefined if it was not selected. */
  readonly contextId: number | undefined
}

/** Bytes of the input buffer, for reads that do not go into a command's buffer. */
const READ_BYTES = 256 * 1024
/** A payload with at least this many missing bytes is read in place: less is not worth a system call. */
const IN_PLACE = 64 * 1024
/** The longest fixed part of a message: the header of a chunk, and the offset in front of data. */
const LONGEST_HEADER = NBD_SIZE.chunkHeader + NBD_SIZE.offsetData
/** Bytes of an error chunk: a string, and a few fields. */
const LONGEST_ERROR = NBD_LIMIT.string + 64

const NONE = new Uint8Array(0)

export class ReplyParser {
  readonly #sink: ReplySink
  readonly #context: ReplyContext
  readonly #input = new Uint8Array(READ_BYTES)
  /** The beginning of `#input`, as long as one header. */
  readonly #headerInput = this.#input.subarray(0, LONGEST_HEADER)
  readonly #header = new Uint8Array(LONGEST_HEADER)
  readonly #headerView = viewOf(this.#header)
  #inputView = viewOf(this.#input)
  /** Bytes in `#header`. */
  #have = 0
  /** The message whose payload is being received; undefined between messages. */
  #command: Command | undefined
  #cookieLow = 0
  #flags = 0
  #type = 0
  /** The buffer for the payload, from `#at` to `#end`. */
  #destination: Uint8Array = NONE
  #at = 0
  #end = 0
  /** Whether the payload is the command's data. */
  #isData = false
  /**
   * Whether the last message was long data: then the next header is read alone, so that its data can be read in place from the first byte
   * on.
   */
  #isAfterLarge = false

  constructor(context: ReplyContext, sink: ReplySink) {
    this.#context = context
    this.#sink = sink
  }

  /** The buffer for the next bytes from the socket. */
  target(): Uint8Array {
    if (this.#isData) return this.#end - this.#at >= IN_PLACE ? this.#destination.subarray(this.#at, this.#end) : this.#input
    return this.#isAfterLarge && this.#command === undefined && this.#have === 0 ? this.#headerInput : this.#input
  }

  /**
   * Takes `bytes[0 .. length)`.
   * @throws NbdProtocolError if the server breaks the protocol
   */
  take(bytes: Uint8Array, length: number): void {
    if (this.#isData && bytes.buffer === this.#destination.buffer) {
      // Read in place: `bytes` is what `target` returned.
      this.#at += length
      if (this.#at === this.#end) this.#payloadEnded()
      return
    }
    const view = this.#inputView
    if (bytes.buffer !== view.buffer || bytes.byteOffset !== view.byteOffset || length > view.byteLength) this.#inputView = viewOf(bytes)
    let at = 0
    while (at < length) at = this.#command === undefined ? this.#takeHeader(bytes, at, length) : this.#takePayload(bytes, at, length)
  }

  #takePayload(bytes: Uint8Array, at: number, end: number): number {
    const count = Math.min(end - at, this.#end - this.#at)
    this.#destination.set(bytes.subarray(at, at + count), this.#at)
    this.#at += count
    if (this.#at === this.#end) this.#payloadEnded()
    return at + count
  }

  #takeHeader(bytes: Uint8Array, at: number, end: number): number {
    // The usual case: the whole header lies in the buffer.
    if (this.#have === 0 && end - at >= LONGEST_HEADER) return at + this.#message(this.#inputView, at)
    const need = this.#headerNeeds()
    const count = Math.min(need - this.#have, end - at)
    this.#header.set(bytes.subarray(at, at + count), this.#have)
    this.#have += count
    if (this.#have === this.#headerNeeds()) {
      this.#have = 0
      this.#message(this.#headerView, 0)
    }
    return at + count
  }

  /** Length of the header in `#header`, as far as its present bytes tell. */
  #headerNeeds(): number {
    if (this.#have < NBD_SIZE.simpleReply || this.#headerView.getUint32(0) !== NBD_STRUCTURED_REPLY_MAGIC) return NBD_SIZE.simpleReply
    if (this.#have < NBD_SIZE.chunkHeader) return NBD_SIZE.chunkHeader
    return this.#headerView.getUint16(6) === NBD_REPLY_TYPE.OFFSET_DATA ? LONGEST_HEADER : NBD_SIZE.chunkHeader
  }

  /** A message begins at `at`. Returns the bytes of its fixed part. */
  #message(view: DataView, at: number): number {
    this.#isAfterLarge = false
    const magic = view.getUint32(at)
    const isChunk = magic === NBD_STRUCTURED_REPLY_MAGIC && this.#context.structured
    if (!isChunk && magic !== NBD_SIMPLE_REPLY_MAGIC) throw new NbdProtocolError(`a reply begins with 0x${magic.toString(16)}`)
    this.#cookieLow = view.getUint32(at + 12)
    const command = this.#sink.find(view.getUint32(at + 8), this.#cookieLow)
    if (command === undefined) throw new NbdProtocolError("a reply to a request that is not in flight")
    return isChunk ? this.#chunk(command, view, at) : this.#simpleReply(command, view.getUint32(at + 4))
  }

  #simpleReply(command: Command, error: number): number {
    const hasPayload = command.type === NBD_CMD.READ || command.type === NBD_CMD.BLOCK_STATUS
    if (hasPayload && this.#context.structured) throw new NbdProtocolError("a simple reply, although structured replies were negotiated")
    if (error !== 0) {
      command.error = { error, message: "" }
    } else if (command.type === NBD_CMD.READ) {
      command.coverage?.claim(0, command.length)
      this.#flags = NBD_REPLY_FLAG.DONE
      this.#dataFollows(command, 0, command.length)
      return NBD_SIZE.simpleReply
    }
    this.#sink.completed(this.#cookieLow, command)
    return NBD_SIZE.simpleReply
  }

  #chunk(command: Command, view: DataView, at: number): number {
    this.#flags = view.getUint16(at + 4)
    this.#type = view.getUint16(at + 6)
    const length = view.getUint32(at + 16)
    switch (this.#type) {
      case NBD_REPLY_TYPE.NONE:
        if (length !== 0 || (this.#flags & NBD_REPLY_FLAG.DONE) === 0) {
          throw new NbdProtocolError("a chunk of type NONE that is not the last one, or not empty")
        }
        this.#chunkEnded(command)
        break
      case NBD_REPLY_TYPE.OFFSET_DATA: {
        const start = this.#claim(command, getU64(view, at + NBD_SIZE.chunkHeader), length - NBD_SIZE.offsetData)
        this.#dataFollows(command, start, length - NBD_SIZE.offsetData)
        return LONGEST_HEADER
      }
      case NBD_REPLY_TYPE.OFFSET_HOLE:
        this.#payloadFollows(command, length, NBD_SIZE.offsetHole)
        break
      case NBD_REPLY_TYPE.BLOCK_STATUS: {
        // Each descriptor is at least one byte, and all but the last are inside the requested range.
        const most = Math.min(NBD_LIMIT.descriptors, command.length)
        this.#payloadFollows(command, length, NBD_SIZE.contextId + NBD_SIZE.descriptor * most)
        break
      }
      default:
        if (!isErrorChunk(this.#type)) throw new NbdProtocolError(`a chunk of the unknown type ${this.#type}`)
        this.#payloadFollows(command, length, LONGEST_ERROR)
    }
    return NBD_SIZE.chunkHeader
  }

  #dataFollows(command: Command, start: number, length: number): void {
    this.#command = command
    this.#destination = command.buffer ?? NONE
    this.#at = start
    this.#end = start + length
    this.#isData = true
    this.#isAfterLarge = length >= IN_PLACE
  }

  #payloadFollows(command: Command, length: number, most: number): void {
    if (length === 0 || length > most) throw new NbdProtocolError(`a chunk of type ${this.#type} with ${length} bytes`)
    this.#command = command
    this.#destination = new Uint8Array(length)
    this.#at = 0
    this.#end = length
    this.#isData = false
  }

  /** Checks the range of a content chunk. Returns its offset in the command's buffer. */
  #claim(command: Command, offset: number, length: number): number {
    if (command.type !== NBD_CMD.READ) throw new NbdProtocolError("data in reply to a command other than READ")
    const start = offset - command.offset
    if (length < 1 || start < 0 || command.coverage?.claim(start, length) !== true) {
      throw new NbdProtocolError("data that was not asked for, or that comes twice")
    }
    return start
  }

  #payloadEnded(): void {
    const command = this.#command
    const payload = this.#destination
    const isData = this.#isData
    this.#command = undefined
    this.#destination = NONE
    this.#isData = false
    if (command === undefined) return
    if (!isData) this.#understand(command, payload)
    this.#chunkEnded(command)
  }

  #understand(command: Command, payload: Uint8Array): void {
    if (this.#type === NBD_REPLY_TYPE.OFFSET_HOLE) {
      if (payload.length !== NBD_SIZE.offsetHole) throw new NbdProtocolError(`a hole of ${payload.length} bytes`)
      const view = viewOf(payload)
      const length = view.getUint32(8)
      const start = this.#claim(command, getU64(view, 0), length)
      command.buffer?.fill(0, start, start + length)
    } else if (this.#type === NBD_REPLY_TYPE.BLOCK_STATUS) {
      const { contextId, extents } = decodeBlockStatus(payload)
      const isAsked = command.type === NBD_CMD.BLOCK_STATUS && contextId === this.#context.contextId && command.extents === undefined
      if (!isAsked) throw new NbdProtocolError("a block status that was not asked for, or that comes twice")
      command.extents = extents
    } else {
      const error = decodeErrorChunk(this.#type, payload)
      command.error ??= error
    }
  }

  #chunkEnded(command: Command): void {
    if ((this.#flags & NBD_REPLY_FLAG.DONE) === 0) return
    if (command.error === undefined) {
      const lacks = command.type === NBD_CMD.READ ? command.coverage?.isComplete !== true : false
      if (lacks) throw new NbdProtocolError("a READ that succeeded without all of its bytes")
      if (command.type === NBD_CMD.BLOCK_STATUS && command.extents === undefined) {
        throw new NbdProtocolError("a BLOCK_STATUS that succeeded without a status")
      }
    }
    this.#sink.completed(this.#cookieLow, command)
  }
}
