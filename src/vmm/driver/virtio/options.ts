/** What the owner of a `VirtioDriver` passes in, and what it hears. */
import { checkCount, checkMembers, checkOptions, type Rules } from "../../../options.ts"
import { checkPciDevice, type PciDevice } from "../pci/device.ts"
import type { RamAllocator } from "../ram-allocator.ts"
import { checkFeatureChoice, type FeatureChoice } from "./features.ts"
import type { TransportOptions } from "./open-transport.ts"
import type { SplitRing } from "./split-ring.ts"
import type { InterruptMode } from "./virtio-interrupts.ts"

/** Options of `VirtioDriver`. */
export interface VirtioDriverOptions extends TransportOptions {
  readonly features?: FeatureChoice
  /** Default: MSI-X where the device has it, else its interrupt line, else none. */
  readonly interrupts?: InterruptMode
  /** The largest ring to use: a power of two. Legacy devices ignore it: their queue size is fixed. Default: the device's. */
  readonly queueSize?: number
  /** Where rings and buffers come from. Default: `RamAllocator.of(platform)`. */
  readonly memory?: RamAllocator
  /** How long a reset may take, in milliseconds. Default 5000. */
  readonly resetTimeout?: number
}

export const VIRTIO_DRIVER_RULES: Rules<VirtioDriverOptions> = {
  transport: ["modern", "legacy"], access: ["bar", "window"], features: "object?", interrupts: ["msix", "intx", "none"],
  queueSize: "number?", memory: "object?", resetTimeout: "number?",
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

/** One virtqueue that is in use. */
export interface VirtioQueue {
  readonly index: number
  readonly ring: SplitRing
  /** Its MSI-X vector, or `NO_VECTOR`. */
  readonly vector: number
}

/** @throws TypeError that names what is wrong */
export function checkVirtioDriverArguments(pci: PciDevice, events: VirtioDriverEvents, options: VirtioDriverOptions): void {
  checkPciDevice("VirtioDriver", pci)
  const rules: Rules<VirtioDriverEvents> = { used: "function", configurationChanged: "function", superseded: "function" }
  checkMembers("VirtioDriver", "events", events, rules, "VirtioDriverEvents")
  checkOptions("VirtioDriver", options, VIRTIO_DRIVER_RULES)
  checkCount("VirtioDriver", "queueSize", options.queueSize, 1, 32768)
  checkCount("VirtioDriver", "resetTimeout", options.resetTimeout, 0)
  if (options.features !== undefined) checkFeatureChoice("VirtioDriver", options.features)
}
