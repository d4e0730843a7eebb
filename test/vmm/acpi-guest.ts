/**
 * What a guest does with SeaBIOS's ACPI tables when the system control interrupt comes: it looks for general-purpose event 1, then
 * asks for each slot whether it is to be checked or ejected (method PCNF). Ports and bits are those of [QEMU] acpi_pci_hotplug.rst.
 */
import { expect } from "vitest"

export interface PortAccess {
  portRead(port: number, width: 1 | 2 | 4): number
  portWrite(port: number, width: 1 | 2 | 4, value: number): void
}

export class AcpiGuest {
  readonly #machine: PortAccess

  constructor(machine: PortAccess) {
    this.#machine = machine
  }

  /** As an operating system when it starts: clears all events, then lets all of them interrupt. */
  start(): void {
    this.#machine.portWrite(0xafe0, 1, 0xff)
    this.#machine.portWrite(0xafe1, 1, 0xff)
    this.#machine.portWrite(0xafe2, 1, 0xff)
    this.#machine.portWrite(0xafe3, 1, 0xff)
  }

  /** Handles one interrupt; returns what the guest is to do, e.g. ["check 9", "eject 10"]. Fails when there is no event. */
  handle(): string[] {
    const pending = this.#machine.portRead(0xafe0, 1) & this.#machine.portRead(0xafe2, 1)
    expect(pending, "pending events").toBe(0b10)
    this.#machine.portWrite(0xafe0, 1, pending)
    const notifications: string[] = []
    // The tables read both registers again for each slot.
    for (let slot = 1; slot < 32; slot++) {
      if ((this.#machine.portRead(0xae00, 4) & (1 << slot)) !== 0) notifications.push(`check ${slot}`)
      if ((this.#machine.portRead(0xae04, 4) & (1 << slot)) !== 0) notifications.push(`eject ${slot}`)
    }
    return notifications
  }

  /** Method _EJ0 of the device in `slot`. */
  eject(slot: number): void {
    this.#machine.portWrite(0xae08, 4, 2 ** slot)
  }

  /** The slots that firmware makes hot-pluggable. */
  get removable(): number[] {
    const slots = this.#machine.portRead(0xae0c, 4)
    return Array.from({ length: 32 }, (_, slot) => slot).filter((slot) => (slots & (1 << slot)) !== 0)
  }
}
