/**
 * The interfaces between a device and its transport (PCI, MMIO, or an embedder's own).
 *
 * A transport takes a `Transportable`, say a `VirtioBlk`, and calls `attach` once with the guest's memory and a `DeviceSignals`. From then
 * on it turns register accesses of its guest into calls of `TransportedDevice`: feature words and status in any order, a queue's size and
 * addresses (`queue`) before its `enable`, and `notify` for each kick. `DeviceSignals` tells it when to interrupt the guest. It checks
 * nothing: the device accepts any call at any time, with any unsigned number of the register's width, and ignores what a driver must not
 * do.
 */
import type { DeviceConfig } from "./device-config.ts"
import type { GuestMemory } from "./guest-memory.ts"
import type { Negotiation } from "./negotiation.ts"
import type { RestoreOptions, SaveOptions, VirtioDeviceState } from "./state.ts"

/** Calls from the device to the transport. */
export interface DeviceSignals {
  /** A used buffer notification for queue `index`. */
  queueInterrupt(index: number): void
  /** A configuration change notification. */
  configInterrupt(): void
  /** The device has been reset: forget vectors and pending interrupts. */
  deviceReset(): void
}

/** Passed by a transport to its device. */
export interface TransportWiring {
  readonly memory: GuestMemory
  readonly signals: DeviceSignals
  /** The transport has the legacy interface as well as the modern one. */
  readonly transitional: boolean
  /** Feature bits without a meaning on this transport, which are not offered. Default: none. */
  readonly withoutFeatures?: bigint
}

/** The name of a queue address ([VIRTIO] 4.1.4.3). */
export type QueueArea = "descriptorTable" | "availRing" | "usedRing"

/** The registers of one queue. Writes are ignored while the queue is enabled. */
export interface QueueRegisters {
  /** Number of descriptors; the maximum until the driver lowers it. */
  readonly size: number
  readonly enabled: boolean
  /** Guest-physical address, inexact above 2^53: `areaWord` is exact. */
  readonly descriptorTable: number
  /** Dword `word` of the three addresses, low half first: descriptor table, available ring, used ring. */
  areaWord(word: number): number
  /**
   * Lowers the size. Anything but a power of two up to the maximum is ignored ([VIRTIO] 4.1.4.3.2); with RING_PACKED negotiated, any size
   * up to the maximum is accepted.
   */
  setSize(size: number): void
  /** Sets a dword of the addresses, see `areaWord`. */
  setAreaWord(word: number, value: number): void
  /** Sets a whole address, below 2^53. */
  setArea(area: QueueArea, address: number): void
  /** Starts the queue. Only a reset, of the queue or of the device, stops it. */
  enable(options?: { readonly legacy: boolean }): void
}

/** A virtio device, as a transport uses it. Registers are read and written with unsigned numbers. */
export interface TransportedDevice {
  /** [VIRTIO] 5: the device type's number. */
  readonly deviceType: number
  readonly queueCount: number
  /** Maximum of descriptors of a queue. */
  readonly maxQueueSize: number
  /** Connects the device to its guest, once. */
  attach(wiring: TransportWiring): void
  /** PCI bus mastering: while it is off, guest memory is not touched. Other transports leave it on. */
  setBusMaster(enabled: boolean): void

  /** [VIRTIO] 2.1. */
  readonly status: number
  /** 0 resets the device at once: `status` reads 0, and no earlier request reaches the guest. */
  writeStatus(value: number): void
  /** The feature bits, as words of 32 bits: the offered ones, and those that the driver has written. */
  readonly negotiation: Pick<Negotiation, "deviceFeatures" | "legacyDeviceFeatures" | "driverFeatures" | "isNegotiated">
  setDriverFeatures(select: number, value: number): void

  /** Undefined when there is no such queue. */
  queue(index: number): QueueRegisters | undefined
  /** Stops a queue and sets its registers to their initial values, at once ([VIRTIO] 2.6.1). */
  resetQueue(index: number): void
  /** A kick. Spurious ones do no harm. */
  notify(index: number): void

  /** The device configuration space. */
  readonly config: Pick<DeviceConfig, "size" | "read" | "readGeneration" | "bigEndianOffset">
  writeConfig(offset: number, width: number, value: number): void

  /** The driver's setup, as JSON values. @throws Error while a request is in flight: `pause` first */
  saveState(options?: SaveOptions): VirtioDeviceState
  /**
   * Restores a state of `saveState`, and pauses the device. @throws Error for a state that does not fit: then the device is reset, and
   * paused only if it was before
   */
  restoreState(saved: unknown, options?: RestoreOptions): void
}

/** An object of a device type, with a device for transports. */
export interface Transportable {
  readonly virtio: TransportedDevice
}
