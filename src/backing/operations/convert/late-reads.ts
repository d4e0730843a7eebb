/** Reads of a source on another thread, so that they go on while the target is written. */
import type { VirtioBacking } from "../../backing.ts"
import { qcow2Of } from "../layer-steps.ts"

/** Fills `buffer` from a byte of the disk, which stays open and as it is until then. Undefined: it has to be read in the usual way. */
export type LateRead = (buffer: Uint8Array, offset: number) => Promise<void> | undefined

/** A disk that answers at once, and may be able to read on another thread as well. */
type MaybeLate = VirtioBacking & { readonly preadLater?: LateRead }

/**
 * Bytes: shorter reads are done at once. On another thread each costs the event loop some 20 us more (measured), as much as 64 KiB take to
 * be copied.
 */
const SHORTEST = 1 << 17

/** Undefined for a disk that is not read-only: what its clusters hold may change while they are read. */
export function lateReadsOf(source: MaybeLate): LateRead | undefined {
  if (!source.readOnly || source.asynchronous === true) return undefined
  const image = qcow2Of(source)
  const read = image === undefined ? source.preadLater?.bind(source) : (buffer: Uint8Array, offset: number) =>
    image.inspect(({ reader }) => reader.readLater(buffer, offset))
  return read && ((buffer, offset) => (buffer.length < SHORTEST ? undefined : read(buffer, offset)))
}
