/** Saved registers of a PCI function: what software has programmed, as JSON values, checked when it comes back. */

/** Registers of a function and its MSI-X state. */
export interface PciFunctionState {
  /** Configuration space, 64 dwords. */
  readonly config: readonly number[]
  /** The MSI-X table in dwords and the vectors whose message waits; undefined without the capability. */
  readonly msix?: { readonly table: readonly number[]; readonly pending: readonly number[] } | undefined
}
