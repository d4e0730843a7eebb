/** Vectored transfers of any number of buffers and bytes, in calls that the host and node:fs can take. */
import { totalLength } from "../backing.ts"

/** preadv(2) and pwritev(2) take at most IOV_MAX buffers. */
const IOV_MAX = 1024
/**
 * Maximum of bytes of one call. node:fs refuses buffers of 2^31 bytes and more, and returns the sum of a vectored call in 32 bits: it takes
 * a successful writev of 2 GiB for a failure.
 */
export const MAX_TRANSFER = 2 ** 30

/** A vectored call of the host on `buffers`, at the byte `position` of the file. Returns the bytes moved. */
type VectoredCall = (buffers: readonly Uint8Array[], position: number) => number

/**
 * Moves all of `buffers` by `call`, going on after short counts. Returns the bytes moved: fewer than all only where `call` returns 0, at
 * the end of the file.
 */
export function transferAll(buffers: readonly Uint8Array[], call: VectoredCall, offset: number): number {
  const total = totalLength(buffers)
  if (total === 0) return 0
  const fits = buffers.length <= IOV_MAX && total <= MAX_TRANSFER
  let done = fits ? call(buffers, offset) : 0
  if (done === total || (fits && done === 0)) return done
  let index = 0 // the buffer with byte `done`
  let start = 0 // the offset of its first byte in `buffers`
  while (done < total) {
    for (let end = start + lengthOf(buffers[index]); end <= done; end = start + lengthOf(buffers[index])) {
      start = end
      index++
    }
    const count = call(portion(buffers, index, done - start), offset + done)
    if (count === 0) return done
    done += count
  }
  return done
}

/** What one call can take of `buffers`, from byte `within` of the buffer `index` on. */
function portion(buffers: readonly Uint8Array[], index: number, within: number): Uint8Array[] {
  const part: Uint8Array[] = []
  for (let room = MAX_TRANSFER; room > 0 && part.length < IOV_MAX; index++) {
    const buffer = buffers[index]
    if (buffer === undefined) break
    const piece = buffer.subarray(within, Math.min(buffer.length, within + room))
    part.push(piece)
    room -= piece.length
    within = 0
  }
  return part
}

function lengthOf(buffer: Uint8Array | undefined): number {
  return buffer?.length ?? Number.POSITIVE_INFINITY
}
