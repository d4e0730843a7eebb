/** Makes a range of any disk read as zeroes, in calls of a few milliseconds each. */
import type { VirtioBacking } from "../../backing.ts"

const DEFAULT_AT_ONCE = 1 << 24
const WRITTEN_AT_ONCE = 1 << 20

/** Frees the space of the range if the disk can. @throws errors of the disk */
export async function zeroRange(disk: VirtioBacking, offset: number, length: number): Promise<void> {
  for (let done = 0; done < length; ) {
    if (disk.writeZeroes === undefined) {
      const piece = Math.min(WRITTEN_AT_ONCE, length - done)
      await disk.pwrite(new Uint8Array(piece), offset + done)
      done += piece
    } else {
      const atOnce = Math.max(disk.unmapsAtOnce ?? disk.zeroesAtOnce ?? DEFAULT_AT_ONCE, 512)
      const piece = Math.min(atOnce, length - done)
      await disk.writeZeroes(offset + done, piece, true)
      done += piece
    }
  }
}
