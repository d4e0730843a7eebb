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

/** What a saved state says of the pins. */
export interface SavedPins {
  /** Ids of devices that assert theirs; any numbers. */
  readonly asserted: readonly number[]
  /** Whether there is a device of ours. */
  readonly isOurs: (id: number) => boolean
}

export class InterruptLines {
  readonly #pci: V86Pci
  /** Ids of the devices, ours and v86's, that assert their pin. */
  readonly #asserted = new Set<number>()
  readonly #raise: (id: number) => void
  readonly #lower: (id: number) => void
  #isFrozen = false

  /** To be made once for each bus: from then on the pins of v86's own devices are driven through here. */
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
   * interrupts of the others; here a line is up while any device asserts its pin ([PCI] 2.2.6).
   */
  set(id: number, level: boolean): void {
    if (level) this.#asserted.add(id)
    else this.#asserted.delete(id)
    // v86 throws for a device that is not on its bus.
    if (this.#isFrozen || this.#pci.device_spaces[id] === undefined) return
    if (level) this.#raise(id)
    else if (!this.#shared(id)) this.#lower(id)
  }

  /** What firmware writes to Interrupt Line of device `id`: the interrupt number that its pin is routed to, 0 before firmware has run. */
  interruptLine(id: number): number {
    const route = this.#route(id)
    return (route & PIRQ.DISABLED) !== 0 ? NOT_CONNECTED : route & PIRQ.NUMBER
  }

  /**
   * Calls `act`, which restores our devices and tells which of them assert their pin; `asserted` says so of v86's own. The lines stay as
   * they are: v86 restores them itself.
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
      // Nobody restores the lines of a state that was refused.
      if (!isDone) for (const id of before) if (!this.#asserted.has(id)) this.set(id, false)
    }
    for (const id of before) if (!isOurs(id)) this.#asserted.delete(id)
    // A device that is not there would hold its line up for ever.
    for (const id of asserted) if (!isOurs(id) && this.#pci.device_spaces[id] !== undefined) this.#asserted.add(id)
  }

  #shared(id: number): boolean {
    if (this.#asserted.size === 0) return false
    const route = this.#route(id)
    for (const other of this.#asserted) if (this.#route(other) === route) return true
    return false
  }

  /** The routing register of a device's pin, chosen as v86 chooses it. */
  #route(id: number): number {
    const pin = ((this.#pci.device_spaces[id]?.[INTERRUPT >> 2] ?? 0) >> 8) & 0xff
    return this.#pci.isa_bridge_space8[PIRQ_ROUTES + ((pin + (id >> 3) - 2) & 3)] ?? 0
  }
}
