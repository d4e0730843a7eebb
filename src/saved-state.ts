/** Checks of saved state, which may come from anywhere. Each throws an Error of one line that names the wrong part (`what`). */

/**
 * The version of the state of all transports. It changes when the meaning of a field changes. Version 1, which lacks the identity of the
 * disk, can still be restored.
 */
export const STATE_VERSION = 2

/** Characters of a text that a message shows. */
const MOST_SHOWN = 40

/** @throws Error for a state of a version that this program does not know */
export function checkStateVersion(version: unknown): void {
  if (version === 1 || version === STATE_VERSION) return
  throw new Error(`saved state: version ${shown(version)}, this program knows 1 to ${STATE_VERSION}`)
}

/** `value` as an object with properties. */
export function savedObject(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`saved state: ${what}: not an object`)
  return { ...value }
}

/**
 * `value` as a list with each item parsed; of `length` items, if that is given. Stops at the first item that `parse` refuses: a list with
 * holes may claim 2^32 items.
 */
export function savedList<T>(value: unknown, what: string, parse: (item: unknown) => T, length?: number): T[] {
  if (!Array.isArray(value) || (length !== undefined && value.length !== length)) {
    throw new Error(`saved state: ${what}: not a list${length === undefined ? "" : ` of ${length}`}`)
  }
  const items: T[] = []
  for (let index = 0; index < value.length; index++) items.push(parse(value[index]))
  return items
}

/** `value` as an integer from 0 to `max`. */
export function savedNumber(value: unknown, what: string, max: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value <= max) return value
  throw new Error(`saved state: ${what}: ${shown(value)} is not a number from 0 to ${max}`)
}

/** `value` as a list of integers from 0 to `max`, by default 32-bit ones. */
export function savedNumbers(value: unknown, what: string, options: { readonly length?: number; readonly max?: number } = {}): number[] {
  const { length, max = 0xffff_ffff } = options
  return savedList(value, what, (item) => savedNumber(item, what, max), length)
}

/** `value` for a message: one line, at most `most` characters of a text, and none of its methods is called. */
export function shown(value: unknown, most = MOST_SHOWN): string {
  if (typeof value === "string") return JSON.stringify(value.length > most ? `${value.slice(0, most)}...` : value)
  if (typeof value === "function") return "a function"
  if (typeof value !== "object" || value === null) return String(value)
  return Array.isArray(value) ? "a list" : "an object"
}
