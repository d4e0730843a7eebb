/**
 * WriteBuffers: reuses memory for writes. Each write is copied once, after room for its header; the copy is sent, and kept until the server
 * has flushed it. New arrays would take more time than all the rest, because V8 collects its whole heap for every few MiB of them (more
 * than 1 ms of CPU time for a write of 1 MiB, while the copy takes 0.2 ms).
 */
import { NBD_SIZE } from "../protocol.ts"

/** Small writes share a block of this many bytes. */
const SHARED_BLOCK = 256 * 1024
const LARGEST_SHARED = 32 * 1024
/**
 * Where the payload of a large write begins: Node's arrays begin 16 bytes after a page of the host, and copies to an aligned page are
 * faster.
 */
const LARGE_START = 4096 - 16

/** An array, and the number of writes in it. */
interface Block {
  readonly bytes: Uint8Array
  writes: number
}

/** Free blocks of one size, used last in, first out. */
interface FreeList {
  readonly blocks: Block[]
  /** The minimum of free blocks since the last `trim`: so many were not needed. */
  idle: number
}

/** Memory of one write: room for the header, and the payload after it. */
export class WriteBuffer {
  readonly bytes: Uint8Array
  /** Bytes of memory that it takes up. */
  readonly size: number
  readonly block: Block
  readonly #payload: Uint8Array
  /** Bytes of the payload that are in `bytes`. */
  #copied = 0

  constructor(payload: Uint8Array, bytes: Uint8Array, size: number, block: Block) {
    this.#payload = payload
    this.bytes = bytes
    this.size = size
    this.block = block
  }

  /** Copies the payload up to byte `end` of `bytes`; it must not have changed since the first call. */
  copyTo(end: number): void {
    const wanted = end - NBD_SIZE.request
    if (wanted <= this.#copied) return
    this.bytes.set(this.#payload.subarray(this.#copied, wanted), NBD_SIZE.request + this.#copied)
    this.#copied = wanted
  }
}

export class WriteBuffers {
  readonly #free = new Map<number, FreeList>()
  /** The block that small writes go to, used up to `#used`. */
  #shared: Block | undefined
  #used = 0

  /** Memory for `payload`, which is not copied yet. */
  take(payload: Uint8Array): WriteBuffer {
    return payload.length > LARGEST_SHARED ? this.#takeLarge(payload) : this.#takeSmall(payload)
  }

  /** Releases `buffer`. */
  give({ block }: WriteBuffer): void {
    block.writes--
    if (block.writes > 0 || block === this.#shared) return
    const list = this.#free.get(block.bytes.length)
    if (list === undefined) this.#free.set(block.bytes.length, { blocks: [block], idle: 0 })
    else list.blocks.push(block)
  }

  /** Frees blocks that were not needed since the last call. */
  trim(): void {
    for (const [size, list] of this.#free) {
      list.blocks.splice(0, list.idle)
      list.idle = list.blocks.length
      if (list.blocks.length === 0) this.#free.delete(size)
    }
  }

  #takeLarge(payload: Uint8Array): WriteBuffer {
    const size = LARGE_START + roomFor(payload.length)
    const block = this.#takeBlock(size)
    const bytes = block.bytes.subarray(LARGE_START - NBD_SIZE.request, LARGE_START + payload.length)
    return new WriteBuffer(payload, bytes, size, block)
  }

  #takeSmall(payload: Uint8Array): WriteBuffer {
    const length = NBD_SIZE.request + payload.length
    let block = this.#shared
    if (block?.writes === 0) this.#used = 0
    if (block === undefined || this.#used + length > SHARED_BLOCK) {
      block = this.#takeBlock(SHARED_BLOCK)
      this.#shared = block
      this.#used = 0
    } else {
      block.writes++
    }
    const start = this.#used
    this.#used += length
    return new WriteBuffer(payload, block.bytes.subarray(start, this.#used), length, block)
  }

  /** A block of `size` bytes, with one write in it. */
  #takeBlock(size: number): Block {
    const list = this.#free.get(size)
    const block = list?.blocks.pop()
    if (list === undefined || block === undefined) return { bytes: new Uint8Array(size), writes: 1 }
    list.idle = Math.min(list.idle, list.blocks.length)
    block.writes = 1
    return block
  }
}

/** Rounds sizes up by at most 25 %, so that there are few free lists. */
function roomFor(length: number): number {
  const step = 2 ** (Math.floor(Math.log2(length)) - 2)
  return Math.ceil(length / step) * step
}
