/**
 * A command of the transmission phase, from the moment somebody asks for it until it is settled; it outlives the connections it is sent on.
 */
import type { BackingError } from "../../backing.ts"
import { NBD_CMD, NBD_SIZE } from "../protocol.ts"
import type { ErrorChunk, StatusExtent } from "../transmission-messages.ts"
import { Coverage } from "./coverage.ts"

/**
 * Small writes share arrays: thousands of them are kept until a flush, and an ArrayBuffer for each costs the garbage collector more than
 * the rest of the request costs us (half of the CPU time of 4 KiB writes). An array is freed when all that is in it has been flushed.
 */
const SLAB_BYTES = 256 * 1024
const LARGEST_SHARED = 32 * 1024

let slab = new Uint8Array(0)
let slabUsed = 0

function allocate(length: number): Uint8Array {
  if (length > LARGEST_SHARED) return new Uint8Array(length)
  if (slabUsed + length > slab.length) {
    slab = new Uint8Array(SLAB_BYTES)
    slabUsed = 0
  }
  slabUsed += length
  return slab.subarray(slabUsed - length, slabUsed)
}

/** What a command asks for. */
export interface CommandFields {
  /** Of `NBD_CMD`. */
  readonly type: number
  /** Of `NBD_CMD_FLAG`. */
  readonly flags: number
  /** Bytes; 0 for FLUSH, as `length`. */
  readonly offset: number
  readonly length: number
  /** READ: what to fill. WRITE: what to send. Borrowed until the command is settled. */
  readonly buffer?: Uint8Array
}

export class Command {
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  readonly buffer: Uint8Array | undefined
  readonly promise: Promise<void>
  /** WRITE: room for the header, and the payload behind it: what goes over the wire, now and after a reconnection. Made by `prepare`. */
  wire: Uint8Array | undefined
  /** READ: what has come in structured replies since the command was last sent. */
  coverage: Coverage | undefined
  /** What the server answered, so far. */
  error: ErrorChunk | undefined
  /** BLOCK_STATUS: what the server answered, undefined until then. */
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

  /** Before each sending: forgets what came in answer to the last one. */
  prepare(): void {
    this.error = undefined
    this.extents = undefined
    if (this.type === NBD_CMD.READ) this.coverage = new Coverage(this.length)
    if (this.type !== NBD_CMD.WRITE || this.buffer === undefined || this.wire !== undefined) return
    this.wire = allocate(NBD_SIZE.request + this.buffer.length)
    this.wire.set(this.buffer, NBD_SIZE.request)
  }

  /** Whoever waits for it goes on. A second call does nothing. */
  settle(error?: BackingError): void {
    if (error === undefined) this.#resolve()
    else this.#reject(error)
  }
}
