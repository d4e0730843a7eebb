/**
 * PciHotplug: ACPI PCI hot-plug for bus 0, the interface that QEMU documents ([QEMU] docs/specs/acpi_pci_hotplug.rst) and SeaBIOS's
 * ACPI tables use. General-purpose event 1 tells the guest to read two registers: the slots with a new function, and the slots to
 * eject. The guest writes a slot's bit to the eject register when it has released the function.
 */
import type { AccessWidth } from "../pci/access.ts"
import { PCI_SLOTS } from "../pci/bus.ts"
import { savedNumbers } from "../saved-state.ts"
import type { AddressWindow } from "./memory-map.ts"

/** The registers' ports. Slot N is bit N of the first four, which have 32 bits. */
const PORT = {
  UP: 0xae00, DOWN: 0xae04, EJECT: 0xae08, REMOVABLE: 0xae0c, END: 0xae10, GPE_STATUS: 0xafe0, GPE_ENABLE: 0xafe2, GPE_END: 0xafe4,
} as const

/** All ports of the interface: hot-plug, then the general-purpose event block (GPE0) of a PIIX4. */
export const PCI_HOTPLUG_PORTS: readonly AddressWindow[] = [
  { start: PORT.UP, end: PORT.END },
  { start: PORT.GPE_STATUS, end: PORT.GPE_END },
]

/** The interrupt line of ACPI's system control interrupt (SCI). */
export const SCI_LINE = 9

/** Event 1 in the general-purpose event registers. */
const PCI_HOTPLUG_EVENT = 1 << 1

export interface PciHotplugOptions {
  /** Drives the SCI. Called when its level changes. */
  readonly sci: (level: boolean) => void
  /**
   * The guest has released the function in `slot`: take it off the bus. The slot may be empty, or have a function that cannot be removed.
   */
  readonly eject: (slot: number) => void
  /** A bit for each slot that is empty or whose function can be removed. Firmware reads this once. */
  readonly removable: () => number
}

export class PciHotplug {
  readonly #options: PciHotplugOptions
  /** Slots with a new function. Bits stay until the function goes, because SeaBIOS's tables read them repeatedly. */
  #up = 0
  /** Slots that the guest is asked to eject. */
  #asked = 0
  /** Slots whose function was unplugged without asking, until the guest acknowledges that by an eject. */
  #gone = 0
  /** Slots of `#gone` with a new function, of which the guest is told after it has acknowledged that the old one is gone. */
  #next = 0
  #status = 0
  #enable = 0
  #isRaised = false

  constructor(options: PciHotplugOptions) {
    this.#options = options
  }

  /** Whether the access starts at one of the interface's ports. */
  claims(port: number): boolean {
    return (port >= PORT.UP && port < PORT.END) || (port >= PORT.GPE_STATUS && port < PORT.GPE_END)
  }

  /** Reads `width` bytes at `port`. Bytes outside the interface are all ones. */
  read(port: number, width: AccessWidth): number {
    let value = 0
    for (let i = 0; i < width; i++) value += this.#readByte(port + i) * 2 ** (8 * i)
    return value
  }

  /** Writes the low `width` bytes of `value` at `port`. Ignored for read-only registers, and for bytes outside the interface. */
  write(port: number, width: AccessWidth, value: number): void {
    for (let i = 0; i < width; i++) this.#writeByte(port + i, (value >>> (8 * i)) & 0xff)
    this.#update()
  }

  /** Tells the guest that `slot` has a new function. */
  plugged(slot: number): void {
    if ((this.#gone & bit(slot)) !== 0) this.#next |= bit(slot)
    else this.#announce(slot)
  }

  /** Asks the guest to eject the function in `slot`. It answers by `eject`, or never. */
  requestEject(slot: number): void {
    this.#asked |= bit(slot)
    this.#event()
  }

  /** Tells the guest that the function in `slot` is gone, so that it removes its device. */
  unplugged(slot: number): void {
    this.#forget(slot)
    this.#gone |= bit(slot)
    this.#event()
  }

  /** The machine is reset. Functions that the guest was asked to eject are ejected: nobody uses them now. */
  reset(): void {
    const asked = this.#asked
    this.#up = this.#asked = this.#gone = this.#next = this.#status = this.#enable = 0
    this.#update()
    for (let slot = 0; slot < PCI_SLOTS; slot++) if ((asked & bit(slot)) !== 0) this.#options.eject(slot)
  }

  /** The registers, for `restoreState`. */
  saveState(): readonly number[] {
    return [this.#up, this.#asked, this.#gone, this.#next, this.#status, this.#enable].map((register) => register >>> 0)
  }

  /** Restores a result of `saveState`; undefined: as after a reset. @throws Error for anything else, with nothing changed */
  restoreState(state: unknown = [0, 0, 0, 0, 0, 0]): void {
    const [up = 0, asked = 0, gone = 0, next = 0, status = 0, enable = 0] = savedNumbers(state, "PCI hot-plug registers", { length: 6 })
    this.#up = up
    this.#asked = asked
    this.#gone = gone
    this.#next = next
    this.#status = status & 0xffff
    this.#enable = enable & 0xffff
    this.#update()
  }

  #readByte(port: number): number {
    if (port >= PORT.GPE_END) return 0xff
    if (port >= PORT.GPE_ENABLE) return byteOf(this.#enable, port - PORT.GPE_ENABLE)
    if (port >= PORT.GPE_STATUS) return byteOf(this.#status, port - PORT.GPE_STATUS)
    if (port >= PORT.END) return 0xff
    if (port >= PORT.REMOVABLE) return byteOf(this.#options.removable(), port - PORT.REMOVABLE)
    if (port >= PORT.EJECT) return 0 // no further features
    if (port >= PORT.DOWN) return byteOf(this.#asked | this.#gone, port - PORT.DOWN)
    return byteOf(this.#up, port - PORT.UP)
  }

  #writeByte(port: number, value: number): void {
    if (port >= PORT.EJECT && port < PORT.REMOVABLE) this.#eject((value << (8 * (port - PORT.EJECT))) >>> 0)
    else if (port >= PORT.GPE_STATUS && port < PORT.GPE_ENABLE) this.#status &= ~(value << (8 * (port - PORT.GPE_STATUS)))
    else if (port >= PORT.GPE_ENABLE && port < PORT.GPE_END) {
      const shift = 8 * (port - PORT.GPE_ENABLE)
      this.#enable = (this.#enable & ~(0xff << shift)) | (value << shift)
    }
  }

  #eject(slots: number): void {
    for (let slot = 0; slot < PCI_SLOTS; slot++) {
      if ((slots & bit(slot)) === 0) continue
      const acknowledged = (this.#gone & bit(slot)) !== 0
      const next = (this.#next & bit(slot)) !== 0
      this.#forget(slot)
      if (next) this.#announce(slot)
      else if (!acknowledged) this.#options.eject(slot)
    }
  }

  #announce(slot: number): void {
    this.#up |= bit(slot)
    this.#event()
  }

  #forget(slot: number): void {
    const others = ~bit(slot)
    this.#up &= others
    this.#asked &= others
    this.#gone &= others
    this.#next &= others
  }

  #event(): void {
    this.#status |= PCI_HOTPLUG_EVENT
    this.#update()
  }

  #update(): void {
    const level = (this.#status & this.#enable) !== 0
    if (level === this.#isRaised) return
    this.#isRaised = level
    this.#options.sci(level)
  }
}

/** The bit of `slot`; signed, as bitwise operators have it. */
function bit(slot: number): number {
  return 1 << slot
}

function byteOf(register: number, index: number): number {
  return (register >>> (8 * index)) & 0xff
}
