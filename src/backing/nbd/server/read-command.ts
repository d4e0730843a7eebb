/**
 * ReadCommand: NBD_CMD_READ. Data is read straight into the buffer to send, after its header. A structured reply has a chunk for each
 * piece, so a large read needs only the memory of one piece. A simple reply, or one that the client wants in one piece, can report an error
 * only before its data, so all data is read first.
 */
import type { Request } from "../transmission-messages.ts"
import { type BufferPool, POOLED_PAYLOAD, type PooledBuffer } from "./buffer-pool.ts"
import type { Client, Command } from "./command.ts"
import { read, readPiece } from "./disk-calls.ts"
import { dataChunk, emptyChunk, simpleData, simpleReply } from "./replies.ts"

/** Bytes of memory that a read of `length` bytes needs. */
export function readMemory(length: number, isWhole: boolean): number {
  return isWhole ? length : Math.min(length, POOLED_PAYLOAD)
}

export class ReadCommand implements Command {
  readonly request: Request
  readonly #client: Client
  readonly #pool: BufferPool
  readonly #isWhole: boolean
  #buffer: PooledBuffer | undefined
  #done = 0
  /** Bytes of the piece that is being read. */
  #piece = 0

  /** `isWhole`: the answer has its data in one piece. It was granted `readMemory` bytes. */
  constructor(client: Client, request: Request, options: { readonly pool: BufferPool; readonly isWhole: boolean }) {
    this.#client = client
    this.request = request
    this.#pool = options.pool
    this.#isWhole = options.isWhole
  }

  get filling(): number {
    return this.#buffer === undefined ? 0 : this.#isWhole ? this.request.length : this.#piece
  }

  get position(): number {
    return this.request.offset + this.#done
  }

  start(): void | Promise<void> {
    const left = this.request.length - this.#done
    if (left === 0) return
    const offset = this.position
    this.#piece = readPiece(this.#client.backing, offset, left)
    this.#buffer ??= this.#pool.take(this.#isWhole ? this.request.length : this.#piece)
    const { bytes, start } = this.#buffer
    return read(this.#client.backing, bytes, this.#isWhole ? start + this.#done : start, this.#piece, offset)
  }

  finish(): boolean {
    const { request } = this
    const buffer = this.#buffer
    const offset = this.position
    this.#done += this.#piece
    const isLast = this.#done === request.length
    if (buffer === undefined) {
      this.#client.send(this.#client.structured ? emptyChunk(request) : simpleReply(request, 0))
      return true
    }
    if (this.#isWhole && !isLast) return false
    const data = this.#isWhole ? { offset: request.offset, length: request.length, isLast } : { offset, length: this.#piece, isLast }
    const bytes = this.#client.structured ? dataChunk(request, buffer, data) : simpleData(request, buffer, data.length)
    this.#buffer = undefined
    this.#client.send(bytes, () => {
      this.#pool.give(buffer)
      if (isLast) this.#release()
    })
    return isLast
  }

  abandon(): void {
    this.#release()
  }

  #release(): void {
    this.#client.release(readMemory(this.request.length, this.#isWhole))
  }
}
