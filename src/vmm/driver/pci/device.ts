/**
 * PciDevice: one PCI function as a driver sees it (configuration space, capabilities, BARs, MSI-X, interrupt line), and the
 * enumeration that finds them.
 */
import { checkCount, checkMembers, checkOptions, described, type Rules } from "../../../options.ts"
import { DriverError } from "../errors.ts"
import { MsixTable } from "./msix.ts"
import { type ConfigAccess, ConfigMechanism1Access, formatPciAddress, type PciAddress } from "./config.ts"
import { PCI_BAR, PCI_CAPABILITY, PCI_COMMAND, PCI_HEADER, PCI_STATUS } from "./spec.ts"
import { checkPlatform, type Platform } from "../platform.ts"
import { type Registers, registersAt } from "./registers.ts"

/** A base address register that is implemented. */
export interface Bar {
  /** 0 to 5; the lower one of a 64-bit pair. */
  readonly index: number
  readonly space: "io" | "memory"
  /** Where it is now: a port or a guest-physical address. 0: nobody has placed it. */
  readonly address: number
  /** Bytes, a power of two. */
  readonly size: number
  /** A pair of registers holding a 64-bit address. */
  readonly is64Bit: boolean
  readonly prefetchable: boolean
}

/** An entry of the capability list. */
export interface PciCapability {
  readonly id: number
  /** Where it starts in configuration space. */
  readonly offset: number
}

/** Options of `enumeratePci` and `findBlockDevices`. */
export interface EnumerateOptions {
  /** Default: mechanism #1. */
  readonly config?: ConfigAccess
  /** Bus numbers to look at. Default: bus 0. */
  readonly buses?: readonly number[]
}

const ENUMERATE_RULES: Rules<EnumerateOptions> = { config: "object?", buses: "array?" }

/** One function on the bus. It makes no access until it is asked to, and remembers nothing but the sizes of the BARs. */
export class PciDevice {
  readonly platform: Platform
  readonly config: ConfigAccess
  readonly address: PciAddress
  #bars: readonly { readonly index: number; readonly size: number }[] | undefined

  constructor(platform: Platform, address: PciAddress, config: ConfigAccess = new ConfigMechanism1Access(platform)) {
    checkPlatform("PciDevice", platform)
    this.platform = platform
    this.config = config
    this.address = address
  }

  /** "00:04.0" */
  get name(): string {
    return formatPciAddress(this.address)
  }

  read8(offset: number): number {
    return this.config.read(this.address, offset, 1)
  }

  read16(offset: number): number {
    return this.config.read(this.address, offset, 2)
  }

  read32(offset: number): number {
    return this.config.read(this.address, offset, 4)
  }

  write8(offset: number, value: number): void {
    this.config.write(this.address, offset, 1, value)
  }

  write16(offset: number, value: number): void {
    this.config.write(this.address, offset, 2, value)
  }

  write32(offset: number, value: number): void {
    this.config.write(this.address, offset, 4, value)
  }

  get vendorId(): number {
    return this.read16(PCI_HEADER.VENDOR_ID)
  }

  get deviceId(): number {
    return this.read16(PCI_HEADER.DEVICE_ID)
  }

  get revisionId(): number {
    return this.read8(PCI_HEADER.REVISION_ID)
  }

  /** Base class, sub-class and programming interface as one number, 0xBBSSPP. */
  get classCode(): number {
    return this.read8(PCI_HEADER.CLASS_CODE) + this.read16(PCI_HEADER.CLASS_CODE + 1) * 0x100
  }

  get subsystemVendorId(): number {
    return this.read16(PCI_HEADER.SUBSYSTEM_VENDOR_ID)
  }

  get subsystemId(): number {
    return this.read16(PCI_HEADER.SUBSYSTEM_ID)
  }

  /** The line that firmware has routed the interrupt pin to; undefined when there is no pin or nobody routed it. */
  get interruptLine(): number | undefined {
    const line = this.read8(PCI_HEADER.INTERRUPT_LINE)
    return this.read8(PCI_HEADER.INTERRUPT_PIN) === 0 || line === 0xff ? undefined : line
  }

  /** Sets and clears bits of the command register (`PCI_COMMAND`). */
  changeCommand(change: { readonly set?: number; readonly clear?: number }): void {
    checkOptions("PciDevice.changeCommand", change, { set: "number?", clear: "number?" })
    const command = this.read16(PCI_HEADER.COMMAND)
    const wanted = (command & ~(change.clear ?? 0)) | (change.set ?? 0)
    if (wanted !== command) this.write16(PCI_HEADER.COMMAND, wanted)
  }

  /** Turns on decoding in both address spaces, and bus mastering. */
  enable(): void {
    this.changeCommand({ set: PCI_COMMAND.IO_SPACE | PCI_COMMAND.MEMORY_SPACE | PCI_COMMAND.BUS_MASTER })
  }

  /**
   * The capability list in its order, [PCI] 6.7.
   * @throws DriverError ("protocol") for a list that loops or points into the header
   */
  capabilities(): PciCapability[] {
    const found: PciCapability[] = []
    if ((this.read16(PCI_HEADER.STATUS) & PCI_STATUS.CAPABILITIES_LIST) === 0) return found
    // The two lowest bits are reserved: software masks them.
    let offset = this.read8(PCI_HEADER.CAPABILITIES_POINTER) & 0xfc
    while (offset !== 0) {
      if (offset < 0x40) throw new DriverError("protocol", `${this.name}: a capability points into the header (0x${offset.toString(16)})`)
      if (found.some((capability) => capability.offset === offset)) {
        throw new DriverError("protocol", `${this.name}: the capability list loops`)
      }
      found.push({ id: this.read8(offset), offset })
      offset = this.read8(offset + 1) & 0xfc
    }
    return found
  }

  /** The MSI-X capability, or undefined. */
  msix(): MsixTable | undefined {
    const capability = this.capabilities().find((each) => each.id === PCI_CAPABILITY.MSIX)
    return capability === undefined ? undefined : new MsixTable(this, capability.offset)
  }

  /** The implemented BARs. The first call sizes them, with the device's decoding switched off meanwhile. */
  bars(): Bar[] {
    this.#bars ??= this.#sizeBars()
    return this.#bars.map(({ index, size }) => this.#decode(index, size))
  }

  /**
   * Places a BAR: at a multiple of its size.
   * @throws DriverError ("protocol") when the register does not take the address
   */
  setBarAddress(index: number, address: number): void {
    const bar = this.#bar(index)
    if (address % bar.size !== 0) throw new RangeError(`BAR ${index} of ${bar.size} bytes cannot start at ${address}`)
    if (address >= 2 ** 32 && !bar.is64Bit) throw new RangeError(`BAR ${index} holds 32 bits, not ${address}`)
    const decoding = this.#stopDecoding()
    this.write32(PCI_HEADER.BAR0 + 4 * index, address % 2 ** 32)
    if (bar.is64Bit) this.write32(PCI_HEADER.BAR0 + 4 * index + 4, Math.floor(address / 2 ** 32))
    this.write16(PCI_HEADER.COMMAND, decoding)
    const now = this.#decode(index, bar.size).address
    if (now !== address) throw new DriverError("protocol", `${this.name}: BAR ${index} was set to ${address} and reads ${now}`)
  }

  /** The registers behind a BAR, from `offset` on, where the BAR is now. */
  registers(index: number, offset = 0): Registers {
    const bar = this.#bar(index)
    if (bar.address === 0) throw new DriverError("no-device", `${this.name}: BAR ${index} has no address; place it with setBarAddress`)
    return registersAt(this.platform, { space: bar.space, base: bar.address + offset })
  }

  #bar(index: number): Bar {
    const bar = this.bars().find((each) => each.index === index)
    if (bar === undefined) throw new DriverError("no-device", `${this.name}: there is no BAR ${index}`)
    return bar
  }

  #decode(index: number, size: number): Bar {
    const low = this.read32(PCI_HEADER.BAR0 + 4 * index)
    if ((low & PCI_BAR.IO_SPACE) !== 0) {
      return { index, space: "io", address: (low & ~PCI_BAR.IO_FLAGS) >>> 0, size, is64Bit: false, prefetchable: false }
    }
    const is64Bit = (low & PCI_BAR.MEMORY_TYPE) === PCI_BAR.MEMORY_TYPE_64
    const high = is64Bit ? this.read32(PCI_HEADER.BAR0 + 4 * index + 4) : 0
    const address = ((low & ~PCI_BAR.MEMORY_FLAGS) >>> 0) + high * 2 ** 32
    return { index, space: "memory", address, size, is64Bit, prefetchable: (low & PCI_BAR.PREFETCHABLE) !== 0 }
  }

  /** [PCI] 6.2.5.1, implementation note: write all ones, read back, restore. */
  #sizeBars(): { index: number; size: number }[] {
    const decoding = this.#stopDecoding()
    const bars: { index: number; size: number }[] = []
    for (let index = 0; index < PCI_BAR.COUNT; index++) {
      const low = this.#probe(index)
      if (low === 0) continue
      const isIo = (low & PCI_BAR.IO_SPACE) !== 0
      const is64Bit = !isIo && (low & PCI_BAR.MEMORY_TYPE) === PCI_BAR.MEMORY_TYPE_64
      // An I/O BAR may leave its upper half unimplemented: those bits then read as zero and do not count.
      const lowMask = isIo ? ((low & ~PCI_BAR.IO_FLAGS) | (low >>> 16 === 0 ? 0xffff_0000 : 0)) >>> 0 : (low & ~PCI_BAR.MEMORY_FLAGS) >>> 0
      const highMask = is64Bit && index + 1 < PCI_BAR.COUNT ? this.#probe(index + 1) : 0xffff_ffff
      const size = lowMask !== 0 ? 2 ** 32 - lowMask : (2 ** 32 - highMask) * 2 ** 32
      bars.push({ index, size })
      if (is64Bit) index++
    }
    this.write16(PCI_HEADER.COMMAND, decoding)
    return bars
  }

  #probe(index: number): number {
    const offset = PCI_HEADER.BAR0 + 4 * index
    const before = this.read32(offset)
    this.write32(offset, 0xffff_ffff)
    const mask = this.read32(offset)
    this.write32(offset, before)
    return mask
  }

  /** Returns the command register as it was. */
  #stopDecoding(): number {
    const command = this.read16(PCI_HEADER.COMMAND)
    this.write16(PCI_HEADER.COMMAND, command & ~(PCI_COMMAND.IO_SPACE | PCI_COMMAND.MEMORY_SPACE))
    return command
  }
}

/** @throws TypeError when `pci`, given to `who`, is not a `PciDevice` */
export function checkPciDevice(who: string, pci: unknown): asserts pci is PciDevice {
  if (pci instanceof PciDevice) return
  throw new TypeError(`${who}: the device must be a PciDevice, not ${described(pci)}; findBlockDevices finds them`)
}

/**
 * All functions on the buses, in the order of their addresses.
 * @throws TypeError for a platform or an option that is none
 */
export function enumeratePci(platform: Platform, options: EnumerateOptions = {}): PciDevice[] {
  checkPlatform("enumeratePci", platform)
  checkOptions("enumeratePci", options, ENUMERATE_RULES)
  const rules: Rules<ConfigAccess> = { read: "function", write: "function" }
  if (options.config !== undefined) checkMembers("enumeratePci", "config", options.config, rules, "ConfigAccess")
  const config = options.config ?? new ConfigMechanism1Access(platform)
  const found: PciDevice[] = []
  for (const bus of options.buses ?? [0]) {
    checkCount("enumeratePci", "a bus", bus, 0, 255)
    for (let device = 0; device < 32; device++) {
      const first = new PciDevice(platform, { bus, device, function: 0 }, config)
      if (first.vendorId === 0xffff) continue
      found.push(first)
      const isMultiFunction = (first.read8(PCI_HEADER.HEADER_TYPE) & 0x80) !== 0
      for (let number = 1; isMultiFunction && number < 8; number++) {
        const next = new PciDevice(platform, { bus, device, function: number }, config)
        if (next.vendorId !== 0xffff) found.push(next)
      }
    }
  }
  return found
}
