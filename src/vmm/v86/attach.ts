/** attachToV86: a virtio disk for an unchanged v86 (github.com/copy/v86). */
import { checkBacking, type VirtioBacking } from "../../backing/backing.ts"
import { checkMembers, checkOptions, pickOptions, type Rules } from "../../options.ts"
import { VIRTIO_BLK_RULES, type VirtioBlkOptions } from "../../virtio/blk/config.ts"
import { VirtioBlk } from "../../virtio/blk/device.ts"
import type { VirtioPciInterface } from "../../virtio/pci/pci-options.ts"
import { VirtioPciFunction } from "../../virtio/pci/pci-transport.ts"
import { type V86Device, V86Host } from "./host.ts"
import { V86Memory } from "./memory.ts"
import { checkMachine, type V86Cpu, type V86Saver } from "./v86.ts"

/** What we use of v86's `V86` object. */
export interface V86Emulator extends V86Saver {
  add_listener(event: "emulator-ready", listener: () => void): void
}

/** Options of `attachToV86`: those of `VirtioBlk`, and how v86 sees the disk. */
export interface V86DiskOptions extends VirtioBlkOptions {
  /** Number of request queues. Default 2: without ACPI, Linux then uses no I/O scheduler (see `QUEUES`). */
  readonly queues?: number
  /** PCI device number, 1 to 31. Default: a free one, if possible one that does not share the interrupt of v86's usual network card. */
  readonly slot?: number
  /**
   * Which drivers can use the disk: "transitional" all of them (the default), "modern" those of virtio 1.0 and later, "legacy" older ones.
   */
  readonly interface?: VirtioPciInterface
  /**
   * Which image a saved state may be restored over: "same": only the image of the saved state, unchanged since. "any": also a copy, for
   * whose content the caller answers. Default "any".
   */
  readonly restoreImage?: "same" | "any"
}

const V86_DISK_RULES: Rules<V86DiskOptions> = {
  ...VIRTIO_BLK_RULES, slot: "number?", interface: ["transitional", "modern", "legacy"], restoreImage: ["same", "any"],
}
const V86_EMULATOR_RULES: Rules<V86Emulator> = { add_listener: "function", save_state: "function", restore_state: "function" }

/** A disk in a v86 machine. */
export interface V86Disk {
  readonly device: VirtioBlk
  /** Its PCI slot; undefined before the machine exists, and after the disk has left it. */
  readonly slot: number | undefined
  /**
   * Takes the disk out of the machine at once, like pulling a cable. A guest with ACPI hot-plug is told afterwards. Prefer `eject` if
   * possible: Linux's modern driver waits forever for the reset of a device that is gone (6.1). Resolves when no request is in flight: then
   * you may close the backing.
   */
  detach(): Promise<void>
  /**
   * Asks the guest to eject the disk, which needs ACPI hot-plug (see `attachToV86`). Resolves when the disk has left the machine and no
   * request is in flight: then you may close the backing. A guest may never answer; then `detach` still works.
   * @throws Error (as a rejection) if the machine has no ACPI
   */
  eject(): Promise<void>
}

/**
 * Slots for disks, in order of preference. v86 uses 0, 1, 5 to 8, 10 to 12, 18 and 30 itself. SeaBIOS routes the first eight to
 * interrupt 11 and v86's network card (slot 5) to 10. With a shared interrupt each driver's handler also runs for the other's device.
 */
const SLOTS = [15, 16, 19, 20, 23, 24, 27, 28, 13, 14, 17, 21, 22, 25, 26, 29, 31]

/**
 * Linux uses one queue for each processor that it allows for, and no I/O scheduler for a disk with more than one queue. It then issues
 * a request at once instead of through a kernel thread: a 4 KiB read takes 9 thousand instructions instead of 19 thousand, 117 us instead
 * of 279 us (Linux 6.1). v86 has one processor; without ACPI, Linux allows for two. With ACPI it allows for one.
 */
const QUEUES = 2

const hosts = new WeakMap<V86Emulator, V86Host>()

/**
 * Puts a disk over `backing` on the PCI bus of a v86 machine. Call it right after `new V86(...)`, so that the BIOS finds the disk.
 *
 * Disks can be attached and detached while the machine runs. With `acpi: true` and a disk attached before the start, the guest is told
 * (Linux finds the disk, and releases it after `eject`). Otherwise the guest must look for disks (Linux: `echo 1 >/sys/bus/pci/rescan`),
 * and should release the disk before `detach` (Linux: `echo 1 >/sys/bus/pci/devices/0000:00:0f.0/remove`).
 *
 * The disk is reset with the machine. `emulator.save_state()` waits for requests in flight, flushes the backing and includes the device,
 * but not the content of the disk: stop the emulator, save the state, copy the image, go on. Restore into a machine with the same disks in
 * the same slots over that copy. The caller closes the backing.
 *
 * @throws TypeError for a wrong emulator, backing or option; RangeError for an option out of range
 * @throws Error if the slot is taken (from v86's event if the machine does not exist yet)
 */
export function attachToV86(emulator: V86Emulator, backing: VirtioBacking, options: V86DiskOptions = {}): V86Disk {
  checkMembers("attachToV86", "the emulator", emulator, V86_EMULATOR_RULES, "V86Emulator")
  checkBacking("attachToV86", backing)
  checkOptions("attachToV86", options, V86_DISK_RULES)
  const device = new VirtioBlk(backing, { queues: QUEUES, ...pickOptions(options, VIRTIO_BLK_RULES) })
  if (options.slot !== undefined && (!Number.isInteger(options.slot) || options.slot < 1 || options.slot > 31)) {
    throw new RangeError(`slot ${options.slot}: 1 to 31`)
  }
  const disk = new AttachedDisk(device, options)
  const cpu = machineOf(emulator)
  if (cpu === undefined) emulator.add_listener("emulator-ready", () => disk.plug(emulator, readyMachine(emulator)))
  else disk.hotPlug(emulator, cpu)
  return disk
}

class AttachedDisk implements V86Disk {
  readonly device: VirtioBlk
  readonly #options: V86DiskOptions
  #place: Place | undefined
  #isDetached = false
  readonly #gone: Promise<void>
  #left = (): void => undefined

  constructor(device: VirtioBlk, options: V86DiskOptions) {
    this.device = device
    this.#options = options
    this.#gone = new Promise((resolve) => {
      this.#left = resolve
    })
  }

  get slot(): number | undefined {
    return this.#place?.slot
  }

  /** Plugs the disk into a machine that has not run. */
  plug(emulator: V86Emulator, cpu: V86Cpu): void {
    if (this.#isDetached) return
    const place = findPlace(emulator, cpu, this.#options)
    place.host.plug(place.slot, this.#hosted(place))
    this.#place = place
  }

  /** Plugs the disk into a running machine. */
  hotPlug(emulator: V86Emulator, cpu: V86Cpu): void {
    const place = findPlace(emulator, cpu, this.#options)
    place.host.hotPlug(place.slot, this.#hosted(place))
    this.#place = place
  }

  detach(): Promise<void> {
    this.#isDetached = true
    this.#place?.host.unplug(this.#place.slot)
    return this.device.whenIdle()
  }

  async eject(): Promise<void> {
    if (this.#place === undefined) return this.detach()
    this.#place.host.requestEject(this.#place.slot)
    await this.#gone
    await this.device.whenIdle()
  }

  #hosted(place: Place): V86Device {
    const removed = (): void => {
      this.#place = undefined
      this.#left()
    }
    return hostedDisk(this.device, place, { ...this.#options, removed })
  }
}

interface Place {
  readonly host: V86Host
  readonly cpu: V86Cpu
  readonly slot: number
}

function findPlace(emulator: V86Emulator, cpu: V86Cpu, options: V86DiskOptions): Place {
  const host = hosts.get(emulator) ?? hostOf(emulator, cpu)
  hosts.set(emulator, host)
  const slot = options.slot ?? SLOTS.find((candidate) => !host.occupied(candidate))
  if (slot === undefined) throw new Error("no PCI slot of the v86 machine is free")
  return { host, cpu, slot }
}

function hostOf(emulator: V86Emulator, cpu: V86Cpu): V86Host {
  checkMachine(cpu)
  return new V86Host(cpu, emulator)
}

function hostedDisk(device: VirtioBlk, place: Place, options: V86DiskOptions & { readonly removed: () => void }): V86Device {
  // v86 has no message-signalled interrupts, and cannot move memory BARs.
  const fn = new VirtioPciFunction(device, {
    memory: new V86Memory(place.cpu), interrupts: { intx: (level) => place.host.setInterrupt(place.slot, level), message: () => undefined },
    modernBar: "io", vectors: 0, interface: options.interface ?? "transitional",
  })
  // A stopped disk waits for its owner's `resume`.
  const resume = (): void => {
    if (device.stoppedBy === undefined) device.resume()
  }
  return {
    name: "virtio-blk",
    fn,
    removed: options.removed,
    pause: async () => {
      await device.pause()
      await device.backing.flush?.()
    },
    resume,
    saveState: () => JSON.stringify(fn.saveState()),
    restoreState: (state) => {
      if (state === undefined) fn.reset()
      else fn.restoreState(parsed(state, place.slot), { image: options.restoreImage ?? "any" })
      // Requests can be served only after v86 has restored RAM, which it does before it returns to the event loop.
      setTimeout(resume, 0)
    },
  }
}

/** @throws Error for anything but JSON, such as a text that is cut off */
function parsed(state: string, slot: number): unknown {
  try {
    return JSON.parse(state) as unknown
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error
    throw new Error(`saved state: the disk in PCI slot ${slot}: not JSON`, { cause: error })
  }
}

/** The machine, once `emulator-ready` has been sent. */
function machineOf(emulator: unknown): V86Cpu | undefined {
  const cpu = (emulator as { readonly v86?: { readonly cpu?: V86Cpu } }).v86?.cpu
  return cpu?.devices?.pci === undefined || cpu.devices.pci === null ? undefined : cpu
}

function readyMachine(emulator: unknown): V86Cpu {
  const cpu = machineOf(emulator)
  if (cpu === undefined) throw new Error("this is not a v86 machine with a PCI bus: emulator.v86.cpu.devices.pci is missing")
  return cpu
}
