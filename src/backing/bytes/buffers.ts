/** Treats a list of buffers as one run of bytes: guest memory is scattered, and so are clusters, with different borders. */

import { checkRange, totalLength, type VirtioBacking } from "../backing.ts"

/** Hands out a list of buffers piece by piece, in order, without copying. */
export class BufferCursor {
  readonly #buffers: readonly Uint8Array[]
  #index = 0
  #within = 0

  constructor(buffers: readonly Uint8Array[]) {
    this.#buffers = buffers
  }

  /** Views of the next `length` bytes. @throws RangeError if fewer are left */
  take(length: number): Uint8Array[] {
    const parts: Uint8Array[] = []
    this.append(parts, length)
    return parts
  }

  /** Like `take`, but appends the views to `parts`. */
  append(parts: Uint8Array[], length: number): void {
    let missing = length
    while (missing > 0) {
      const buffer = this.#buffers[this.#index]
      if (buffer === undefined) throw new RangeError(`${missing} bytes more were asked for than the buffers hold`)
      const count = Math.min(missing, buffer.length - this.#within)
      if (count > 0) parts.push(count === buffer.length ? buffer : new Uint8Array(buffer.buffer, buffer.byteOffset + this.#within, count))
      missing -= count
      this.#within += count
      if (this.#within === buffer.length) {
        this.#index++
        this.#within = 0
      }
    }
  }
}

/** Fills a list of buffers from consecutive pieces, whose borders differ from those of the buffers. */
export class BufferFiller {
  readonly #buffers: readonly Uint8Array[]
  #index = 0
  #within = 0

  constructor(buffers: readonly Uint8Array[]) {
    this.#buffers = buffers
  }

  /** Copies all of `piece` to where the last one ended. @throws RangeError when it does not fit */
  fill(piece: Uint8Array): void {
    for (let done = 0; done < piece.length; ) {
      const buffer = this.#buffers[this.#index]
      if (buffer === undefined) throw new RangeError(`${piece.length - done} bytes do not fit into the buffers`)
      const count = Math.min(piece.length - done, buffer.length - this.#within)
      buffer.set(count === piece.length ? piece : piece.subarray(done, done + count), this.#within)
      done += count
      this.#within += count
      if (this.#within < buffer.length) return
      this.#index++
      this.#within = 0
    }
  }
}

/** Fills all of `buffers` with zeroes. */
export function fillZero(buffers: readonly Uint8Array[]): void {
  for (const buffer of buffers) buffer.fill(0)
}

/** Fills `buffers`, as one run, with zeroes from byte `start` on. */
export function fillZeroFrom(buffers: readonly Uint8Array[], start: number): void {
  let position = 0
  for (const buffer of buffers) {
    if (position + buffer.length > start) buffer.fill(0, Math.max(0, start - position))
    position += buffer.length
  }
}

/** The first `length` bytes of `buffers`, where that border is inside the last one. */
export function cut(buffers: readonly Uint8Array[], length: number): Uint8Array[] {
  let left = length
  return buffers.map((buffer) => {
    const part = left < buffer.length ? buffer.subarray(0, left) : buffer
    left -= buffer.length
    return part
  })
}

type Compare = (a: Uint8Array, b: Uint8Array) => number

/** Node's memcmp(3), where there is one: ten times as fast as a loop (0.02 and 0.2 ns a byte, measured). */
const compare = (Reflect.get(globalThis, "Buffer") as { readonly compare?: Compare } | undefined)?.compare

/** Whether `a` and `b`, which are of one length, hold the same bytes. */
export function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  if (compare !== undefined) return compare(a, b) === 0
  for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false
  return true
}

/** Whether all bytes of `buffer` are zero. Data mostly ends the search at once. */
export function isZero(buffer: Uint8Array): boolean {
  if (buffer.length === 0) return true
  // Each byte equals the next one, and the first one is zero.
  return buffer[0] === 0 && isEqual(buffer.subarray(1), buffer.subarray(0, -1))
}

/** Copies `source` from byte `from` on into `buffers` until they are full. */
export function scatter(source: Uint8Array, from: number, buffers: readonly Uint8Array[]): void {
  let position = from
  for (const buffer of buffers) {
    buffer.set(source.subarray(position, position + buffer.length))
    position += buffer.length
  }
}

/** The bytes of `parts`, one after the other, in a new array. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(totalLength(parts))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/**
 * Reads or writes `buffers`, one after the other, from `offset` on, by whichever methods the synchronous `disk` has.
 * @throws BackingError
 */
export function transfer(
  disk: VirtioBacking & { readonly path?: string }, method: "pread" | "pwrite", buffers: readonly Uint8Array[], offset: number,
): void {
  const [only] = buffers
  if (buffers.length === 1 && only !== undefined) return void disk[method](only, offset)
  const vectored = method === "pread" ? disk.preadv : disk.pwritev
  if (vectored !== undefined) return void vectored.call(disk, buffers, offset)
  checkRange(disk.size, offset, totalLength(buffers), disk.path)
  for (const buffer of buffers) {
    disk[method](buffer, offset)
    offset += buffer.length
  }
}
