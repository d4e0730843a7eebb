/** The check that the parts of a ring lie where a driver may put them. */
import type { GuestRam } from "../../guest-ram.ts"

/** One part of a ring. Bytes. */
export interface RingPart {
  readonly name: string
  readonly start: number
  readonly length: number
  readonly alignment: number
}

/** @throws RangeError when a part is misaligned or not in RAM, or parts overlap ([VIRTIO] 2.7, 2.7.1, 2.8.10.1) */
export function checkParts(ram: GuestRam, parts: readonly RingPart[]): void {
  for (const { name, start, length, alignment } of parts) {
    const isAligned = Number.isSafeInteger(start) && start >= 0 && start % alignment === 0
    if (!isAligned) throw new RangeError(`the ${name} must start at a multiple of ${alignment}, not at ${start}`)
    if (length > ram.bytes.length - start) throw new RangeError(`the ${name} at ${start} (${length} bytes) is not in guest RAM`)
    const other = parts.find((part) => part.name !== name && part.start < start + length && start < part.start + part.length)
    if (other !== undefined) throw new RangeError(`the ${name} at ${start} overlaps the ${other.name} at ${other.start}`)
  }
}
