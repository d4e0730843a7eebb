/** The options of a `VirtioDriver`, and the events that its owner hears. */
import { checkCount, checkMembers, checkOptions, type Rules } from "../../../options.ts"
import { checkPciDevice, PciDevice } from "../pci/device.ts"
import type { Endian } from "../guest-ram.ts"
import type { RamAllocator } from "../ram-allocator.ts"
import { checkVirtioBus, type VirtioBus } from "./bus.ts"
import { checkFeatureChoice, type FeatureChoice } from "./features.ts"
import { PciBusDevice, type TransportOptions } from "./pci-bus.ts"
import type { PackedRing } from "./rings/packed-ring.ts"
import type { SplitRing } from "./rings/split-ring.ts"
import type { InterruptMode } from "./virtio-interrupts.ts"

/** Options of `VirtioDriver`. */
export interface VirtioDriverOptions extends TransportOptions {
  readonly features?: FeatureChoice
  /** Default: MSI-X where the device has it, else its interrupt line, else none. */
  readonly interrupts?: InterruptMode
  /**
   * The largest ring to use: a power of two, or for a packed ring any number. Legacy devices on PCI ignore it: their queue size is fixed.
   * Default: the device's.
   */
  readonly queueSize?: number
  /** Where rings and buffers come from. Default: `RamAllocator.of(platform)`. */
  readonly memory?: RamAllocator
  /** Byte order of what driver and device share, "big" for legacy devices of a big-endian guest only. Default "little". */
  readonly guestEndian?: Endian
  /** How long a reset may take, in milliseconds. Default 5000. */
  readonly resetTimeout?: number
}

export const VIRTIO_DRIVER_RULES: Rules<VirtioDriverOptions> = {
  transport: ["modern", "legacy"], access: ["bar", "window"], features: "object?", interrupts: ["msix", "intx", "none"],
  queueSize: "number?", guestEndian: ["little", "big"], memory: "object?", resetTimeout: "number?",
}

/** What a `VirtioDriver` tells its owner, from interrupt handlers. Must not throw. */
export interface VirtioDriverEvents {
  /** Buffers of this queue may have been used. */
  used(queue: VirtioQueue): void
  /** The configuration may have changed, or the device needs a reset: read both. */
  configurationChanged(): void
  /** Another driver has reset the device and taken it over. */
  superseded(): void
}

/** A ring of the kind that was negotiated. `features: { refuse: ["RING_PACKED"] }` prefers split ones. */
export type DriverRing = SplitRing | PackedRing

/** One virtqueue that is in use. */
export interface VirtioQueue {
  readonly index: number
  readonly ring: DriverRing
  /** Its MSI-X vector, or `NO_VECTOR`. */
  readonly vector: number
}

/** What a driver drives: a function on PCI, or any other `VirtioBus`, such as an `MmioDevice`. */
export function busOf(device: PciDevice | VirtioBus, options: TransportOptions): VirtioBus {
  return device instanceof PciDevice ? new PciBusDevice(device, options) : device
}

/** @throws TypeError when `device`, given to `who`, is neither a `PciDevice` nor a `VirtioBus` */
export function checkDevice(who: string, device: PciDevice | VirtioBus): void {
  if (typeof device === "object" && device !== null && "open" in device) checkVirtioBus(who, device)
  else checkPciDevice(who, device)
}

/** @throws TypeError that names what is wrong */
export function checkVirtioDriverArguments(
  device: PciDevice | VirtioBus, events: VirtioDriverEvents, options: VirtioDriverOptions,
): void {
  checkDevice("VirtioDriver", device)
  const rules: Rules<VirtioDriverEvents> = { used: "function", configurationChanged: "function", superseded: "function" }
  checkMembers("VirtioDriver", "events", events, rules, "VirtioDriverEvents")
  checkOptions("VirtioDriver", options, VIRTIO_DRIVER_RULES)
  checkCount("VirtioDriver", "queueSize", options.queueSize, 1, 32768)
  checkCount("VirtioDriver", "resetTimeout", options.resetTimeout, 0)
  if (options.features !== undefined) checkFeatureChoice("VirtioDriver", options.features)
}
