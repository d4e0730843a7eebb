/** Does an operation on a disk, without a model. */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { type Operation, split, writeCompressed } from "./random-operations.ts"

/** Skips `reopen`. Reads use a new buffer. */
export function perform(disk: VirtioBacking, operation: Operation): void {
  switch (operation.kind) {
    case "write":
      // Only one cluster, so that the call can be repeated at any point with the same result.
      if (operation.compressed === true) writeCompressed(disk, operation, 1)
      else disk.pwrite(operation.data, operation.offset)
      return
    case "read": {
      const buffer = new Uint8Array(operation.length)
      if (operation.parts > 1 && disk.preadv !== undefined) disk.preadv(split(buffer, operation.parts), operation.offset)
      else disk.pread(buffer, operation.offset)
      return
    }
    case "writeZeroes":
      disk.writeZeroes?.(operation.offset, operation.length, operation.mayUnmap)
      return
    case "discard":
      disk.discard?.(operation.offset, operation.length)
      return
    case "flush":
      disk.flush?.()
      return
    case "reopen":
      return
  }
}
