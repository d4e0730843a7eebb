/** Reads of a source on another thread, so that they go on while the target is written. */
import type { VirtioBacking } from "../../backing.ts"
import { qcow2Of } from "../layer-steps.ts"

/** A source that is read on another thread: it stays open, and as it is, until that is done. */
export interface LateReads {
  /** How many of `length` bytes from `offset` on can be read by one `read`: 0 where it has to be done in the usual way. */
  runAt(offset: number, length: number): number
  read(buffer: Uint8Array, offset: number): Promise<void>
}

/** A disk that answers at once, and may be able to read on another thread as well. */
interface MaybeLate extends VirtioBacking {
  readonly readsLater?: boolean
  preadLater?(buffer: Uint8Array, offset: number): Promise<void>
}

/** Undefined for a disk that is not read-only: what its clusters hold may change while they are read. */
export function lateReadsOf(source: MaybeLate): LateReads | undefined {
  if (!source.readOnly || source.asynchronous === true) return undefined
  const image = qcow2Of(source)
  if (image !== undefined) {
    return {
      runAt: (offset, length) => image.inspect(({ reader }) => reader.lateRunAt(offset, length)),
      read: (buffer, offset) => image.inspect(({ reader }) => reader.readLater(buffer, offset)),
    }
  }
  const preadLater = source.readsLater === true ? source.preadLater?.bind(source) : undefined
  return preadLater && { runAt: (_, length) => length, read: preadLater }
}
