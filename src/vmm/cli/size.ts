/** Sizes on the command line, in QEMU's notation. */

const UNITS = "BKMGTPE"

/** qemu-img's maximum. */
const MOST = 2n ** 63n - 1n

/**
 * Parses "1.5G", "512k", "1b", "0x1000" or "1048576" into bytes, like qemu-img: suffixes are powers of 1024, and a fraction of a byte is
 * cut off. Undefined for anything else, and beyond 2^63 - 1. Beyond 2^53 the result is the nearest number of JavaScript.
 */
export function parseSize(text: string): number | undefined {
  const hex = /^\s*\+?0x([\da-f]+?)([kmgtp]?)$/i.exec(text)
  if (hex !== null) return bounded(BigInt(`0x${hex[1] ?? "0"}`) * unitOf(hex[2]))
  const decimal = /^\s*\+?(\d+)(?:\.(\d*))?([bkmgtpe]?)$/i.exec(text)
  if (decimal === null) return undefined
  const unit = unitOf(decimal[3])
  const fraction = Number(`0.${decimal[2] ?? ""}0`)
  if (unit === 1n && fraction !== 0) return undefined
  return bounded(BigInt(decimal[1] ?? "0") * unit + BigInt(Math.floor(fraction * Number(unit))))
}

function unitOf(suffix: string | undefined): bigint {
  return 1024n ** BigInt(Math.max(UNITS.indexOf((suffix ?? "").toUpperCase() || "B"), 0))
}

function bounded(size: bigint): number | undefined {
  return size > MOST ? undefined : Number(size)
}
