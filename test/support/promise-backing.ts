/** A backing whose every method returns a promise that settles later: what a network or a browser disk looks like. */
import type { VirtioBacking } from "../../src/backing/backing.ts"

/** Wraps `inner`; its errors become rejections. Methods that `inner` lacks are lacking here too. */
export function promiseBacking(inner: VirtioBacking): VirtioBacking {
  const later = async <T>(work: () => T | Promise<T>): Promise<T> => {
    await new Promise((resolve) => setImmediate(resolve))
    return await work()
  }
  return {
    get size() {
      return inner.size
    },
    get readOnly() {
      return inner.readOnly
    },
    ...(inner.discardGranularity === undefined ? {} : { discardGranularity: inner.discardGranularity }),
    pread: (buffer, offset) => later(() => inner.pread(buffer, offset)),
    pwrite: (buffer, offset) => later(() => inner.pwrite(buffer, offset)),
    ...(inner.preadv === undefined ? {} : { preadv: (buffers: readonly Uint8Array[], offset: number) => later(() => inner.preadv?.(buffers, offset)) }),
    ...(inner.pwritev === undefined ? {} : { pwritev: (buffers: readonly Uint8Array[], offset: number) => later(() => inner.pwritev?.(buffers, offset)) }),
    ...(inner.flush === undefined ? {} : { flush: () => later(() => inner.flush?.()) }),
    ...(inner.discard === undefined ? {} : { discard: (offset: number, length: number) => later(() => inner.discard?.(offset, length)) }),
    ...(inner.writeZeroes === undefined ? {} : { writeZeroes: (offset: number, length: number, mayUnmap: boolean) => later(() => inner.writeZeroes?.(offset, length, mayUnmap)) }),
    close: () => later(() => inner.close()),
  }
}
