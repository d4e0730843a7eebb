/** Finds the region of guest RAM that holds a whole structure, and cuts a buffer into segments where it crosses regions. */
import type { GuestMemory, RamRegion } from "../guest-memory.ts"
import type { SegmentList } from "./descriptor-chain.ts"
import { hex, VirtqueueError } from "./virtqueue-error.ts"

/** The region that holds all of these bytes. @throws VirtqueueError naming `name` when there is none */
export function pieceOfRam(memory: GuestMemory, name: string, address: number, length: number): RamRegion {
  const region = memory.region(address)
  if (region !== undefined && length <= region.end - address) return region
  throw new VirtqueueError(`${name} at ${hex(address)}: its ${length} bytes are not in one piece of RAM`)
}

/**
 * Adds the `length` bytes at `address` to `segments`: one segment for each region that they cross, none if `length` is 0. Returns the
 * region of the last byte. @throws VirtqueueError naming `chain` when a byte is not RAM
 */
export function pushPieces(
  memory: GuestMemory, segments: SegmentList, address: number, length: number, chain: string | number,
): RamRegion | undefined {
  let region: RamRegion | undefined
  while (length > 0) {
    region = memory.region(address)
    if (region === undefined) throw new VirtqueueError(`${hex(address)} is not RAM, chain ${chain}`)
    const part = Math.min(length, region.end - address)
    segments.push(segments.indexOf(region), region.offset(address), part)
    address += part
    length -= part
  }
  return region
}
