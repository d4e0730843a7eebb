/** InterruptLines: the PCI interrupt pins of a v86 machine, of its own devices and ours, and their routing by the PIIX3 bridge. */
import type { V86Pci } from "./v86.ts"

/** Offset of Interrupt Line and Interrupt Pin in configuration space. */
const INTERRUPT = 0x3c
/** Offset of the interrupt routing registers, PIRQA to PIRQD, in the ISA bridge's configuration space ([PIIX] PIRQRC[A:D]). */
const PIRQ_ROUTES = 0x60
/** A routing register: bit 7 switches the routing off, bits 3-0 are the interrupt number. */
const PIRQ = { DISABLED: 0x80, NUMBER: 0x0f } as const
/** Interrupt Line of a pin without a connection ([PCI] 6.2.4). */
const NOT_CONNECTED = 0xff

/** The pins in a saved state. */
export interface SavedPins {
  /** Ids of devices that assert their pin, not yet checked. */
  readonly asserted: readonly number[]
  /** Whether the device is ours. */
  readonly isOurs: (id: number) => boolean
}

export class InterruptLines {
  readonly #pci: V86Pci
  /** Ids of the devices, ours and v86's, that assert their pin. */
  readonly #asserted = new Set<number>()
  readonly #raise: (id: number) => void
  readonly #lower: (id: number) => void
  #isFrozen = false

  /** Made once for each bus: from then on it also drives the pins of v86's own devices. */
  constructor(pci: V86Pci) {
    this.#pci = pci
    this.#raise = pci.raise_irq.bind(pci)
    this.#lower = pci.lower_irq.bind(pci)
    pci.raise_irq = (id) => this.set(id, true)
    pci.lower_irq = (id) => this.set(id, false)
  }

  /** Ids of the devices that assert their pin. */
  get asserted(): readonly number[] {
    return [...this.#asserted]
  }

  /**
   * Drives the interrupt pin of device `id`. Devices share lines. v86 lowers a line when one of them lowers its pin, and loses the
   * interrupts of the others; here a line is high while any device asserts its pin ([PCI] 2.2.6).
   */
  set(id: number, level: boolean): void {
    if (level) this.#asserted.add(id)
    else this.#asserted.delete(id)
    // v86 throws for a device that is not on its bus.
    if (this.#isFrozen || this.#pci.device_spaces[id] === undefined) return
    if (level) this.#raise(id)
    else if (!this.#shared(id)) this.#lower(id)
  }

  /** The value of device `id`'s Interrupt Line: the interrupt number that its pin is routed to, 0 before firmware has run. */
  interruptLine(id: number): number {
    const route = this.#route(id)
    return (route & PIRQ.DISABLED) !== 0 ? NOT_CONNECTED : route & PIRQ.NUMBER
  }

  /**
   * Calls `act`, which restores our devices and their pins; `asserted` has the pins of v86's own. The lines do not change here, because v86
   * restores them itself.
   */
  restore({ asserted, isOurs }: SavedPins, act: () => void): void {
    const before = [...this.#asserted]
    this.#isFrozen = true
    let isDone = false
    try {
      act()
      isDone = true
    } finally {
      this.#isFrozen = false
      // After a refused state, v86 does not restore the lines.
      if (!isDone) for (const id of before) if (!this.#asserted.has(id)) this.set(id, false)
    }
    for (const id of before) if (!isOurs(id)) this.#asserted.delete(id)
    // An absent device would keep its line high forever.
    for (const id of asserted) if (!isOurs(id) && this.#pci.device_spaces[id] !== undefined) this.#asserted.add(id)
  }

  #shared(id: number): boolean {
    if (this.#asserted.size === 0) return false
    const route = this.#route(id)
    for (const other of this.#asserted) if (this.#route(other) === route) return true
    return false
  }

  /** The routing register of a device's pin, as v86 chooses it. */
  #route(id: number): number {
    const pin = ((this.#pci.device_spaces[id]?.[INTERRUPT >> 2] ?? 0) >> 8) & 0xff
    return this.#pci.isa_bridge_space8[PIRQ_ROUTES + ((pin + (id >> 3) - 2) & 3)] ?? 0
  }
}
