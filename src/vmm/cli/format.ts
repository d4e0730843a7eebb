/** Numbers as people read them. */

/** "64 MiB", "1.5 GiB", "512 bytes". */
export function formatBytes(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
  let unit = 0
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024
    unit++
  }
  return `${Number.isInteger(bytes) ? bytes : bytes.toFixed(bytes < 10 ? 2 : 1)} ${units[unit] ?? ""}`
}

/** "64 MiB in 0.051 s, 1.2 GiB/s". */
export function formatThroughput(bytes: number, seconds: number): string {
  return `${formatBytes(bytes)} in ${seconds.toFixed(3)} s, ${formatBytes(Math.round(bytes / Math.max(seconds, 1e-6)))}/s`
}

/** "0xd0000000" without the prefix, as lspci prints addresses. */
export function formatHex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, "0")
}

/** The bytes that "10G", "512K" or "1048576" mean; undefined for anything else, and beyond 2^53. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+)([KMGT]?)$/i.exec(text)
  if (match === null) return undefined
  const size = Number(match[1]) * 1024 ** " KMGT".indexOf((match[2] ?? "").toUpperCase() || " ")
  return Number.isSafeInteger(size) ? size : undefined
}
