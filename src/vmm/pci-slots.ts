/**
 * PciSlots: plugs functions into bus 0 of a machine, with interrupt lines, addresses and ACPI hot-plug events. ACPI knows only slots: the
 * functions of a slot are announced, and ejected, together.
 */
import { PCI_SLOTS, placeName, type PciBus } from "../pci/bus.ts"
import type { PciFunction, PciInterrupts } from "../pci/function.ts"
import type { GuestMemory } from "../virtio/guest-memory.ts"
import { assignResources, type PciPlace } from "./firmware.ts"
import type { InterruptConnection, Interrupts } from "./interrupts.ts"
import { interruptLine } from "./memory-map.ts"
import { PciHotplug, SCI_LINE } from "./pci-hotplug.ts"

/** The connections of a function on the bus. */
export interface PciWiring {
  readonly memory: GuestMemory
  readonly interrupts: PciInterrupts
}

/** A function on the bus. */
export interface PluggedFunction<F extends PciFunction = PciFunction> extends PciPlace {
  readonly function: F
  /** The interrupt line that its pin is wired to: all functions of a slot share it. */
  readonly line: number
}

/** The parts of the machine that `PciSlots` uses. */
export interface PciSlotsOptions {
  readonly bus: PciBus
  readonly interrupts: Interrupts
  readonly memory: GuestMemory
  /** See `MachineOptions`. */
  readonly ejected: ((slot: number, fn: PciFunction) => void) | undefined
}

/** Slots 1 to 31, a bit for each. */
const ALL_BUT_HOST_BRIDGE = 0xffff_fffe

interface Plugged extends PciPlace {
  readonly connection: InterruptConnection
}

export class PciSlots {
  readonly hotplug: PciHotplug
  readonly #options: PciSlotsOptions
  readonly #bus: PciBus
  /** In order of plugging. */
  #plugged: readonly Plugged[] = []

  constructor(options: PciSlotsOptions) {
    this.#options = options
    this.#bus = options.bus
    this.hotplug = new PciHotplug({
      sci: options.interrupts.connect(SCI_LINE).intx,
      eject: (slot) => this.#eject(slot),
      removable: () => ALL_BUT_HOST_BRIDGE,
    })
  }

  /** See `Machine.plug`. */
  plug<F extends PciFunction>(wanted: number | undefined, make: (wiring: PciWiring) => F, functionNumber = 0): PluggedFunction<F> {
    const slot = wanted ?? this.#emptySlot()
    if (slot === 0) throw new Error("slot 0 is occupied by the host bridge")
    const line = interruptLine(slot)
    const connection = this.#options.interrupts.connect(line)
    try {
      const fn = make({ memory: this.#options.memory, interrupts: connection })
      this.#bus.plug(slot, fn, functionNumber)
      this.#plugged = [...this.#plugged, { slot, functionNumber, connection }]
      assignResources(this.#bus, { slot, functionNumber }, line)
      if (functionNumber === 0) this.hotplug.plugged(slot)
      return { slot, functionNumber, function: fn, line }
    } catch (error) {
      if (this.#plugged.some((other) => other.connection === connection)) this.#remove(slot, functionNumber)
      connection.disconnect()
      throw error
    }
  }

  /** See `Machine.unplug`. */
  unplug(slot: number, functionNumber: number): PciFunction | undefined {
    const last = this.#bus.functions(slot).at(-1)?.[0] ?? 0
    if (functionNumber === 0 && last !== 0) {
      throw new Error(`slot ${slot} has other functions, which no guest finds without function 0; take out ${placeName(slot, last)} first`)
    }
    const fn = this.#remove(slot, functionNumber)
    if (fn !== undefined && functionNumber === 0) this.hotplug.unplugged(slot)
    return fn
  }

  /** See `Machine.requestEject`. */
  requestEject(slot: number): void {
    if (!this.#plugged.some((plugged) => plugged.slot === slot)) throw new Error(`slot ${slot} holds nothing that can be ejected`)
    this.hotplug.requestEject(slot)
  }

  /** The reset line: every function returns to its power-on state; then firmware assigns resources again. */
  reset(): void {
    this.hotplug.reset()
    // All functions are reset first, so that old addresses do not block new ones.
    for (let slot = 0; slot < PCI_SLOTS; slot++) for (const [, fn] of this.#bus.functions(slot)) fn.reset()
    for (const plugged of this.#plugged) assignResources(this.#bus, plugged, interruptLine(plugged.slot))
  }

  /** The guest has released the slot. Function 0 is unplugged last. */
  #eject(slot: number): void {
    for (const [number] of [...this.#bus.functions(slot)].reverse()) {
      const fn = this.#remove(slot, number)
      if (fn !== undefined) this.#options.ejected?.(slot, fn)
    }
  }

  #remove(slot: number, functionNumber: number): PciFunction | undefined {
    const plugged = this.#plugged.find((other) => other.slot === slot && other.functionNumber === functionNumber)
    if (plugged === undefined) return undefined
    this.#plugged = this.#plugged.filter((other) => other !== plugged)
    const fn = this.#bus.unplug(slot, functionNumber)
    plugged.connection.disconnect()
    return fn
  }

  #emptySlot(): number {
    for (let slot = 1; slot < PCI_SLOTS; slot++) if (this.#bus.functions(slot).length === 0) return slot
    throw new Error(`all ${PCI_SLOTS} slots of the PCI bus are occupied; unplug something`)
  }
}
