/** ByteQueue: bytes received from a socket. Large chunks are not copied; tiny ones are joined. */

/** Two neighbours below this many bytes share a block, because a list of one-byte chunks takes a hundred times their memory. */
const SMALL = 1024
const BLOCK = 8192

export class ByteQueue {
  readonly #chunks: Uint8Array[] = []
  #length = 0
  /** Bytes of the first chunk that have been taken. */
  #taken = 0
  /** The memory of the last chunk, if it is our own block with free room after it. */
  #block: Uint8Array | undefined

  /** Bytes that can be taken. */
  get length(): number {
    return this.#length
  }

  /** Appends `bytes`, which nobody changes afterwards. */
  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return
    this.#length += bytes.length
    const last = this.#chunks.at(-1)
    if (last === undefined || bytes.length >= SMALL || !this.#join(last, bytes)) {
      this.#chunks.push(bytes)
      this.#block = undefined
    }
  }

  /** The next `length` bytes as one array. The caller has checked that there are that many. */
  take(length: number): Uint8Array {
    const [first] = this.#chunks
    if (first !== undefined && first.length - this.#taken >= length) return this.#takeFirst(length)
    const bytes = new Uint8Array(length)
    for (let done = 0; done < length; ) {
      const part = this.#takeFirst(length - done)
      bytes.set(part, done)
      done += part.length
    }
    return bytes
  }

  /** The next `length` bytes as views, without copying. The caller has checked that there are that many. */
  takeViews(length: number): Uint8Array[] {
    const views: Uint8Array[] = []
    for (let done = 0; done < length; done += views.at(-1)?.length ?? 0) views.push(this.#takeFirst(length - done))
    return views
  }

  /** The next 1 to `length` bytes, as far as they are contiguous. The queue is not empty. */
  takeSome(length: number): Uint8Array {
    return this.#takeFirst(length)
  }

  clear(): void {
    this.#chunks.length = 0
    this.#length = 0
    this.#taken = 0
    this.#block = undefined
  }

  #takeFirst(most: number): Uint8Array {
    const [first] = this.#chunks
    if (first === undefined) throw new RangeError("more bytes were taken than there are")
    const count = Math.min(most, first.length - this.#taken)
    const view = new Uint8Array(first.buffer, first.byteOffset + this.#taken, count)
    this.#length -= count
    this.#taken += count
    if (this.#taken === first.length) {
      this.#chunks.shift()
      this.#taken = 0
      if (this.#chunks.length === 0) this.#block = undefined
    }
    return view
  }

  /** Appends `bytes` to `last` in one block. Returns false if `last` is too long for that. */
  #join(last: Uint8Array, bytes: Uint8Array): boolean {
    const length = last.length + bytes.length
    if (this.#block === undefined) {
      if (last.length >= SMALL) return false
      this.#block = new Uint8Array(BLOCK)
      this.#block.set(last)
    }
    if (length > this.#block.length) return false
    this.#block.set(bytes, last.length)
    this.#chunks[this.#chunks.length - 1] = new Uint8Array(this.#block.buffer, 0, length)
    return true
  }
}
