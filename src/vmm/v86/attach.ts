/**
 * attachToV86: a virtio disk for v86 (github.com/copy/v86). Nothing of v86 is imported, and v86 needs no change: what is used of it is
 * described structurally, by the names of its published build.
 */
import type { VirtioBacking } from "../../backing/backing.ts"
import type { VirtioBlkOptions } from "../../virtio/blk/config.ts"
import { VirtioBlk } from "../../virtio/blk/device.ts"
import { VirtioPciFunction, type VirtioPciInterface } from "../../virtio/pci/pci-transport.ts"
import { type V86Cpu, type V86Device, V86Host, type V86Saver } from "./host.ts"
import { V86Memory } from "./memory.ts"

/** What is used of v86's `V86` object. */
export interface V86Emulator extends V86Saver {
  add_listener(event: "emulator-ready", listener: () => void): void
}

export interface V86DiskOptions extends VirtioBlkOptions {
  /** Number of request queues. Default 2: Linux then uses no I/O scheduler (see `QUEUES`). */
  readonly queues?: number
  /** PCI device number, 1 to 31. Default: the first free one of those whose interrupt v86's usual network card does not share. */
  readonly slot?: number
  /** Which drivers can use it: any (the default), those of virtio 1.0 and later only, those of before 1.0 only. */
  readonly interface?: VirtioPciInterface
}

/** A disk in a v86 machine. */
export interface V86Disk {
  readonly device: VirtioBlk
  /** Its PCI slot, once the machine exists. */
  readonly slot: number | undefined
  /** Takes the disk out of the machine (the guest is not asked), and resolves when no request is in flight: then the backing may be closed. */
  detach(): Promise<void>
}

/**
 * Where disks go when nothing else is said. v86 takes 0, 1, 5 to 8, 10 to 12, 18 and 30 for itself. SeaBIOS routes the interrupt
 * pins of these slots to interrupt 11, that of v86's network card (slot 5) to 10: sharing costs each of them a look at the other.
 */
const SLOTS = [15, 16, 19, 20, 23, 24, 27, 28, 13, 14, 17, 21, 22, 25, 26, 29, 31]

/**
 * v86 has one processor, but Linux leaves room for a second one (nr_cpu_ids is 2), so it takes both queues; and for a disk with more
 * than one queue it chooses no I/O scheduler. Without one it issues a request where it is made, instead of through a kernel
 * thread: 11 thousand instructions for a 4 KiB read instead of 19 thousand, 117 us instead of 279 us (measured, Linux 6.1).
 */
const QUEUES = 2

const hosts = new WeakMap<V86Emulator, V86Host>()

/**
 * Puts a disk over `backing` on the PCI bus of a v86 machine. Call it right after `new V86(...)`, so that the BIOS finds the disk; disks
 * that are attached while the machine runs are found when the guest looks (Linux: `echo 1 > /sys/bus/pci/rescan`).
 *
 * The disk is reset with the machine. `emulator.save_state()` waits for requests in flight, flushes the backing and includes the
 * device; what is on the disk is not in the state: stop the emulator, save the state, copy the image, go on. Restore into a machine
 * with the same disks in the same slots over that copy. The backing stays the caller's to close.
 *
 * @throws RangeError when an option makes no sense; Error when the slot is taken (from v86's event when the machine did not exist yet)
 */
export function attachToV86(emulator: V86Emulator, backing: VirtioBacking, options: V86DiskOptions = {}): V86Disk {
  const device = new VirtioBlk(backing, { queues: QUEUES, ...options })
  if (options.slot !== undefined && (!Number.isInteger(options.slot) || options.slot < 1 || options.slot > 31)) throw new RangeError(`slot ${options.slot}: 1 to 31`)
  let place: { readonly host: V86Host; readonly slot: number } | undefined
  let detached = false
  const plug = (cpu: V86Cpu): void => {
    if (detached) return
    place = plugInto(emulator, cpu, device, options)
  }
  const cpu = machineOf(emulator)
  if (cpu === undefined) emulator.add_listener("emulator-ready", () => plug(readyMachine(emulator)))
  else plug(cpu)
  return {
    device,
    get slot() {
      return place?.slot
    },
    detach: () => {
      detached = true
      place?.host.unplug(place.slot)
      place = undefined
      return device.whenIdle()
    },
  }
}

function plugInto(emulator: V86Emulator, cpu: V86Cpu, device: VirtioBlk, options: V86DiskOptions): { host: V86Host; slot: number } {
  const host = hosts.get(emulator) ?? new V86Host(cpu, emulator)
  hosts.set(emulator, host)
  const slot = options.slot ?? SLOTS.find((candidate) => !host.occupied(candidate))
  if (slot === undefined) throw new Error("no PCI slot of the v86 machine is free")
  // v86 has no message signalled interrupts, and its memory BARs cannot move
  const fn = new VirtioPciFunction(device, {
    memory: new V86Memory(cpu), interrupts: { intx: (level) => host.setInterrupt(slot << 3, level), message: () => undefined },
    modernBar: "io", vectors: 0, interface: options.interface ?? "transitional",
  })
  host.plug(slot, hostedDisk(device, fn))
  return { host, slot }
}

function hostedDisk(device: VirtioBlk, fn: VirtioPciFunction): V86Device {
  return {
    name: "virtio-blk",
    fn,
    pause: async () => {
      await device.pause()
      await device.backing.flush?.()
    },
    resume: () => device.resume(),
    saveState: () => JSON.stringify(fn.saveState()),
    restoreState: (state) => {
      if (state === undefined) fn.reset()
      else fn.restoreState(JSON.parse(state))
      // v86 fills RAM before it comes back to the event loop: then requests that wait in it can be served
      setTimeout(() => device.resume(), 0)
    },
  }
}

/** The machine, once `emulator-ready` has been sent. */
function machineOf(emulator: unknown): V86Cpu | undefined {
  const cpu = (emulator as { readonly v86?: { readonly cpu?: V86Cpu } }).v86?.cpu
  return cpu?.devices?.pci === undefined ? undefined : cpu
}

function readyMachine(emulator: unknown): V86Cpu {
  const cpu = machineOf(emulator)
  if (cpu === undefined) throw new Error("this is no v86 machine with a PCI bus: emulator.v86.cpu.devices.pci is missing")
  return cpu
}
