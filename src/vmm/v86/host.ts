/**
 * V86Host: v86's PCI bus as a place for functions that keep their own configuration space. v86 itself keeps a plain table of
 * 256 bytes for each device and moves port handlers when a BAR is written; functions here see every configuration access, decode
 * their I/O BARs under the command register, share interrupt lines, are reset with the machine and saved with its state.
 *
 * v86's objects are described by what is used of them; the names are those of its published build (0.5.462).
 */
import { allOnes } from "../../pci/access.ts"
import type { AccessWidth, PciFunction } from "../../pci/function.ts"
import type { V86Ram } from "./memory.ts"

/** A device that can live in the machine: its PCI function, and what happens to it when the machine stops, is saved or restored. */
export interface V86Device {
  readonly name: string
  readonly fn: PciFunction
  /** Takes no new requests and resolves when none is in flight; `resume` ends it. */
  pause(): Promise<void>
  resume(): void
  /** Everything that is not in RAM, as text. Throws while a request is in flight. */
  saveState(): string
  /** `undefined`: the state was saved without this device. RAM has not been restored yet. */
  restoreState(state: string | undefined): void
}

/** A port's handlers. v86 calls them with `device` as `this`; 32-bit values are signed. */
interface PortEntry {
  read8: (port: number) => number
  read16: (port: number) => number
  read32: (port: number) => number
  write8: (value: number) => void
  write16: (value: number) => void
  write32: (value: number) => void
  device: unknown
}

interface V86Pci {
  readonly pci_addr32: Int32Array
  readonly devices: unknown[]
  readonly device_spaces: (Int32Array | undefined)[]
  readonly isa_bridge_space8: Uint8Array
  register_device(device: { pci_id: number; pci_space: Uint8Array; pci_bars: never[]; name: string }): Int32Array
  raise_irq(id: number): void
  lower_irq(id: number): void
  get_state(): unknown[]
  set_state(state: unknown[]): void
}

export interface V86Cpu extends V86Ram {
  readonly devices: { readonly pci?: V86Pci }
  readonly io: { readonly ports: PortEntry[] }
  reboot_internal(): void
}

/** The emulator object, as far as it is patched. */
export interface V86Saver {
  save_state(): Promise<ArrayBuffer>
  restore_state(state: ArrayBuffer): Promise<void>
}

const CONFIG_DATA = 0xcfc
/** Offset of Interrupt Line and Interrupt Pin in configuration space. */
const INTERRUPT = 0x3c
/** Where in v86's ISA bridge the interrupt routing registers PIRQA to PIRQD are. */
const PIRQ_ROUTES = 0x60
/** Heads our entry in v86's saved PCI state. */
const STATE_TAG = "vioblk-pci-1"

interface IoBar {
  readonly index: number
  readonly entries: readonly PortEntry[]
  /** First port at present, and what stood there before us. */
  mapped: { readonly port: number; readonly displaced: readonly (PortEntry | undefined)[] } | undefined
}

interface Slot {
  readonly id: number
  readonly device: V86Device
  readonly bars: readonly IoBar[]
  /** v86's own copy of the configuration space: it looks up the interrupt pin there. */
  readonly mirror: Int32Array
}

export class V86Host {
  readonly #pci: V86Pci
  readonly #ports: PortEntry[]
  readonly #slots = new Map<number, Slot>()
  /** Devices, ours and v86's, that hold their interrupt line. */
  readonly #asserted = new Set<number>()
  #restoring = false
  readonly #raise: (id: number) => void
  readonly #lower: (id: number) => void

  /** Once for each emulator. */
  constructor(cpu: V86Cpu, emulator: V86Saver) {
    const pci = cpu.devices.pci
    if (pci === undefined) throw new Error("this v86 machine has no PCI bus")
    this.#pci = pci
    this.#ports = cpu.io.ports
    this.#raise = pci.raise_irq.bind(pci)
    this.#lower = pci.lower_irq.bind(pci)
    pci.raise_irq = (id) => this.setInterrupt(id, true)
    pci.lower_irq = (id) => this.setInterrupt(id, false)
    for (let byte = 0; byte < 4; byte++) this.#wrapConfigPort(byte)
    this.#wrapReset(cpu)
    this.#wrapState(pci, emulator)
  }

  /** Is something on `slot` (device number, function 0)? */
  occupied(slot: number): boolean {
    return this.#pci.devices[slot << 3] !== undefined
  }

  /** Puts `device` on the bus. Memory BARs stay out of reach: v86 cannot move them. */
  plug(slot: number, device: V86Device): void {
    const id = slot << 3
    if (this.occupied(slot)) throw new Error(`PCI slot ${slot} of the v86 machine is taken`)
    const { fn, name } = device
    const mirror = this.#pci.register_device({ pci_id: id, pci_space: new Uint8Array(256), pci_bars: [], name })
    const bars = fn.bars.filter((bar) => bar.kind === "io").map((bar) => ioBar(fn, bar.index, bar.size))
    const entry: Slot = { id, device, bars, mirror }
    this.#slots.set(id, entry)
    fn.onMappingChange = () => this.#move(entry)
    this.#move(entry)
    this.#copyConfig(entry)
  }

  /** Takes the function of `slot` off the bus and resets it: requests in flight do not touch the guest any more. */
  unplug(slot: number): void {
    const entry = this.#slots.get(slot << 3)
    if (entry === undefined) return
    entry.device.fn.reset() // unmaps its BARs and lowers its interrupt
    entry.device.fn.onMappingChange = undefined
    this.#slots.delete(entry.id)
    this.#pci.devices[entry.id] = undefined
    this.#pci.device_spaces[entry.id] = undefined
  }

  /**
   * Drives the interrupt pin of device `id`. Lines are shared, and v86 would lower one for all when the first device lowers it,
   * which loses the interrupts of the others: here a line is high while any device holds it ([PCI] 2.2.6).
   */
  setInterrupt(id: number, level: boolean): void {
    if (level) this.#asserted.add(id)
    else this.#asserted.delete(id)
    // v86 has no pin for a device that is not on the bus (any more)
    if (this.#restoring || this.#pci.device_spaces[id] === undefined) return
    if (level) this.#raise(id)
    else if (!this.#shared(id)) this.#lower(id)
  }

  #shared(id: number): boolean {
    if (this.#asserted.size === 0) return false
    const line = this.#line(id)
    for (const other of this.#asserted) if (this.#line(other) === line) return true
    return false
  }

  /** The interrupt number that a device's pin is routed to, as v86 computes it. */
  #line(id: number): number {
    const pin = ((this.#pci.device_spaces[id]?.[INTERRUPT >> 2] ?? 0) >> 8) & 0xff
    return this.#pci.isa_bridge_space8[PIRQ_ROUTES + ((pin + (id >> 3) - 2) & 3)] ?? 0
  }

  /** Configuration mechanism #1: accesses to 0xCFC..0xCFF go to our functions, or on to v86. */
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

  /** `undefined` where the address register selects no function of ours. Bit 31 of it enables: without it nothing answers. */
  #configRead(byte: number, width: AccessWidth): number | undefined {
    const address = this.#pci.pci_addr32[0] ?? 0
    const slot = this.#slots.get((address >> 8) & 0xffff)
    if (slot === undefined) return undefined
    return address < 0 ? slot.device.fn.configRead((address & 0xfc) + byte, width) : allOnes(width)
  }

  #configWrite(byte: number, width: AccessWidth, value: number): boolean {
    const address = this.#pci.pci_addr32[0] ?? 0
    const slot = this.#slots.get((address >> 8) & 0xffff)
    if (slot === undefined) return false
    if (address >= 0) return true
    slot.device.fn.configWrite((address & 0xfc) + byte, width, value)
    this.#copyConfig(slot)
    return true
  }

  /** The header only: what follows it may be a window into the device, where a read has effects. */
  #copyConfig(slot: Slot): void {
    for (let offset = 0; offset <= INTERRUPT; offset += 4) slot.mirror[offset >> 2] = slot.device.fn.configRead(offset, 4)
  }

  /** Port handlers follow the I/O BARs. */
  #move(slot: Slot): void {
    for (const bar of slot.bars) {
      const port = slot.device.fn.barAddress(bar.index)
      if (port === bar.mapped?.port) continue
      this.#unmap(bar)
      if (port !== undefined) this.#map(bar, port)
    }
  }

  /** A port where another device stands stays with that device. */
  #map(bar: IoBar, port: number): void {
    const displaced = bar.entries.map((_, offset) => this.#ports[port + offset])
    bar.mapped = { port, displaced }
    for (const [offset, entry] of bar.entries.entries()) if (displaced[offset]?.device === undefined) this.#ports[port + offset] = entry
  }

  /** Where v86 has moved a device of its own over ours meanwhile, that one stays. */
  #unmap(bar: IoBar): void {
    if (bar.mapped === undefined) return
    const { port, displaced } = bar.mapped
    for (const [offset, entry] of displaced.entries()) {
      if (entry !== undefined && this.#ports[port + offset] === bar.entries[offset]) this.#ports[port + offset] = entry
    }
    bar.mapped = undefined
  }

  #wrapReset(cpu: V86Cpu): void {
    const reboot = cpu.reboot_internal.bind(cpu)
    cpu.reboot_internal = () => {
      for (const slot of this.#slots.values()) {
        slot.device.fn.reset()
        this.#copyConfig(slot)
      }
      reboot()
    }
  }

  #wrapState(pci: V86Pci, emulator: V86Saver): void {
    const getState = pci.get_state.bind(pci)
    pci.get_state = () => [...getState(), [STATE_TAG, [...this.#asserted], ...[...this.#slots.values()].flatMap((slot) => [slot.id, slot.device.saveState()])]]
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
   * v86 restores registers and interrupt controllers, lines included, around this and RAM after it. To raise a line now could make
   * the processor take the interrupt with a stack that is not there yet.
   */
  #restore(state: readonly unknown[]): void {
    const [, asserted, ...pairs] = state.find((part): part is unknown[] => Array.isArray(part) && part[0] === STATE_TAG) ?? []
    const saved = new Map<unknown, unknown>()
    for (let i = 0; i + 1 < pairs.length; i += 2) saved.set(pairs[i], pairs[i + 1])
    this.#restoring = true
    try {
      for (const slot of this.#slots.values()) {
        const text = saved.get(slot.id)
        slot.device.restoreState(typeof text === "string" ? text : undefined)
        this.#copyConfig(slot)
      }
    } finally {
      this.#restoring = false
    }
    this.#asserted.clear()
    for (const id of Array.isArray(asserted) ? asserted : []) if (typeof id === "number") this.#asserted.add(id)
  }
}

function ioBar(fn: PciFunction, index: number, size: number): IoBar {
  return { index, entries: Array.from({ length: size }, (_, offset) => portEntry(fn, index, offset)), mapped: undefined }
}

function portEntry(fn: PciFunction, bar: number, offset: number): PortEntry {
  return {
    read8: () => fn.barRead(bar, offset, 1),
    read16: () => fn.barRead(bar, offset, 2),
    read32: () => fn.barRead(bar, offset, 4) | 0,
    write8: (value) => fn.barWrite(bar, offset, 1, value & 0xff),
    write16: (value) => fn.barWrite(bar, offset, 2, value & 0xffff),
    write32: (value) => fn.barWrite(bar, offset, 4, value >>> 0),
    device: fn,
  }
}
