/** Reads on another thread: libuv has four for calls of node:fs that have a callback. */
import { read } from "node:fs"
import { MAX_TRANSFER } from "./transfer.ts"

/** Fills `buffer` from byte `offset` of `fd`, which stays open until then. Resolves to the bytes read: fewer only where the file ends. */
export function readLater(fd: number, buffer: Uint8Array, offset: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const goOn = (done: number): void => {
      read(fd, buffer, done, Math.min(buffer.length - done, MAX_TRANSFER), offset + done, (error, count) => {
        if (error !== null) reject(error)
        else if (count === 0 || done + count === buffer.length) resolve(done + count)
        else goOn(done + count)
      })
    }
    goOn(0)
  })
}
