/**
 * Register accesses: their widths, and what the bus does to the values that travel with them.
 * Values are unsigned little-endian numbers; what a caller passes may be signed or too wide and is cut to the width.
 */

/** Bytes moved by one port, memory or configuration access. */
export type AccessWidth = 1 | 2 | 4

/** What a read of `width` bytes returns where nothing answers: every bit set ([PCI] 6.1). */
export function allOnes(width: AccessWidth): number {
  return width === 1 ? 0xff : width === 2 ? 0xffff : 0xffff_ffff
}

/** The low `width` bytes of `value`, unsigned. */
export function truncate(value: number, width: AccessWidth): number {
  return width === 1 ? value & 0xff : width === 2 ? value & 0xffff : value >>> 0
}
