/** LateReads: reads a source on another thread while the target is written. */
import type { VirtioBacking } from "../../backing.ts"
import { qcow2Of } from "../layer-steps.ts"

/** A source that another thread reads. It must stay open and unchanged until the reads have ended. */
export interface LateReads {
  /** How many of `length` bytes from `offset` on one `read` can read: 0 if they need a normal read. */
  runAt(offset: number, length: number): number
  read(buffer: Uint8Array, offset: number): Promise<void>
}

/** A synchronous disk that may be able to read on another thread as well. */
interface MaybeLate extends VirtioBacking {
  readonly readsLater?: boolean
  preadLater?(buffer: Uint8Array, offset: number): Promise<void>
}

/** Undefined for a disk that is not read-only, because its clusters may change during a read. */
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
