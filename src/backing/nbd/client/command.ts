/**
 * A command of the transmission phase, from its request until it is settled. It outlives the connections on which it is sent.
 */
import type { BackingError } from "../../backing.ts"
import { NBD_CMD } from "../protocol.ts"
import type { ErrorChunk, StatusExtent } from "../transmission-messages.ts"
import { Coverage } from "./connection/coverage.ts"
import type { WriteBuffer } from "./write-buffers.ts"

/** The request of a command. */
export interface CommandFields {
  /** Of `NBD_CMD`. */
  readonly type: number
  /** Of `NBD_CMD_FLAG`. */
  readonly flags: number
  /** Bytes; 0 for FLUSH, as `length`. */
  readonly offset: number
  readonly length: number
  /** READ: the buffer to fill. WRITE: the data to send. Borrowed until the command is settled. */
  readonly buffer?: Uint8Array
}

export class Command {
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  readonly buffer: Uint8Array | undefined
  readonly promise: Promise<void>
  /** WRITE: the copy to send, now and after a reconnection. `Unflushed` allocates and releases it. */
  wire: WriteBuffer | undefined
  /** READ: the bytes received in structured replies since the command was last sent. */
  coverage: Coverage | undefined
  /** The server's error, so far. */
  error: ErrorChunk | undefined
  /** BLOCK_STATUS: the server's answer. */
  extents: readonly StatusExtent[] | undefined
  sentAt = 0
  /** Writes: the number of the answer, in the order of answers; 0 while there is none. FLUSH: of the last answer that it covers. */
  answer = 0
  #resolve: () => void = () => undefined
  #reject: (error: BackingError) => void = () => undefined

  constructor({ type, flags, offset, length, buffer }: CommandFields) {
    this.type = type
    this.flags = flags
    this.offset = offset
    this.length = length
    this.buffer = buffer
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  static flush(): Command {
    return new Command({ type: NBD_CMD.FLUSH, flags: 0, offset: 0, length: 0 })
  }

  /** Whether it changes the disk. */
  get changes(): boolean {
    return this.type === NBD_CMD.WRITE || this.type === NBD_CMD.WRITE_ZEROES || this.type === NBD_CMD.TRIM
  }

  /** Bytes that are on their way, in one direction or the other. */
  get payload(): number {
    return this.buffer?.length ?? 0
  }

  overlaps(other: Command): boolean {
    return this.offset < other.offset + other.length && other.offset < this.offset + this.length
  }

  /** Called before each sending: drops partial answers to the last one. */
  prepare(): void {
    this.error = undefined
    this.extents = undefined
    if (this.type === NBD_CMD.READ) this.coverage = new Coverage(this.length)
  }

  /** Settles its promise. A second call does nothing. */
  settle(error?: BackingError): void {
    if (error === undefined) this.#resolve()
    else this.#reject(error)
  }
}
