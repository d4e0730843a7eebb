/** Executes sequences: copies literals, and matches in the earlier output. RFC 8878, 3.1.1.4 */
import { DecompressionError } from "../decompression-error.ts"
import { copyMatch } from "../copy-match.ts"
import type { Literals } from "./literals.ts"
import type { Sequences } from "./sequences.ts"

/** The output, and the position in it. */
export interface Output {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** The start of the frame, before which matches cannot reach. */
  frameStart: number
  /** Bytes decompressed so far. */
  length: number
}

/** From this length on, calling a built-in function is faster (measured). */
const LONG = 96
/** Literals to copy at once, for the same reason as in `copyMatch`. */
const AT_ONCE = 8

/**
 * Executes the first `count` of `sequences`. `limit` is the greatest possible end of the block.
 * @throws DecompressionError
 */
export function copySequences(output: Output, literals: Literals, sequences: Sequences, count: number, limit: number): void {
  const { bytes, view, frameStart } = output
  const { literalLengths, matchLengths, offsets } = sequences
  const literalsEnd = literals.start + literals.count
  let literalsAt = literals.start
  let at = output.length
  for (let index = 0; index < count; index++) {
    const literalLength = literalLengths[index] ?? 0
    const matchLength = matchLengths[index] ?? 0
    const offset = offsets[index] ?? 0
    const matchAt = at + literalLength
    if (matchAt + matchLength > limit) throw new DecompressionError("a zstd block is longer than it may be")
    if (literalsAt + literalLength > literalsEnd) throw new DecompressionError("a zstd block has too few literals")
    if (offset < 1 || offset > matchAt - frameStart) throw new DecompressionError("a zstd block has an offset beyond its data")
    copyLiterals(output, at, literals, literalsAt, literalLength)
    copyMatch(bytes, view, matchAt, offset, matchLength)
    literalsAt += literalLength
    at = matchAt + matchLength
  }
  literals.start = literalsAt
  literals.count = literalsEnd - literalsAt
  output.length = at
}

/** Copies the `length` literals at `from` to byte `at` of the output; bytes after them, up to 8 bytes from `at`, become garbage. */
function copyLiterals(output: Output, at: number, literals: Literals, from: number, length: number): void {
  const { bytes, view } = output
  const { bytes: source, view: sourceView } = literals
  if (length > LONG || at + length + AT_ONCE > bytes.length || from + length + AT_ONCE > source.length) {
    copyAny(bytes, at, source, from, length)
    return
  }
  view.setInt32(at, sourceView.getInt32(from, true), true)
  view.setInt32(at + 4, sourceView.getInt32(from + 4, true), true)
  for (let done = AT_ONCE; done < length; done += 4) view.setInt32(at + done, sourceView.getInt32(from + done, true), true)
}

function copyAny(to: Uint8Array, at: number, from: Uint8Array, start: number, length: number): void {
  if (length > LONG) to.set(from.subarray(start, start + length), at)
  else for (let index = 0; index < length; index++) to[at + index] = from[start + index] ?? 0
}

/** Copies the literals that no sequence took. @throws DecompressionError when the block has no room for them */
export function copyRest(output: Output, literals: Literals, limit: number): void {
  const { start, count } = literals
  if (count > limit - output.length) throw new DecompressionError("a zstd block is longer than it may be")
  copyAny(output.bytes, output.length, literals.bytes, start, count)
  output.length += count
}
