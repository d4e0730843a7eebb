/**
 * Machine: a virtual machine without a processor: RAM, a PCI bus and an interrupt sink. Whoever runs the guest (an emulator, the driver in
 * driver/, a test) uses port I/O, MMIO, RAM and the interrupt state. memory-map.ts has the address map.
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
  /** Bytes of RAM, from guest-physical 0, at most 3 GiB. Default with `memory`: all of it, even as it grows. */
  readonly ramSize?: number
  /** The RAM. A WebAssembly.Memory may grow while the machine runs. Default: a new ArrayBuffer. */
  readonly memory?: ArrayBufferLike | Uint8Array | { readonly buffer: ArrayBufferLike; grow(pages: number): number }
  /** Called after a device stored into `length` bytes of RAM at `address`. */
  readonly written?: (address: number, length: number) => void
  /**
   * Called when a function has left the bus, because the guest has ejected `slot`, or the machine was reset after `requestEject`.
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

/** A virtual machine without a processor: RAM, a PCI bus and an interrupt sink. */
export class Machine {
  readonly #memory: LinearMemory
  /** The level of every interrupt line, and the MSI messages in order. */
  readonly interrupts = new Interrupts()
  /** Bus 0. Use the machine's `plug` and `unplug`, which assign interrupts and addresses, not those of the bus. */
  readonly pci = new PciBus()
  readonly #configMechanism = new ConfigMechanism1(this.pci)
  readonly #slots: PciSlots
  readonly #mmioDisks: MmioDisks

  /** @throws TypeError for wrong options, RangeError for a wrong RAM size */
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

  /** The guest's RAM: index = guest-physical address. Do not keep it if a WebAssembly.Memory may grow, which replaces it. */
  get ram(): Uint8Array {
    this.#memory.refresh()
    const region = this.#memory.region(0)
    if (region === undefined) throw new Error("the machine's RAM is gone: its buffer was detached")
    return region.bytes
  }

  /**
   * Reads `width` bytes at I/O port `port`, as `in` does: PCI configuration mechanism #1, ACPI hot-plug, then I/O BARs. Returns all ones if
   * nothing answers.
   */
  portRead(port: number, width: AccessWidth): number {
    checkWidth(width)
    if (this.#configMechanism.claims(port)) return this.#configMechanism.read(port, width)
    return this.#slots.hotplug.claims(port) ? this.#slots.hotplug.read(port, width) : this.pci.ioRead(port, width)
  }

  /** Writes the low `width` bytes of `value` to I/O port `port`, as `out` does. Dropped if nothing answers. */
  portWrite(port: number, width: AccessWidth, value: number): void {
    checkWidth(width)
    if (this.#configMechanism.claims(port)) this.#configMechanism.write(port, width, value)
    else if (this.#slots.hotplug.claims(port)) this.#slots.hotplug.write(port, width, value)
    else this.pci.ioWrite(port, width, value)
  }

  /**
   * Reads `width` bytes at guest-physical `address`, as a load does: RAM (which wins over a BAR), the ECAM, virtio-mmio registers, then
   * memory BARs. Returns all ones if nothing answers.
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
   * Writes the low `width` bytes of `value` at guest-physical `address`, as a store does; decoded as in `mmioRead`. Dropped if nothing
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
   * Puts a virtio-blk disk over `backing` on the bus, even while the machine runs. The caller closes the backing, see `detachDisk`.
   * @throws TypeError for a wrong backing or option, RangeError for an option out of range, and the errors of `plug`
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
   * Takes the disk out of `slot` at once, like pulling a cable: see `unplug`. Returns its device. After its `whenIdle` has resolved,
   * nothing uses the backing, and you may close it.
   * @throws Error if there is no disk in the slot, and the errors of `unplug`
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
   * Adds a virtio-blk disk over `backing` with memory-mapped registers (virtio-mmio), even while the machine runs. The guest cannot
   * discover it: the result has the text for its device tree or its kernel's command line. Otherwise like `attachDisk`.
   * @throws TypeError and RangeError as `attachDisk`, Error when all 256 places are occupied
   */
  attachMmioDisk(backing: VirtioBacking, options: AttachMmioDiskOptions = {}): AttachedMmioDisk {
    return this.#mmioDisks.attach(backing, options)
  }

  /**
   * Removes the disk with registers at `address` at once, like `detachDisk`. Returns its device.
   * @throws Error if there is none
   */
  detachMmioDisk(address: number): VirtioBlk {
    return this.#mmioDisks.detach(address)
  }

  /**
   * Puts a function into `slot` (default: the first empty one from 1 on), even while the machine runs. It gets addresses, an interrupt
   * line, and I/O and memory decoding, as from firmware. A guest with ACPI hot-plug is told of function 0, and then looks for the others of
   * its slot, so plug those first.
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
   * Takes the function out of `slot` at once, like pulling a card: it no longer answers, its interrupt is dropped, its addresses are free.
   * A guest with ACPI hot-plug is told of function 0. Returns the function; undefined if there is none.
   * @throws Error for function 0 while the slot has others, which no guest finds without it
   */
  unplug(slot: number, functionNumber = 0): PciFunction | undefined {
    return this.#slots.unplug(slot, functionNumber)
  }

  /**
   * Asks the guest to eject the functions in `slot`, by ACPI hot-plug (pci-hotplug.ts). When it does, they leave the bus, and the option
   * `ejected` is called for each. A guest may never answer; then `unplug` still works.
   * @throws Error if the slot has no function that `plug` put there
   */
  requestEject(slot: number): void {
    this.#slots.requestEject(slot)
  }

  /**
   * The reset line: every function and device returns to its power-on state; then firmware assigns resources again. RAM keeps its content,
   * and messages not yet taken stay.
   */
  reset(): void {
    this.#configMechanism.reset()
    this.#slots.reset()
    this.#mmioDisks.reset()
  }

  /** The RAM, if it contains `width` bytes at `address`. */
  #ramAt(address: number, width: AccessWidth): DataView | undefined {
    this.#memory.refresh()
    const region = this.#memory.region(address)
    return region !== undefined && address + width <= region.end ? region.data : undefined
  }
}

function isVirtioMmio(address: number): boolean {
  return address >= VIRTIO_MMIO_WINDOW.start && address < VIRTIO_MMIO_WINDOW.end
}

/** A check for JavaScript callers, who have no compiler. */
function checkWidth(width: number): void {
  if (width !== 1 && width !== 2 && width !== 4) throw new RangeError(`access width ${width}: 1, 2 or 4 bytes can be moved at once`)
}
