/** Saved registers of a PCI function: what software has programmed, as JSON values, checked when it comes back. */

/** Registers of a function and its MSI-X state. */
export interface PciFunctionState {
  /** Configuration space, 64 dwords. */
  readonly config: readonly number[]
  /** The MSI-X table in dwords and the vectors whose message waits; undefined without the capability. */
  readonly msix?: { readonly table: readonly number[]; readonly pending: readonly number[] } | undefined
}

/** `value` as an array of `length` numbers (any length when left out), each a whole number from 0 to `max`. Throws an Error that names `what`. */
export function savedNumbers(value: unknown, what: string, options: { readonly length?: number; readonly max?: number } = {}): number[] {
  const { length, max = 0xffff_ffff } = options
  if (!Array.isArray(value) || (length !== undefined && value.length !== length)) throw new Error(`saved state: ${what}: no list${length === undefined ? "" : ` of ${length} numbers`}`)
  return value.map((item: unknown) => savedNumber(item, what, max))
}

/** `value` as a whole number from 0 to `max`. Throws an Error that names `what`. */
export function savedNumber(value: unknown, what: string, max: number): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > max) throw new Error(`saved state: ${what}: ${JSON.stringify(value)} is no number from 0 to ${max}`)
  return value
}

/** `value` as an object whose properties can be looked at. Throws an Error that names `what`. */
export function savedObject(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`saved state: ${what}: no object`)
  return { ...value }
}
