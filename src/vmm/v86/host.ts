/**
 * V86Host: puts functions with their own configuration space on v86's PCI bus. v86 itself has a plain table of 256 bytes for each device,
 * and moves port handlers when a BAR is written. Functions here see every configuration access, decode their I/O BARs under the command
 * register, share interrupt lines, are reset with the machine, are saved with its state, and can be plugged and unplugged while it runs.
 */
import { type AccessWidth, allOnes } from "../../pci/access.ts"
import { PCI_SLOTS } from "../../pci/bus.ts"
import { PCI_CONFIG } from "../../pci/config-space.ts"
import type { PciFunction } from "../../pci/function.ts"
import { shown } from "../../saved-state.ts"
import type { PciHotplug } from "../pci-hotplug.ts"
import { installAcpiHotplug } from "./acpi-hotplug.ts"
import { InterruptLines } from "./interrupt-lines.ts"
import { IoBars } from "./ports.ts"
import type { V86Cpu, V86Pci, V86Port, V86Saver } from "./v86.ts"

/** A device in the machine: its PCI function, and hooks for saving, restoring and removal. */
export interface V86Device {
  readonly name: string
  readonly fn: PciFunction
  /** Takes no new requests and resolves when none is in flight; `resume` ends it. */
  pause(): Promise<void>
  resume(): void
  /** The device's state, without RAM, as text. @throws Error while a request is in flight */
  saveState(): string
  /** `undefined`: the state was saved without this device. RAM has not been restored yet. */
  restoreState(state: string | undefined): void
  /** Called when the function has left the bus: unplugged by us or ejected by the guest. */
  removed(): void
}

const CONFIG_DATA = 0xcfc
/** The first item of our entry in v86's saved PCI state. */
const STATE_TAG = "vioblk-pci-1"
/** The key of the hot-plug registers in that entry; those of devices are numbers. */
const HOTPLUG_STATE = "hot-plug"

interface Slot {
  readonly id: number
  readonly device: V86Device
  readonly bars: IoBars
  /** v86's copy of the configuration space, from which it takes the interrupt pin. */
  readonly mirror: Int32Array
}

export class V86Host {
  readonly #pci: V86Pci
  readonly #ports: V86Port[]
  readonly #lines: InterruptLines
  readonly #slots = new Map<number, Slot>()
  /** Announces plugged and unplugged functions to the guest. Undefined without `acpi: true`. */
  readonly #hotplug: PciHotplug | undefined

  /** Made once for each emulator. */
  constructor(cpu: V86Cpu, emulator: V86Saver) {
    const { pci, acpi } = cpu.devices
    if (pci === undefined) throw new Error("this v86 machine has no PCI bus")
    this.#pci = pci
    this.#ports = cpu.io.ports
    this.#lines = new InterruptLines(pci)
    for (let byte = 0; byte < 4; byte++) this.#wrapConfigPort(byte)
    this.#hotplug = acpi && installAcpiHotplug(cpu, acpi, { eject: (slot) => this.#remove(slot), removable: () => this.#removable() })
    this.#wrapReset(cpu)
    this.#wrapState(pci, emulator)
  }

  /** Whether there is a device in `slot` (device number; function 0). */
  occupied(slot: number): boolean {
    return this.#pci.devices[slot << 3] !== undefined
  }

  /** Puts `device` on the bus, before firmware runs or later. Its memory BARs are inaccessible, because v86 cannot move them. */
  plug(slot: number, device: V86Device): void {
    const id = slot << 3
    if (this.occupied(slot)) throw new Error(`PCI slot ${slot} of the v86 machine is taken`)
    const { fn, name } = device
    const mirror = this.#pci.register_device({ pci_id: id, pci_space: new Uint8Array(256), pci_bars: [], name })
    const bars = new IoBars(this.#ports, fn)
    const entry: Slot = { id, device, bars, mirror }
    this.#slots.set(id, entry)
    fn.onMappingChange = () => bars.update()
    bars.update()
    this.#copyConfig(entry) // the pin, for the next line
    // Firmware writes Interrupt Line, but it does not run again in a running machine, and a guest without ACPI relies on the value.
    fn.configWrite(PCI_CONFIG.INTERRUPT_LINE, 1, this.#lines.interruptLine(id))
    this.#copyConfig(entry)
  }

  /** `plug` into a running machine, with an ACPI hot-plug event. */
  hotPlug(slot: number, device: V86Device): void {
    this.plug(slot, device)
    this.#hotplug?.plugged(slot)
  }

  /** Takes the function out of `slot` and resets it: requests in flight no longer touch the guest. Sends an ACPI hot-plug event. */
  unplug(slot: number): void {
    if (this.#remove(slot)) this.#hotplug?.unplugged(slot)
  }

  /**
   * Asks the guest to eject the function in `slot`; the device's `removed` is called when it does.
   * @throws Error if the machine has no ACPI
   */
  requestEject(slot: number): void {
    if (this.#hotplug === undefined) {
      const remedy = "remove it in the guest, then detach it"
      throw new Error(`the v86 machine was made without acpi: true, so its guest cannot be asked to eject a disk; ${remedy}`)
    }
    this.#hotplug.requestEject(slot)
  }

  /** Drives the interrupt pin of the function in `slot`. */
  setInterrupt(slot: number, level: boolean): void {
    this.#lines.set(slot << 3, level)
  }

  #remove(slot: number): boolean {
    const entry = this.#slots.get(slot << 3)
    if (entry === undefined) return false
    entry.device.fn.reset() // unmaps its BARs and lowers its interrupt
    entry.device.fn.onMappingChange = undefined
    this.#slots.delete(entry.id)
    this.#pci.devices[entry.id] = undefined
    this.#pci.device_spaces[entry.id] = undefined
    entry.device.removed()
    return true
  }

  /** The slots that are empty or ours, a bit for each. v86's own devices cannot be removed. */
  #removable(): number {
    let slots = 0
    for (let slot = 0; slot < PCI_SLOTS; slot++) if (this.#slots.has(slot << 3) || !this.occupied(slot)) slots |= 1 << slot
    return slots
  }

  /** Configuration mechanism #1: an access to 0xCFC to 0xCFF goes to the selected function if it is ours, and otherwise to v86. */
  #wrapConfigPort(byte: number): void {
    const entry = this.#ports[CONFIG_DATA + byte]
    if (entry === undefined) throw new Error("v86 has no port table")
    const before = { ...entry }
    entry.read8 = (port) => this.#configRead(byte, 1) ?? before.read8.call(before.device, port)
    entry.read16 = (port) => this.#configRead(byte, 2) ?? before.read16.call(before.device, port)
    entry.read32 = (port) => {
      const value = this.#configRead(byte, 4)
      return value === undefined ? before.read32.call(before.device, port) : value | 0
    }
    entry.write8 = (value) => this.#configWrite(byte, 1, value & 0xff) || before.write8.call(before.device, value)
    entry.write16 = (value) => this.#configWrite(byte, 2, value & 0xffff) || before.write16.call(before.device, value)
    entry.write32 = (value) => this.#configWrite(byte, 4, value >>> 0) || before.write32.call(before.device, value)
  }

  /** Returns undefined if the address register selects no function of ours. Nothing answers while its enable bit (31) is 0. */
  #configRead(byte: number, width: AccessWidth): number | undefined {
    const address = this.#pci.pci_addr32[0] ?? 0
    const slot = this.#slots.get((address >> 8) & 0xffff)
    if (slot === undefined) return undefined
    return address < 0 ? slot.device.fn.configRead((address & 0xfc) + byte, width) : allOnes(width)
  }

  /** Returns whether the write is handled. This includes absent functions, where v86 would throw, and stop, for 1 or 2 bytes. */
  #configWrite(byte: number, width: AccessWidth, value: number): boolean {
    const address = this.#pci.pci_addr32[0] ?? 0
    const id = (address >> 8) & 0xffff
    const slot = this.#slots.get(id)
    if (slot === undefined) return this.#pci.device_spaces[id] === undefined
    if (address >= 0) return true
    slot.device.fn.configWrite((address & 0xfc) + byte, width, value)
    this.#copyConfig(slot)
    return true
  }

  /** Copies only the header: after it there may be a window into the device, where reads have effects. */
  #copyConfig(slot: Slot): void {
    for (let offset = 0; offset < PCI_CONFIG.HEADER_END; offset += 4) slot.mirror[offset >> 2] = slot.device.fn.configRead(offset, 4)
  }

  #wrapReset(cpu: V86Cpu): void {
    const reboot = cpu.reboot_internal.bind(cpu)
    cpu.reboot_internal = () => {
      this.#hotplug?.reset()
      for (const slot of this.#slots.values()) {
        slot.device.fn.reset()
        this.#copyConfig(slot)
      }
      reboot()
    }
  }

  #wrapState(pci: V86Pci, emulator: V86Saver): void {
    const getState = pci.get_state.bind(pci)
    pci.get_state = () => {
      const devices = [...this.#slots.values()].flatMap((slot) => [slot.id, slot.device.saveState()])
      const hotplug = this.#hotplug === undefined ? [] : [HOTPLUG_STATE, this.#hotplug.saveState()]
      return [...getState(), [STATE_TAG, this.#lines.asserted, ...devices, ...hotplug]]
    }
    const setState = pci.set_state.bind(pci)
    pci.set_state = (state) => {
      setState(state)
      this.#restore(state)
    }
    const save = emulator.save_state.bind(emulator)
    emulator.save_state = () => this.#whilePaused(save)
    const restore = emulator.restore_state.bind(emulator)
    emulator.restore_state = (image) => this.#whilePaused(() => restore(image))
  }

  async #whilePaused<T>(act: () => Promise<T>): Promise<T> {
    const devices = [...this.#slots.values()].map((slot) => slot.device)
    try {
      await Promise.all(devices.map((device) => device.pause()))
      return await act()
    } finally {
      for (const device of devices) device.resume()
    }
  }

  /**
   * v86 restores registers, interrupt controllers and lines around this, and RAM after it. Raising a line now could make the processor take
   * the interrupt before its stack is restored.
   * @throws Error for a state that one of the devices refuses: then all of them are reset
   */
  #restore(state: readonly unknown[]): void {
    const [, asserted, ...pairs] = state.find((part): part is unknown[] => Array.isArray(part) && part[0] === STATE_TAG) ?? []
    const saved = new Map<unknown, unknown>()
    for (let i = 0; i + 1 < pairs.length; i += 2) saved.set(pairs[i], pairs[i + 1])
    const ids = Array.isArray(asserted) ? asserted.filter((id): id is number => typeof id === "number") : []
    this.#lines.restore({ asserted: ids, isOurs: (id) => this.#slots.has(id) }, () => {
      try {
        for (const slot of this.#slots.values()) slot.device.restoreState(savedText(saved, slot.id))
        this.#hotplug?.restoreState(saved.get(HOTPLUG_STATE))
      } catch (error) {
        // Devices that were already restored have rings in RAM that will not be restored.
        for (const { device } of this.#slots.values()) device.fn.reset()
        throw error
      } finally {
        for (const slot of this.#slots.values()) this.#copyConfig(slot)
      }
    })
  }
}

/** The saved text of the device with this id; undefined if there is none. */
function savedText(saved: ReadonlyMap<unknown, unknown>, id: number): string | undefined {
  const text = saved.get(id)
  if (text === undefined || typeof text === "string") return text
  throw new Error(`saved state: the disk in PCI slot ${id >> 3}: ${shown(text)} is not a text`)
}
