/**
 * MsixTable: a function's MSI-X capability and the table it points to. [PCI] 6.8.2.
 */
import { MSIX } from "./spec.ts"
import type { InterruptMessage } from "../platform.ts"
import type { Registers } from "./registers.ts"

/** What the table needs of its function. */
export interface MsixFunction {
  read16(offset: number): number
  read32(offset: number): number
  write16(offset: number, value: number): void
  registers(bar: number, offset?: number): Registers
}

interface BitChange {
  readonly set?: number
  readonly clear?: number
}

/** The MSI-X capability of one function. It keeps no state: every question goes to the device. */
export class MsixTable {
  /** Number of vectors, 1 to 2048. */
  readonly size: number
  readonly #device: MsixFunction
  readonly #offset: number

  /** `offset`: where the capability is in configuration space. */
  constructor(device: MsixFunction, offset: number) {
    this.#device = device
    this.#offset = offset
    this.size = (this.#control & MSIX.CONTROL_TABLE_SIZE) + 1
  }

  /** MSI-X Enable. While it is set the function does not use its interrupt line. */
  get enabled(): boolean {
    return (this.#control & MSIX.CONTROL_ENABLE) !== 0
  }

  set enabled(value: boolean) {
    this.#changeControl(value ? { set: MSIX.CONTROL_ENABLE } : { clear: MSIX.CONTROL_ENABLE })
  }

  /** Function Mask: masks all vectors at once. */
  get functionMasked(): boolean {
    return (this.#control & MSIX.CONTROL_FUNCTION_MASK) !== 0
  }

  set functionMasked(value: boolean) {
    this.#changeControl(value ? { set: MSIX.CONTROL_FUNCTION_MASK } : { clear: MSIX.CONTROL_FUNCTION_MASK })
  }

  /** Sets what a vector sends, and unmasks it. */
  program(vector: number, message: InterruptMessage): void {
    const entry = this.#entry(vector)
    const table = this.#table(MSIX.TABLE)
    // An entry changes only while it is masked, [PCI] 6.8.3.5.
    this.mask(vector)
    table.write(entry + MSIX.ENTRY_ADDRESS, 4, message.address % 2 ** 32)
    table.write(entry + MSIX.ENTRY_ADDRESS_HIGH, 4, Math.floor(message.address / 2 ** 32))
    table.write(entry + MSIX.ENTRY_DATA, 4, message.data)
    this.unmask(vector)
  }

  /** What a vector sends. */
  message(vector: number): InterruptMessage {
    const entry = this.#entry(vector)
    const table = this.#table(MSIX.TABLE)
    const address = table.read(entry + MSIX.ENTRY_ADDRESS, 4) + table.read(entry + MSIX.ENTRY_ADDRESS_HIGH, 4) * 2 ** 32
    return { address, data: table.read(entry + MSIX.ENTRY_DATA, 4) }
  }

  isMasked(vector: number): boolean {
    return (this.#table(MSIX.TABLE).read(this.#entry(vector) + MSIX.ENTRY_CONTROL, 4) & MSIX.ENTRY_CONTROL_MASK) !== 0
  }

  /** Masks one vector. The other bits of its control word stay. */
  mask(vector: number): void {
    this.#changeEntry(vector, { set: MSIX.ENTRY_CONTROL_MASK })
  }

  /** Unmasks one vector: a message that is pending is sent. The other bits of its control word stay. */
  unmask(vector: number): void {
    this.#changeEntry(vector, { clear: MSIX.ENTRY_CONTROL_MASK })
  }

  /** Whether a vector waits to be unmasked: its bit in the pending bit array. */
  isPending(vector: number): boolean {
    this.#entry(vector)
    const word = this.#table(MSIX.PBA).read(Math.floor(vector / 32) * 4, 4)
    return (word & (1 << (vector % 32))) !== 0
  }

  get #control(): number {
    return this.#device.read16(this.#offset + MSIX.MESSAGE_CONTROL)
  }

  #changeControl({ set = 0, clear = 0 }: BitChange): void {
    this.#device.write16(this.#offset + MSIX.MESSAGE_CONTROL, (this.#control & ~clear) | set)
  }

  #changeEntry(vector: number, { set = 0, clear = 0 }: BitChange): void {
    const at = this.#entry(vector) + MSIX.ENTRY_CONTROL
    const table = this.#table(MSIX.TABLE)
    table.write(at, 4, ((table.read(at, 4) & ~clear) | set) >>> 0)
  }

  #table(register: number): Registers {
    const where = this.#device.read32(this.#offset + register)
    return this.#device.registers(where & MSIX.BIR, (where & ~MSIX.BIR) >>> 0)
  }

  #entry(vector: number): number {
    if (!Number.isInteger(vector) || vector < 0 || vector >= this.size) {
      throw new RangeError(`MSI-X vector ${vector} is not in a table of ${this.size}`)
    }
    return vector * MSIX.ENTRY_SIZE
  }
}
