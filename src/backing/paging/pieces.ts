/** Cuts a long range of a disk into pieces, because all pages that one call needs have to be in memory at the same time. */

/** A call over `length` bytes from `offset`, in steps of at most `most` bytes. */
export interface LongRange {
  readonly offset: number
  readonly length: number
  readonly most: number
}

/** The pieces, in order. They end at multiples of `unit` bytes if possible, so that no cluster is cut in two. */
export function* pieces({ offset, length, most }: LongRange, unit: number): Generator<{ readonly at: number; readonly count: number }> {
  const step = Math.max(most - (most % unit), unit)
  const end = offset + length
  let count = 0
  for (let at = offset; at < end; at += count) {
    count = Math.min(end - at, step - (at % step))
    yield { at, count }
  }
}

/** `buffer[start .. start + count)`. */
export function part(buffer: Uint8Array, start: number, count: number): Uint8Array {
  return count === buffer.length ? buffer : buffer.subarray(start, start + count)
}
