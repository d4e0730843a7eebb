/** A long run of bytes of which only the written parts take memory. Copies share their chunks until one of them writes. */

const CHUNK = 4096

export class SparseBytes {
  #chunks = new Map<number, Uint8Array>()
  /** The chunks that no copy shares. */
  #own = new Set<number>()

  read(target: Uint8Array, offset: number): void {
    forEachChunk(offset, target.length, (chunk, within, at, length) => {
      const bytes = this.#chunks.get(chunk)
      if (bytes === undefined) target.fill(0, at, at + length)
      else target.set(bytes.subarray(within, within + length), at)
    })
  }

  write(source: Uint8Array, offset: number): void {
    forEachChunk(offset, source.length, (chunk, within, at, length) => {
      this.#owned(chunk).set(source.subarray(at, at + length), within)
    })
  }

  zero(offset: number, length: number): void {
    // For a huge range, walking the existing chunks is faster.
    if (length / CHUNK > this.#chunks.size) {
      for (const chunk of [...this.#chunks.keys()]) {
        const from = Math.max(offset, chunk * CHUNK)
        const to = Math.min(offset + length, (chunk + 1) * CHUNK)
        if (from < to) this.#zeroWithin(chunk, from - chunk * CHUNK, to - from)
      }
      return
    }
    forEachChunk(offset, length, (chunk, within, _at, part) => this.#zeroWithin(chunk, within, part))
  }

  clone(): SparseBytes {
    const copy = new SparseBytes()
    copy.#chunks = new Map(this.#chunks)
    this.#own.clear()
    return copy
  }

  /** Calls `visit` for each part that may hold anything but zeroes, in order. */
  forEachData(visit: (offset: number, bytes: Uint8Array) => void): void {
    for (const chunk of [...this.#chunks.keys()].sort((a, b) => a - b)) {
      const bytes = this.#chunks.get(chunk)
      if (bytes !== undefined) visit(chunk * CHUNK, bytes)
    }
  }

  #zeroWithin(chunk: number, within: number, length: number): void {
    if (length === CHUNK) {
      this.#chunks.delete(chunk)
      this.#own.delete(chunk)
    } else if (this.#chunks.has(chunk)) {
      this.#owned(chunk).fill(0, within, within + length)
    }
  }

  #owned(chunk: number): Uint8Array {
    const bytes = this.#chunks.get(chunk)
    if (bytes !== undefined && this.#own.has(chunk)) return bytes
    const fresh = bytes === undefined ? new Uint8Array(CHUNK) : bytes.slice()
    this.#chunks.set(chunk, fresh)
    this.#own.add(chunk)
    return fresh
  }
}

function forEachChunk(offset: number, length: number, visit: (chunk: number, within: number, at: number, length: number) => void): void {
  let at = 0
  while (at < length) {
    const chunk = Math.floor((offset + at) / CHUNK)
    const within = offset + at - chunk * CHUNK
    const part = Math.min(CHUNK - within, length - at)
    visit(chunk, within, at, part)
    at += part
  }
}
