/**
 * PciFunction: a PCI function as software sees it: type 0 configuration space, BARs, capabilities, INTx and MSI-X. A device extends
 * it and implements the content of the BARs. Any bus can host one: it needs only the methods below and a `PciInterrupts`.
 */
import { checkMembers, checkOptions, type Rules } from "../options.ts"
import { type AccessWidth, allOnes, truncate } from "./access.ts"
import { type BarDefinition, BaseAddressRegisters } from "./base-address.ts"
import { CapabilityList } from "./capabilities.ts"
import { CONFIG_SPACE_SIZE, ConfigSpace, PCI_COMMAND, PCI_CONFIG, PCI_STATUS, type RegisterAccess } from "./config-space.ts"
import { defineHeader, type PciIdentity } from "./header.ts"
import { savedNumbers, savedObject } from "../saved-state.ts"
import { checkSameFunction, type PciFunctionState } from "./state.ts"
import { checkMsixPlace, Msix, MSIX_CAPABILITY_ID, MSIX_CONTROL, msixCapability, type MsixOptions } from "./msix.ts"

export type { AccessWidth } from "./access.ts"
export type { BarDefinition } from "./base-address.ts"

/** The sink of a function's interrupts. */
export interface PciInterrupts {
  /** A new level of the INTA# pin, with Command bit 10 and MSI-X Enable applied. The pin is low at first. */
  intx(level: boolean): void
  /** MSI-X: a store of 32 bits of `data` at a 64-bit address, a multiple of 4 (exact below 2^53). */
  message(address: number, data: number): void
}

/** Options of a `PciFunction`: the registers of its header ([PCI] 6.2), its BARs and its interrupts. */
export interface PciFunctionOptions extends PciIdentity {
  readonly bars: readonly BarDefinition[]
  /** Table and pending bits in memory BAR `bar`; offsets in bytes, multiples of 8. Left out: no MSI-X capability. */
  readonly msix?: MsixOptions
  readonly interrupts: PciInterrupts
}

/** Header Type: layout 0, and bit 7. */
const MULTI_FUNCTION = 0x80

const PCI_FUNCTION_RULES: Rules<PciFunctionOptions> = {
  vendorId: "number", deviceId: "number", revision: "number", classCode: "number", subsystemVendorId: "number", subsystemId: "number",
  bars: "array", msix: "object?", interruptPin: "number?", interrupts: "object",
}

/** A PCI function. A device extends it and implements the content of the BARs. */
export abstract class PciFunction {
  /** The MSI-X state, undefined without the capability. */
  readonly msix: Msix | undefined
  /** Set by the bus: called when the address or the decoding of a BAR has changed. */
  onMappingChange: (() => void) | undefined
  readonly #config = new ConfigSpace()
  readonly #capabilities = new CapabilityList(this.#config)
  readonly #registers: BaseAddressRegisters
  readonly #interrupts: PciInterrupts
  readonly #msixOptions: MsixOptions | undefined
  /** Offset of Message Control. */
  readonly #msixControl: number = 0
  /** The Command register that was last applied. It differs from the register only during `configWrite`. */
  #command = 0
  #isIntxAsserted = false
  #isPinHigh = false

  /**
   * @throws RangeError when the BARs, the MSI-X structures or a capability have no room
   * @throws TypeError for wrong options
   */
  constructor(options: PciFunctionOptions) {
    checkOptions("PciFunction", options, PCI_FUNCTION_RULES)
    checkMembers("PciFunction", "interrupts", options.interrupts, { intx: "function", message: "function" }, "PciInterrupts")
    this.#interrupts = options.interrupts
    this.#registers = new BaseAddressRegisters(this.#config, options.bars)
    defineHeader(this.#config, options)
    const msix = options.msix
    if (msix === undefined) return
    this.msix = new Msix(msix.vectors, (address, data) => this.#interrupts.message(address, data))
    this.#msixOptions = msix
    checkMsixPlace(this.msix, msix, this.#registers.definition(msix.bar))
    const { body, writable } = msixCapability(msix)
    this.#msixControl = this.addCapability(MSIX_CAPABILITY_ID, body, writable) + 2
  }

  /** Whether the header says that the device has several functions ([PCI] 6.2.1, Header Type bit 7). The bus sets it. */
  get isMultiFunction(): boolean {
    return this.#config.read(PCI_CONFIG.HEADER_TYPE, 1) === MULTI_FUNCTION
  }

  set isMultiFunction(isMultiFunction: boolean) {
    this.#config.store(PCI_CONFIG.HEADER_TYPE, 1, isMultiFunction ? MULTI_FUNCTION : 0)
  }

  /** In order of index. */
  get bars(): readonly BarDefinition[] {
    return this.#registers.definitions
  }

  /** The Command register. */
  get command(): number {
    return this.#command
  }

  /** Command bit 2: whether the function may access memory. */
  get busMaster(): boolean {
    return (this.#command & PCI_COMMAND.BUS_MASTER) !== 0
  }

  /** Sets Command bit 2, for a device that does so on behalf of old drivers. */
  setBusMaster(on: boolean): void {
    const others = this.#command & ~PCI_COMMAND.BUS_MASTER
    this.#config.store(PCI_CONFIG.COMMAND, 2, on ? others | PCI_COMMAND.BUS_MASTER : others)
    this.#act()
  }

  /**
   * The address of BAR `index` (I/O port or guest-physical address); undefined while its decoding (Command bit 0 or 1) is off, or it has no
   * address.
   */
  barAddress(index: number): number | undefined {
    return this.#registers.address(index)
  }

  /** Reads configuration space at any offset, with any width. Bytes beyond its end read 0. */
  configRead(offset: number, width: AccessWidth): number {
    return this.#config.read(offset, width)
  }

  /** Writes configuration space at any offset, with any width, and applies the change. */
  configWrite(offset: number, width: AccessWidth, value: number): void {
    this.#config.write(offset, width, value)
    this.#act()
  }

  /** Reads from BAR `index`, whether it is decoded or not. Returns all ones for a BAR or an offset that does not exist. */
  barRead(index: number, offset: number, width: AccessWidth): number {
    const bar = this.#registers.definition(index)
    if (bar === undefined || !isWithin(offset, width, bar.size)) return allOnes(width)
    if (index === this.#msixOptions?.bar) return this.#readMsixBar(this.#msixOptions, offset, width)
    return truncate(this.readBar(index, offset, width), width)
  }

  /** Writes to BAR `index`, whether it is decoded or not. Dropped for a BAR or an offset that does not exist. */
  barWrite(index: number, offset: number, width: AccessWidth, value: number): void {
    const bar = this.#registers.definition(index)
    if (bar === undefined || !isWithin(offset, width, bar.size)) return
    if (index === this.#msixOptions?.bar) this.#writeMsixBar(this.#msixOptions, offset, width, truncate(value, width))
    else this.writeBar(index, offset, width, truncate(value, width))
  }

  /**
   * RST# or loss of power: resets every register to its value after construction; interrupts are low, nothing is pending. A device
   * overrides this, calls it, and resets its own state as well.
   */
  reset(): void {
    this.#isIntxAsserted = false
    this.msix?.reset()
    this.#config.reset()
    this.#act()
  }

  /** The registers that software has programmed, for a saved state; a device adds its own. */
  protected saveRegisters(): PciFunctionState {
    return {
      config: Array.from({ length: CONFIG_SPACE_SIZE / 4 }, (_, dword) => this.#config.read(4 * dword, 4)),
      msix: this.msix?.saveState(),
    }
  }

  /**
   * Checks a result of `saveRegisters` of the same kind of function. Call it after `reset`. Returns a function that restores the registers
   * with the effects of software's writes: BARs move; decoding, bus mastering and interrupts follow.
   * @throws Error for anything else
   */
  protected readyToRestore(state: unknown): () => void {
    const { config, msix } = savedObject(state, "PCI function")
    const registers = savedNumbers(config, "configuration space", { length: CONFIG_SPACE_SIZE / 4 })
    checkSameFunction(registers, this.#config)
    if ((msix === undefined) !== (this.msix === undefined)) throw new Error("saved state: MSI-X on one side only")
    const restoreMsix = this.msix?.readyToRestore(msix)
    return () => {
      for (const [dword, value] of registers.entries()) this.#config.write(4 * dword, 4, value)
      this.#act()
      restoreMsix?.()
    }
  }

  /** Reads the content of BAR `index`, except the MSI-X structures. The access is inside the BAR. */
  protected abstract readBar(index: number, offset: number, width: AccessWidth): number

  /** Writes the content of BAR `index`, except the MSI-X structures. The access is inside the BAR; `value` is unsigned and fits `width`. */
  protected abstract writeBar(index: number, offset: number, width: AccessWidth, value: number): void

  /**
   * Appends a capability to the list. Returns its offset in configuration space.
   * @param body the bytes after id and next
   * @param writable a mask of the bits that software may write, of the same length as `body`. Default: none
   * @throws RangeError when configuration space is full
   */
  protected addCapability(id: number, body: Uint8Array, writable?: Uint8Array): number {
    return this.#capabilities.add(id, body, writable)
  }

  /** Defines a register of the device's own, after the header and not in a capability. */
  protected defineRegister(offset: number, width: AccessWidth, value: number, access?: RegisterAccess): void {
    if (offset < PCI_CONFIG.HEADER_END || offset + width > CONFIG_SPACE_SIZE) {
      throw new RangeError(`register at ${offset}: outside of the device's part of configuration space`)
    }
    this.#config.define(offset, width, value, access)
  }

  /** Sets the device's INTx state: Status bit 3 unless MSI-X is enabled, and the pin unless Command bit 10 disables it. */
  protected setIntx(asserted: boolean): void {
    if (asserted === this.#isIntxAsserted) return
    this.#isIntxAsserted = asserted
    this.#updateIntx()
  }

  /** Called after the Command register has changed. */
  protected commandChanged(_command: number, _previous: number): void {}

  /** Called after MSI-X Enable or Function Mask has changed. */
  protected msixChanged(): void {}

  /** Applies the registers: first all state, then the hooks, which may call in here again. */
  #act(): void {
    const previous = this.#command
    const command = this.#config.read(PCI_CONFIG.COMMAND, 2)
    this.#command = command
    const moved = this.#registers.update(command)
    const msixChanged = this.#configureMsix()
    this.#updateIntx()
    if (moved) this.onMappingChange?.()
    if (command !== previous) this.commandChanged(command, previous)
    if (msixChanged) this.msixChanged()
  }

  /** Returns whether MSI-X Enable or Function Mask has changed. */
  #configureMsix(): boolean {
    const msix = this.msix
    if (msix === undefined) return false
    const control = this.#config.read(this.#msixControl, 2)
    const enabled = (control & MSIX_CONTROL.ENABLE) !== 0
    const masked = (control & MSIX_CONTROL.FUNCTION_MASK) !== 0
    const changed = enabled !== msix.enabled || masked !== msix.masked
    if (changed || this.busMaster !== msix.busMaster) msix.configure({ enabled, masked, busMaster: this.busMaster })
    return changed
  }

  #updateIntx(): void {
    const status = this.#isIntxAsserted && this.msix?.enabled !== true
    const old = this.#config.read(PCI_CONFIG.STATUS, 2)
    this.#config.store(PCI_CONFIG.STATUS, 2, status ? old | PCI_STATUS.INTERRUPT : old & ~PCI_STATUS.INTERRUPT)
    const pin = status && (this.#command & PCI_COMMAND.INTERRUPT_DISABLE) === 0
    if (pin === this.#isPinHigh) return
    // The field comes first: the callee may lower the pin again at once.
    this.#isPinHigh = pin
    this.#interrupts.intx(pin)
  }

  #readMsixBar(options: MsixOptions, offset: number, width: AccessWidth): number {
    const msix = this.msix
    if (msix === undefined) return allOnes(width)
    const table = offset - options.tableOffset
    if (isWithin(table, width, msix.tableSize)) return msix.readTable(table, width)
    const pba = offset - options.pbaOffset
    if (isWithin(pba, width, msix.pbaSize)) return msix.readPba(pba, width)
    if (isOutside(table, width, msix.tableSize) && isOutside(pba, width, msix.pbaSize)) {
      return truncate(this.readBar(options.bar, offset, width), width)
    }
    // The access is partly in a structure: each byte is read separately.
    let value = 0
    for (let i = 0; i < width; i++) value |= this.#readMsixBar(options, offset + i, 1) << (8 * i)
    return value >>> 0
  }

  #writeMsixBar(options: MsixOptions, offset: number, width: AccessWidth, value: number): void {
    const msix = this.msix
    if (msix === undefined) return
    const table = offset - options.tableOffset
    const pba = offset - options.pbaOffset
    if (isWithin(table, width, msix.tableSize)) {
      msix.writeTable(table, width, value)
    } else if (isWithin(pba, width, msix.pbaSize)) {
      return
    } else if (isOutside(table, width, msix.tableSize) && isOutside(pba, width, msix.pbaSize)) {
      this.writeBar(options.bar, offset, width, value)
    } else {
      for (let i = 0; i < width; i++) this.#writeMsixBar(options, offset + i, 1, (value >>> (8 * i)) & 0xff)
    }
  }
}

function isWithin(offset: number, width: AccessWidth, size: number): boolean {
  return offset >= 0 && width <= size - offset
}

function isOutside(offset: number, width: AccessWidth, size: number): boolean {
  return offset >= size || offset + width <= 0
}
