/**
 * Machine: RAM, a PCI bus and an interrupt sink, wired: a virtual machine without a processor. What runs the guest (an emulator, the
 * driver in driver/, a test) reaches everything by port I/O, MMIO, RAM and the interrupt state. The map is in memory-map.ts.
 */
import { type VirtioBacking, checkBacking } from "../backing/backing.ts"
import { checkOptions, checkValue, pickOptions, type Rules } from "../options.ts"
import type { AccessWidth } from "../pci/access.ts"
import { placeName, PciBus } from "../pci/bus.ts"
import { ConfigMechanism1 } from "../pci/config-mechanism.ts"
import type { PciFunction } from "../pci/function.ts"
import { VIRTIO_BLK_RULES, type VirtioBlkOptions } from "../virtio/blk/config.ts"
import { VirtioBlk } from "../virtio/blk/device.ts"
import type { GuestMemory, LinearMemory } from "../virtio/guest-memory.ts"
import { VIRTIO_PCI_RULES, type VirtioPciOptions } from "../virtio/pci/pci-options.ts"
import { VirtioPciFunction } from "../virtio/pci/pci-transport.ts"
import { HostBridge } from "./host-bridge.ts"
import { Interrupts } from "./interrupts.ts"
import { ramOf } from "./machine-ram.ts"
import { ECAM_WINDOW, MAX_RAM_SIZE, VIRTIO_MMIO_WINDOW } from "./memory-map.ts"
import { type AttachedMmioDisk, type AttachMmioDiskOptions, MmioDisks } from "./mmio-disks.ts"
import { PciSlots, type PciWiring, type PluggedFunction } from "./pci-slots.ts"

export type { PciWiring, PluggedFunction } from "./pci-slots.ts"

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

/** Options of `Machine.attachDisk`: those of the device, of its PCI function, and its place. */
export interface AttachDiskOptions extends VirtioBlkOptions, VirtioPciOptions {
  /** 1 to 31. Default: the first empty one. */
  readonly slot?: number
  /** 0 to 7: a slot may hold eight disks, each a function of one device. Default 0. */
  readonly functionNumber?: number
}

const MACHINE_RULES: Rules<MachineOptions> = { ramSize: "number?", memory: "object?", written: "function?", ejected: "function?" }
const ATTACH_DISK_RULES: Rules<AttachDiskOptions> = { ...VIRTIO_BLK_RULES, ...VIRTIO_PCI_RULES, slot: "number?", functionNumber: "number?" }

/** A disk on the bus. */
export interface AttachedDisk extends PluggedFunction<VirtioPciFunction> {
  readonly device: VirtioBlk
}

/** RAM, a PCI bus and an interrupt sink, wired: all of a virtual machine but the processor. */
export class Machine {
  readonly #memory: LinearMemory
  /** The level of every interrupt line, and the MSI messages in order. */
  readonly interrupts = new Interrupts()
  /** Bus 0. Use `plug` and `unplug` of the machine rather than those of the bus: they see to interrupts and addresses. */
  readonly pci = new PciBus()
  readonly #configMechanism = new ConfigMechanism1(this.pci)
  readonly #slots: PciSlots
  readonly #mmioDisks: MmioDisks

  /** @throws TypeError for wrong options, RangeError for a RAM size that cannot be */
  constructor(options: MachineOptions) {
    checkOptions("Machine", options, MACHINE_RULES)
    this.#memory = ramOf(options)
    this.pci.plug(0, new HostBridge())
    this.#mmioDisks = new MmioDisks(this.#memory, this.interrupts)
    this.#slots = new PciSlots({ bus: this.pci, interrupts: this.interrupts, memory: this.#memory, ejected: options.ejected })
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
    return this.#slots.hotplug.claims(port) ? this.#slots.hotplug.read(port, width) : this.pci.ioRead(port, width)
  }

  /** Writes the low `width` bytes of `value` to I/O port `port`, as `out` does. Dropped where nothing answers. */
  portWrite(port: number, width: AccessWidth, value: number): void {
    checkWidth(width)
    if (this.#configMechanism.claims(port)) this.#configMechanism.write(port, width, value)
    else if (this.#slots.hotplug.claims(port)) this.#slots.hotplug.write(port, width, value)
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
    const make = (wiring: PciWiring): VirtioPciFunction => new VirtioPciFunction(device, { ...transport, ...wiring })
    return { ...this.plug(options.slot, make, options.functionNumber), device }
  }

  /**
   * Takes the disk out of `slot` at once, as when a cable is pulled: see `unplug`. Returns its device: once its `whenIdle` has
   * resolved nothing uses the backing any more, and it may be closed.
   * @throws Error when there is no disk in the slot, and what `unplug` throws
   */
  detachDisk(slot: number, functionNumber = 0): VirtioBlk {
    const fn = this.pci.function(slot, functionNumber)
    if (!(fn instanceof VirtioPciFunction) || !(fn.device instanceof VirtioBlk)) {
      throw new Error(`${placeName(slot, functionNumber)} holds no disk`)
    }
    this.unplug(slot, functionNumber)
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
   * interrupt line, and I/O and memory decoding, as from firmware. A guest that listens to ACPI hot-plug events is told of function 0, and
   * looks for the others of its slot then: plug these before it.
   * @param make makes the function, given the RAM and the interrupts it is to use
   * @param functionNumber 0 to 7: one slot holds as many functions. Default 0
   * @throws RangeError when there is no such slot or no room for its BARs, Error when the place is occupied or no slot is free
   * @throws TypeError for arguments of the wrong type
   */
  plug<F extends PciFunction>(slot: number | undefined, make: (wiring: PciWiring) => F, functionNumber?: number): PluggedFunction<F> {
    checkValue("Machine.plug", "slot", slot, "number?")
    checkValue("Machine.plug", "make", make, "function")
    checkValue("Machine.plug", "functionNumber", functionNumber, "number?")
    return this.#slots.plug(slot, make, functionNumber)
  }

  /**
   * Takes the function out of `slot` at once, as when a card is pulled: nothing of it can be reached, its interrupt is dropped, its
   * addresses are free. A guest that listens to ACPI hot-plug events is told of function 0. Returns the function; undefined when there is
   * none.
   * @throws Error for function 0 while the slot has others: without it no guest finds them
   */
  unplug(slot: number, functionNumber = 0): PciFunction | undefined {
    return this.#slots.unplug(slot, functionNumber)
  }

  /**
   * Asks the guest to give up the functions in `slot`, by ACPI hot-plug (pci-hotplug.ts). When it does, they leave the bus and `ejected` of
   * the options is called for each. A guest may never answer; `unplug` is still possible then.
   * @throws Error when there is nothing in the slot that `plug` put there
   */
  requestEject(slot: number): void {
    this.#slots.requestEject(slot)
  }

  /**
   * The reset line: every function and device as after power-on, then firmware's work again. RAM keeps its contents, messages not yet taken
   * stay.
   */
  reset(): void {
    this.#configMechanism.reset()
    this.#slots.reset()
    this.#mmioDisks.reset()
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
