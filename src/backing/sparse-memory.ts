/** SparseMemory: a long run of bytes; only written chunks take up memory. */

/** Bytes that are allocated together. */
export const CHUNK_SIZE = 1 << 16
/** Chunks that one call of `allocation` examines. */
const CHUNKS_AT_ONCE = 1 << 14

export class SparseMemory {
  readonly #chunks = new Map<number, Uint8Array>()
  /** Chunks below this index are views of the caller's bytes: zeroing does not drop them. */
  #given = 0

  /** Uses `bytes` without a copy: later writes go there. */
  static over(bytes: Uint8Array): SparseMemory {
    const memory = new SparseMemory()
    for (let at = 0; at < bytes.length; at += CHUNK_SIZE) {
      if (bytes.length - at >= CHUNK_SIZE) memory.#chunks.set(memory.#given++, bytes.subarray(at, at + CHUNK_SIZE))
      // The last chunk is copied, because each chunk needs CHUNK_SIZE bytes.
      else memory.write(bytes, at, bytes.length - at, at)
    }
    return memory
  }

  /** Bytes of allocated memory. */
  get allocated(): number {
    return this.#chunks.size * CHUNK_SIZE
  }

  /** Fills `target[start .. start + length)` from `offset`. */
  read(target: Uint8Array, start: number, length: number, offset: number): void {
    for (let done = 0; done < length;) {
      const within = (offset + done) % CHUNK_SIZE
      const part = Math.min(CHUNK_SIZE - within, length - done)
      const chunk = this.#chunks.get((offset + done - within) / CHUNK_SIZE)
      if (chunk === undefined) target.fill(0, start + done, start + done + part)
      else target.set(new Uint8Array(chunk.buffer, chunk.byteOffset + within, part), start + done)
      done += part
    }
  }

  /** Stores `source[start .. start + length)` at `offset`. */
  write(source: Uint8Array, start: number, length: number, offset: number): void {
    for (let done = 0; done < length;) {
      const within = (offset + done) % CHUNK_SIZE
      const part = Math.min(CHUNK_SIZE - within, length - done)
      const chunk = this.#chunk((offset + done - within) / CHUNK_SIZE)
      chunk.set(new Uint8Array(source.buffer, source.byteOffset + start + done, part), within)
      done += part
    }
  }

  /** Drops whole chunks, and zeroes parts of the others. */
  zero(offset: number, length: number): void {
    const end = offset + length
    // A range may span millions of missing chunks: walks the chunks of the range or the existing ones, whichever are fewer.
    const first = Math.floor(offset / CHUNK_SIZE)
    const last = Math.ceil(end / CHUNK_SIZE)
    const indices = last - first < this.#chunks.size ? Array.from({ length: last - first }, (_, i) => first + i) : [...this.#chunks.keys()]
    for (const index of indices) {
      const start = index * CHUNK_SIZE
      if (start >= end || start + CHUNK_SIZE <= offset) continue
      const isWhole = offset <= start && start + CHUNK_SIZE <= end
      if (isWhole && index >= this.#given) this.#chunks.delete(index)
      else this.#chunks.get(index)?.fill(0, Math.max(offset - start, 0), Math.min(end - start, CHUNK_SIZE))
    }
  }

  /** A run from `offset` on, of at most `length` bytes, that is either allocated or not. See `VirtioBacking.allocation`. */
  allocation(offset: number, length: number): { readonly length: number; readonly isAllocated: boolean; readonly isZero: boolean } {
    const first = Math.floor(offset / CHUNK_SIZE)
    const isAllocated = this.#chunks.has(first)
    const most = Math.min(Math.ceil((offset + length) / CHUNK_SIZE), first + CHUNKS_AT_ONCE)
    let end = first + 1
    while (end < most && this.#chunks.has(end) === isAllocated) end++
    return { length: Math.min(end * CHUNK_SIZE - offset, length), isAllocated, isZero: !isAllocated }
  }

  clear(): void {
    this.#chunks.clear()
  }

  /** The chunks that exist, in order: the byte where each begins, and its content. */
  *chunks(): Generator<readonly [offset: number, bytes: Uint8Array]> {
    for (const index of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      const bytes = this.#chunks.get(index)
      if (bytes !== undefined) yield [index * CHUNK_SIZE, bytes]
    }
  }

  #chunk(index: number): Uint8Array {
    let chunk = this.#chunks.get(index)
    if (chunk === undefined) {
      chunk = new Uint8Array(CHUNK_SIZE)
      this.#chunks.set(index, chunk)
    }
    return chunk
  }
}
