/** Does an operation on a disk, with no model at hand. */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { type Operation, split, writeCompressed } from "./random-operations.ts"

/** Reopenings are left out. Reads go to a buffer of their own. */
export function perform(disk: VirtioBacking, operation: Operation): void {
  switch (operation.kind) {
    case "write":
      // One cluster: the call can be repeated at any point, and the file ends the same.
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
