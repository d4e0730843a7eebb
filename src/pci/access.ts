/**
 * Register accesses: their widths and values. Values are unsigned little-endian numbers; a signed or too wide argument is cut to the width.
 */

/** Bytes moved by one port, memory or configuration access. */
export type AccessWidth = 1 | 2 | 4

/** The value of a read of `width` bytes that nothing answers: every bit set ([PCI] 6.1). */
export function allOnes(width: AccessWidth): number {
  return width === 1 ? 0xff : width === 2 ? 0xffff : 0xffff_ffff
}

/** The low `width` bytes of `value`, unsigned. */
export function truncate(value: number, width: AccessWidth): number {
  return width === 1 ? value & 0xff : width === 2 ? value & 0xffff : value >>> 0
}
