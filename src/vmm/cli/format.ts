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

/** "64 MiB", "1.5 GiB", "0 B": three digits, as qemu-img shows sizes. */
export function formatShortSize(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
  let [value, unit] = [bytes, 0]
  for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1024
  return `${Number(value.toPrecision(3))} ${units[unit] ?? ""}`
}

/** "64 MiB in 0.051 s, 1.2 GiB/s". */
export function formatThroughput(bytes: number, seconds: number): string {
  return `${formatBytes(bytes)} in ${seconds.toFixed(3)} s, ${formatBytes(Math.round(bytes / Math.max(seconds, 1e-6)))}/s`
}

/** "0xd0000000" without the prefix, as lspci prints addresses. */
export function formatHex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, "0")
}

/** "0:07", "12:34", "1:02:03". */
export function formatDuration(seconds: number): string {
  const whole = Math.max(Math.round(seconds), 0)
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60]
  const rest = String(whole % 60).padStart(2, "0")
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`
}
