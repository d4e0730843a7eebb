/**
 * Machine: RAM, a PCI bus and an interrupt sink, wired: a virtual machine without a processor. What runs the guest (an emulator, the
 * driver in driver/, a test) reaches everything by port I/O, MMIO, RAM and the interrupt state. The map is in memory-map.ts.
 */
import { type VirtioBacking, checkBacking } from "../backing/backing.ts"
import { checkOptions, checkValue, pickOptions, type Rules } from "../options.ts"
import type { AccessWidth } from "../pci/access.ts"
import { PCI_SLOTS, PciBus } from "../pci/bus.ts"
import { ConfigMechanism1 } from "../pci/config-mechanism.ts"
import type { PciFunction, PciInterrupts } from "../pci/function.ts"
import { VIRTIO_BLK_RULES, type VirtioBlkOptions } from "../virtio/blk/config.ts"
import { VirtioBlk } from "../virtio/blk/device.ts"
import type { GuestMemory, LinearMemory } from "../virtio/guest-memory.ts"
import { VIRTIO_PCI_RULES, VirtioPciFunction, type VirtioPciOptions } from "../virtio/pci/pci-transport.ts"
import { assignResources } from "./firmware.ts"
import { HostBridge } from "./host-bridge.ts"
import { type InterruptConnection, Interrupts } from "./interrupts.ts"
import { ramOf } from "./machine-ram.ts"
import { ECAM_WINDOW, interruptLine, MAX_RAM_SIZE, VIRTIO_MMIO_WINDOW } from "./memory-map.ts"
import { type AttachedMmioDisk, type AttachMmioDiskOptions, MmioDisks } from "./mmio-disks.ts"
import { PciHotplug, SCI_LINE } from "./pci-hotplug.ts"

/** Options of `Machine`. Sizes and addresses are in bytes. */
export interface MachineOptions {
  /** Bytes of RAM, from guest-physical 0, at most 3 GiB. May be left out when `memory` is given: all of it then, also what it grows by. */
  readonly ramSize?: number
  /** Where the RAM is. A WebAssembly.Memory may grow while the machine runs. Default: a new ArrayBuffer. */
  readonly memory?: ArrayBufferLike | Uint8Array | { readonly buffer: ArrayBufferLike; grow(pages: number): number }
  /** Called after a device stored into `length` bytes of RAM at `address`. */
  readonly written?: (address: number, length: number) => void
  /**
   * Called when the guest has given up the function in `slot`, or the machine was reset while it was asked to: the function has left the
   * bus.
   */
  readonly ejected?: (slot: number, fn: PciFunction) => void
}

/** What a function on the bus is wired to. */
export interface PciWiring {
  readonly memory: GuestMemory
  readonly interrupts: PciInterrupts
}

/** A function on the bus. */
export interface PluggedFunction<F extends PciFunction = PciFunction> {
  readonly slot: number
  readonly function: F
  /** The interrupt line that its pin is wired to. */
  readonly line: number
}

/** Options of `Machine.attachDisk`: those of the device, of its PCI function, and its place. */
export interface AttachDiskOptions extends VirtioBlkOptions, VirtioPciOptions {
  /** 1 to 31. Default: the first empty one. */
  readonly slot?: number
}

const MACHINE_RULES: Rules<MachineOptions> = { ramSize: "number?", memory: "object?", written: "function?", ejected: "function?" }
const ATTACH_DISK_RULES: Rules<AttachDiskOptions> = { ...VIRTIO_BLK_RULES, ...VIRTIO_PCI_RULES, slot: "number?" }

/** A disk on the bus. */
export interface AttachedDisk extends PluggedFunction<VirtioPciFunction> {
  readonly device: VirtioBlk
}

/** Slots 1 to 31, a bit for each. */
const ALL_BUT_HOST_BRIDGE = 0xffff_fffe

/** RAM, a PCI bus and an interrupt sink, wired: all of a virtual machine but the processor. */
export class Machine {
  readonly #memory: LinearMemory
  /** The level of every interrupt line, and the MSI messages in order. */
  readonly interrupts = new Interrupts()
  /** Bus 0. Use `plug` and `unplug` of the machine rather than those of the bus: they see to interrupts and addresses. */
  readonly pci = new PciBus()
  readonly #configMechanism = new ConfigMechanism1(this.pci)
  readonly #connections = new Map<number, InterruptConnection>()
  readonly #hotplug: PciHotplug
  readonly #mmioDisks: MmioDisks

  /** @throws TypeError for wrong options, RangeError for a RAM size that cannot be */
  constructor(options: MachineOptions) {
    checkOptions("Machine", options, MACHINE_RULES)
    this.#memory = ramOf(options)
    this.pci.plug(0, new HostBridge())
    this.#mmioDisks = new MmioDisks(this.#memory, this.interrupts)
    this.#hotplug = new PciHotplug({
      sci: this.interrupts.connect(SCI_LINE).intx,
      eject: (slot) => {
        const fn = this.#remove(slot)
        if (fn !== undefined) options.ejected?.(slot, fn)
      },
      removable: () => ALL_BUT_HOST_BRIDGE,
    })
  }

  /** Guest RAM as the devices see it. */
  get memory(): GuestMemory {
    return this.#memory
  }

  /** The guest's RAM: index = guest-physical address. Do not keep it where a WebAssembly.Memory may grow: that makes a new one. */
  get ram(): Uint8Array {
    this.#memory.refresh()
    const region = this.#memory.region(0)
    if (region === undefined) throw new Error("the machine's RAM is gone: its buffer was detached")
    return region.bytes
  }

  /**
   * Reads `width` bytes at I/O port `port`, as `in` does: PCI configuration mechanism #1, ACPI hot-plug, then I/O BARs. All ones where
   * nothing answers.
   */
  portRead(port: number, width: AccessWidth): number {
    checkWidth(width)
    if (this.#configMechanism.claims(port)) return this.#configMechanism.read(port, width)
    return this.#hotplug.claims(port) ? this.#hotplug.read(port, width) : this.pci.ioRead(port, width)
  }

  /** Writes the low `width` bytes of `value` to I/O port `port`, as `out` does. Dropped where nothing answers. */
  portWrite(port: number, width: AccessWidth, value: number): void {
    checkWidth(width)
    if (this.#configMechanism.claims(port)) this.#configMechanism.write(port, width, value)
    else if (this.#hotplug.claims(port)) this.#hotplug.write(port, width, value)
    else this.pci.ioWrite(port, width, value)
  }

  /**
   * Reads `width` bytes at guest-physical `address`, as a load does: RAM (which wins over a BAR), the ECAM, virtio-mmio registers, then
   * memory BARs. All ones where nothing answers.
   */
  mmioRead(address: number, width: AccessWidth): number {
    checkWidth(width)
    if (address < MAX_RAM_SIZE) {
      const data = this.#ramAt(address, width)
      if (data !== undefined) {
        return width === 1 ? data.getUint8(address) : width === 2 ? data.getUint16(address, true) : data.getUint32(address, true)
      }
    } else if (address < ECAM_WINDOW.end) {
      return this.pci.ecamRead(address - ECAM_WINDOW.start, width)
    } else if (isVirtioMmio(address)) {
      return this.#mmioDisks.read(address, width)
    }
    return this.pci.memoryRead(address, width)
  }

  /**
   * Writes the low `width` bytes of `value` at guest-physical `address`, as a store does; decoded as in `mmioRead`. Dropped where nothing
   * answers.
   */
  mmioWrite(address: number, width: AccessWidth, value: number): void {
    checkWidth(width)
    if (address < MAX_RAM_SIZE) {
      const data = this.#ramAt(address, width)
      if (data !== undefined) {
        return width === 1
          ? data.setUint8(address, value)
          : width === 2 ? data.setUint16(address, value, true) : data.setUint32(address, value, true)
      }
    } else if (address < ECAM_WINDOW.end) {
      return this.pci.ecamWrite(address - ECAM_WINDOW.start, width, value)
    } else if (isVirtioMmio(address)) {
      return this.#mmioDisks.write(address, width, value)
    }
    this.pci.memoryWrite(address, width, value)
  }

  /**
   * Puts a virtio-blk disk over `backing` on the bus, also while the machine runs. Who opened the backing closes it, see `detachDisk`.
   * @throws TypeError for a backing or an option that is none, RangeError for an option out of range, and what `plug` throws
   */
  attachDisk(backing: VirtioBacking, options: AttachDiskOptions = {}): AttachedDisk {
    checkBacking("Machine.attachDisk", backing)
    checkOptions("Machine.attachDisk", options, ATTACH_DISK_RULES)
    const device = new VirtioBlk(backing, pickOptions(options, VIRTIO_BLK_RULES))
    const transport = pickOptions(options, VIRTIO_PCI_RULES)
    return { ...this.plug(options.slot, (wiring) => new VirtioPciFunction(device, { ...transport, ...wiring })), device }
  }

  /**
   * Takes the disk out of `slot` at once, as when a cable is pulled: see `unplug`. Returns its device: once its `whenIdle` has
   * resolved nothing uses the backing any more, and it may be closed.
   * @throws Error when there is no disk in the slot
   */
  detachDisk(slot: number): VirtioBlk {
    const fn = this.pci.function(slot)
    if (!(fn instanceof VirtioPciFunction) || !(fn.device instanceof VirtioBlk)) throw new Error(`slot ${slot} holds no disk`)
    this.unplug(slot)
    return fn.device
  }

  /**
   * Puts a virtio-blk disk over `backing` behind memory-mapped registers (virtio-mmio), also while the machine runs. The guest does not
   * find it by itself: what is returned has the words for its device tree or its kernel's command line. Otherwise as `attachDisk`.
   * @throws TypeError and RangeError as `attachDisk`, Error when all 256 places are occupied
   */
  attachMmioDisk(backing: VirtioBacking, options: AttachMmioDiskOptions = {}): AttachedMmioDisk {
    return this.#mmioDisks.attach(backing, options)
  }

  /**
   * Takes the disk whose registers are at `address` away at once, as `detachDisk` does. Returns its device.
   * @throws Error when there is none
   */
  detachMmioDisk(address: number): VirtioBlk {
    return this.#mmioDisks.detach(address)
  }

  /**
   * Puts a function into `slot` (left out: the first empty one from 1 on), also while the machine runs. It gets addresses, an
   * interrupt line, and I/O and memory decoding, as from firmware. A guest that listens to ACPI hot-plug events is told.
   * @param make makes the function, given the RAM and the interrupts it is to use
   * @throws RangeError when there is no such slot or no room for its BARs, Error when the slot is occupied or none is free
   * @throws TypeError for arguments of the wrong type
   */
  plug<F extends PciFunction>(slot: number | undefined, make: (wiring: PciWiring) => F): PluggedFunction<F> {
    checkValue("Machine.plug", "slot", slot, "number?")
    checkValue("Machine.plug", "make", make, "function")
    const place = slot ?? this.#emptySlot()
    const line = interruptLine(place)
    const connection = this.interrupts.connect(line)
    try {
      const fn = make({ memory: this.memory, interrupts: connection })
      this.pci.plug(place, fn)
      this.#connections.set(place, connection)
      assignResources(this.pci, place, line)
      this.#hotplug.plugged(place)
      return { slot: place, function: fn, line }
    } catch (error) {
      if (this.#connections.get(place) === connection) this.#remove(place)
      connection.disconnect()
      throw error
    }
  }

  /**
   * Takes the function out of `slot` at once, as when a card is pulled: nothing of it can be reached, its interrupt is dropped, its
   * addresses are free. A guest that listens to ACPI hot-plug events is told. Returns the function; undefined when the slot is empty.
   */
  unplug(slot: number): PciFunction | undefined {
    const fn = this.#remove(slot)
    if (fn !== undefined) this.#hotplug.unplugged(slot)
    return fn
  }

  /**
   * Asks the guest to give up the function in `slot`, by ACPI hot-plug (pci-hotplug.ts). When it does, the function leaves the bus and
   * `ejected` of the options is called. A guest may never answer; `unplug` is still possible then.
   * @throws Error when there is nothing in the slot that `plug` put there
   */
  requestEject(slot: number): void {
    if (!this.#connections.has(slot)) throw new Error(`slot ${slot} holds nothing that can be ejected`)
    this.#hotplug.requestEject(slot)
  }

  /**
   * The reset line: every function and device as after power-on, then firmware's work again. RAM keeps its contents, messages not yet taken
   * stay.
   */
  reset(): void {
    this.#configMechanism.reset()
    this.#hotplug.reset()
    // All of them first: what is left of the old addresses must not stand in the way of the new ones.
    for (let slot = 0; slot < PCI_SLOTS; slot++) this.pci.function(slot)?.reset()
    this.#mmioDisks.reset()
    for (const slot of this.#connections.keys()) assignResources(this.pci, slot, interruptLine(slot))
  }

  #remove(slot: number): PciFunction | undefined {
    const connection = this.#connections.get(slot)
    if (connection === undefined) return undefined
    this.#connections.delete(slot)
    const fn = this.pci.unplug(slot)
    connection.disconnect()
    return fn
  }

  #emptySlot(): number {
    for (let slot = 1; slot < PCI_SLOTS; slot++) if (this.pci.function(slot) === undefined) return slot
    throw new Error(`all ${PCI_SLOTS} slots of the PCI bus are occupied; unplug something`)
  }

  /** The RAM, when it holds `width` bytes at `address`. */
  #ramAt(address: number, width: AccessWidth): DataView | undefined {
    this.#memory.refresh()
    const region = this.#memory.region(address)
    return region !== undefined && address + width <= region.end ? region.data : undefined
  }
}

function isVirtioMmio(address: number): boolean {
  return address >= VIRTIO_MMIO_WINDOW.start && address < VIRTIO_MMIO_WINDOW.end
}

/** JavaScript callers have no compiler to tell them. */
function checkWidth(width: number): void {
  if (width !== 1 && width !== 2 && width !== 4) throw new RangeError(`access width ${width}: 1, 2 or 4 bytes can be moved at once`)
}
