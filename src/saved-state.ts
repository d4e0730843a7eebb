/** Checks of saved state: it may come from anywhere. Each throws an Error of one line that names `what` is wrong. */

/**
 * The version of what all transports save: it changes with the meaning of what is there. Version 1 did not say which disk was
 * behind the device, and is restored all the same.
 */
export const STATE_VERSION = 2

/** @throws Error for a state of a version that this program does not know */
export function checkStateVersion(version: unknown): void {
  if (version === 1 || version === STATE_VERSION) return
  throw new Error(`saved state: version ${JSON.stringify(version)}, this program knows 1 to ${STATE_VERSION}`)
}

/** `value` as an object whose properties can be looked at. */
export function savedObject(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`saved state: ${what}: not an object`)
  return { ...value }
}

/** `value` as a list, of `length` items unless that is left out. */
export function savedList(value: unknown, what: string, length?: number): readonly unknown[] {
  if (Array.isArray(value) && (length === undefined || value.length === length)) return value
  throw new Error(`saved state: ${what}: not a list${length === undefined ? "" : ` of ${length}`}`)
}

/** `value` as an integer from 0 to `max`. */
export function savedNumber(value: unknown, what: string, max: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value <= max) return value
  throw new Error(`saved state: ${what}: ${JSON.stringify(value)} is not a number from 0 to ${max}`)
}

/** `value` as a list of integers from 0 to `max`, by default 32-bit ones. */
export function savedNumbers(value: unknown, what: string, options: { readonly length?: number; readonly max?: number } = {}): number[] {
  const { length, max = 0xffff_ffff } = options
  return savedList(value, what, length).map((item) => savedNumber(item, what, max))
}
