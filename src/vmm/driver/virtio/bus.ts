/**
 * VirtioBus: a virtio device as the driver finds it in its machine: how its registers are reached, and where its interrupts come from. A
 * function on PCI (pci-bus.ts) and memory-mapped registers (mmio/mmio-device.ts) are two; a test may bring another.
 */
import { checkMembers, type Rules } from "../../../options.ts"
import type { MsixTable } from "../pci/msix.ts"
import type { Platform } from "../platform.ts"
import type { DriverTransport } from "./transport.ts"

/** A virtio device in its machine. */
export interface VirtioBus {
  readonly platform: Platform
  /** How messages call it. No two devices of a platform have the same name. */
  readonly name: string
  /** Its interrupt line, undefined where it has none. */
  readonly interruptLine?: number | undefined
  /**
   * Switches the device on, and looks for its registers. Called again before each start: they may be elsewhere by then.
   * @throws DriverError when there is no such device
   */
  open(): DriverTransport
  /** False when the registers are no longer where `open` found them, or another device is there now. */
  isInPlace(): boolean
  /** The driver is done: the device need not access memory any more. */
  close?(): void
  /** Its MSI-X table, undefined where it has none. */
  msix?(): MsixTable | undefined
  /** Lets the device raise its line, or keeps it from that, where it has such a switch. */
  switchLine?(on: boolean): void
}

const VIRTIO_BUS_RULES: Rules<VirtioBus> = {
  platform: "object", name: "string", interruptLine: "number?", open: "function", isInPlace: "function", close: "function?",
  msix: "function?", switchLine: "function?",
}

/** @throws TypeError when `bus`, given to `who`, is not a `VirtioBus` */
export function checkVirtioBus(who: string, bus: VirtioBus): void {
  checkMembers(who, "the device", bus, VIRTIO_BUS_RULES, "VirtioBus")
}
