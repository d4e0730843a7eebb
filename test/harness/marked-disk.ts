/** markedDisk: a disk in memory whose content differs from an empty disk and from unwritten RAM. */
import { MemoryBacking } from "../../src/backing/memory.ts"

const SECTOR = 512

/** A disk of `size` zeroes, except for sector 3, which is full of 0x5a. */
export function markedDisk(size = 1 << 20): MemoryBacking {
  const backing = new MemoryBacking({ size })
  backing.pwrite(new Uint8Array(SECTOR).fill(0x5a), 3 * SECTOR)
  return backing
}
