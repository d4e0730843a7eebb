/** The disk of a guest of the regions fuzzer: it tells of each call, before and behind its work, and may fail in its middle. */
import { totalLength, type VirtioBacking } from "../../../src/backing/backing.ts"
import type { Style } from "./life.ts"

/** Whose disk it is. */
export interface DiskOwner {
  readonly content: Uint8Array
  readonly style: Style
  /** That the disk says it has. */
  readonly sectors: number
  /** A call begins. Returns what it is to fail with. */
  entered(call: string): unknown
  /** It has done its work, or a part of it. */
  worked(): void
  /** It is about to return. */
  left(): void
}

type Transfer = (buffers: readonly Uint8Array[], offset: number) => void

export function regionsDisk(owner: DiskOwner): VirtioBacking {
  const { content, style } = owner
  const isLate = style === "late" || style === "now"
  /** One that fails has done all but its last buffer. */
  const call = (name: string, { buffers, offset }: Parts, work: (buffer: Uint8Array, at: number) => void): void => {
    const error = owner.entered(`${name} ${offset} ${totalLength(buffers)}`)
    let at = offset
    for (const buffer of error === undefined ? buffers : buffers.slice(0, -1)) {
      work(buffer, at)
      at += buffer.length
    }
    owner.worked()
    if (error !== undefined) throw error
    owner.left()
  }
  const read: Transfer = (buffers, offset) =>
    call("read", { buffers, offset }, (buffer, at) => buffer.set(content.subarray(at, at + buffer.length)))
  const write: Transfer = (buffers, offset) => call("write", { buffers, offset }, (buffer, at) => content.set(buffer, at))
  const other = (name: string, offset: number, work: () => void): void => call(name, { buffers: [new Uint8Array(0)], offset }, work)
  const answer = (work: () => void): void | Promise<void> => {
    work()
    return isLate ? Promise.resolve() : undefined
  }
  return {
    get size() {
      return 512 * owner.sectors
    },
    readOnly: false, close() {}, ...(isLate && { asynchronous: true }), ...(style === "slow" && { slow: true }),
    pread: (buffer, offset) => answer(() => read([buffer], offset)),
    pwrite: (buffer, offset) => answer(() => write([buffer], offset)),
    flush: () => answer(() => other("flush", 0, () => undefined)),
    writeZeroes: (offset, length) => answer(() => other(`zero ${length}`, offset, () => void content.fill(0, offset, offset + length))),
    discard: (offset, length) => answer(() => other(`discard ${length}`, offset, () => undefined)),
    ...(style === "now" && { preadNow: atOnce(read), pwriteNow: atOnce(write) }),
    ...((style === "vectored" || style === "direct") && { preadv: read, pwritev: write }),
    ...((style === "direct" || style === "slow") && { preadInto: inPlace(read), pwriteFrom: inPlace(write) }),
  }
}

interface Parts {
  readonly buffers: readonly Uint8Array[]
  readonly offset: number
}

/** Half of the sectors answer at once. */
function atOnce(transfer: Transfer): (buffers: readonly Uint8Array[], offset: number) => boolean {
  return (buffers, offset) => {
    if ((offset >>> 9) % 2 !== 0) return false
    transfer(buffers, offset)
    return true
  }
}

function inPlace(transfer: Transfer): (ram: Uint8Array, start: number, length: number, offset: number) => void {
  return (ram, start, length, offset) => transfer([ram.subarray(start, start + length)], offset)
}
