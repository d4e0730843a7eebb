/** Saved registers of a PCI function, as JSON values, which are checked when they are restored. */
import { type ConfigSpace, PCI_CONFIG, PCI_STATUS } from "./config-space.ts"

/** Registers of a function and its MSI-X state. */
export interface PciFunctionState {
  /** Configuration space, 64 dwords. */
  readonly config: readonly number[]
  /** The MSI-X table in dwords, and the vectors with a pending message; undefined without the capability. */
  readonly msix?: { readonly table: readonly number[]; readonly pending: readonly number[] } | undefined
}

/** Read-only bits that do not identify the kind of the function, by the offset of their dword. */
const VARYING_BITS: ReadonlyMap<number, number> = new Map([
  [PCI_CONFIG.COMMAND, PCI_STATUS.INTERRUPT << 16],
  // Whether the device has other functions.
  [PCI_CONFIG.HEADER_TYPE & ~3, 0x80 << (8 * (PCI_CONFIG.HEADER_TYPE & 3))],
])

/**
 * Compares the read-only bits, which identify the kind of a function: its ids, the kinds and sizes of its BARs, its capabilities.
 * @param registers saved dwords of configuration space
 * @throws Error when they belong to another kind of function than `config`
 */
export function checkSameFunction(registers: readonly number[], config: ConfigSpace): void {
  for (const [dword, saved] of registers.entries()) {
    const offset = 4 * dword
    const ours = config.read(offset, 4)
    if (((saved ^ ours) & config.fixedBits(offset, 4) & ~(VARYING_BITS.get(offset) ?? 0)) === 0) continue
    const [at, was, is] = [offset, saved, ours].map((value) => `0x${value.toString(16)}`)
    throw new Error(`saved state: it is of another PCI function: register ${at} was ${was}, is ${is}; make it with the options that it had`)
  }
}
