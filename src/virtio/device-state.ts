/** Saves and restores a virtio device: the driver's setup, and the positions of the rings. */
import { checkOptions } from "../options.ts"
import { STATE_VERSION } from "../saved-state.ts"
import type { DeviceConfig } from "./device-config.ts"
import type { DeviceHandler } from "./device-handler.ts"
import type { Negotiation } from "./negotiation.ts"
import type { Pauses } from "./pauses.ts"
import type { TakenChain } from "./queue/ring.ts"
import { VirtqueueError } from "./queue/virtqueue-error.ts"
import { DEVICE_STATUS } from "./spec.ts"
import {
  featuresMissing, parseDeviceState, RESTORE_RULES, type RestoreOptions, SAVE_RULES, type SaveOptions, type VirtioDeviceState,
  wordsToFeatures,
} from "./state.ts"
import type { Virtqueue } from "./virtqueue.ts"

const { DEVICE_NEEDS_RESET, DRIVER_OK, FEATURES_OK, SUSPEND } = DEVICE_STATUS

/** The parts of a device that saving and restoring need. */
export interface SavableDevice {
  readonly negotiation: Negotiation
  readonly config: DeviceConfig
  readonly queues: readonly Virtqueue[]
  readonly maxQueueSize: number
  /** The chains of `queue` that were taken and not yet used. */
  chains(queue: Virtqueue): readonly TakenChain[]
  /** Nothing is in flight. */
  readonly isIdle: boolean
  readonly inFlight: { readonly count: number; readonly calls: number }
  readonly pauses: Pick<Pauses, "isPaused" | "pause" | "resume">
  readonly suspension: { readonly hasChanges: boolean }
  /** Tells the driver of a change of the configuration space, once it is not suspended. */
  configChanged(): void
  /** Makes the used entries of `queue` visible. */
  show(queue: Virtqueue): void
  reset(): void
  setDriverFeatures(select: number, value: number): void
  writeStatus(value: number): void
  /** Sets DEVICE_NEEDS_RESET. */
  stop(error: VirtqueueError): void
}

/** Feature bits 0 to 31, and 32 to 63. */
function featuresToWords(features: bigint): number[] {
  return [Number(features & 0xffff_ffffn), Number(features >> 32n)]
}

/** The device type's part. */
type SavedHandler = Pick<DeviceHandler, "saveState" | "restoreState" | "restoreConfig">

export function saveDevice(device: SavableDevice, handler: SavedHandler, options: SaveOptions): VirtioDeviceState {
  checkOptions("saveState", options, SAVE_RULES)
  if (!device.isIdle && options.inFlight === undefined) {
    const count = Math.max(device.inFlight.count, device.inFlight.calls)
    throw new Error(`${count} requests in flight: pause the device, and save its state when that has resolved`)
  }
  // Inside a turn, completed requests are published first.
  for (const queue of device.queues) device.show(queue)
  // Interrupts may have replaced the memory, and looking for RAM calls the embedder, who may do anything: this comes before what is saved.
  const chains = device.queues.map((queue) => device.chains(queue))
  const { negotiation, config } = device
  return {
    version: STATE_VERSION,
    status: negotiation.savedStatus,
    features: [negotiation.driverFeatures(0), negotiation.driverFeatures(1)],
    accepted: featuresToWords(negotiation.accepted),
    generation: config.readGeneration(),
    queues: device.queues.map((queue, index) => queue.save(chains[index] ?? [])),
    config: config.bytes(),
    ...(device.suspension.hasChanges && { configChanges: true }),
    own: handler.saveState?.(),
  }
}

/** Restores the state that `saveDevice` returned, and pauses the device. @throws Error, with the device reset, for any other state */
export function restoreDevice(device: SavableDevice, handler: SavedHandler, saved: unknown, options: RestoreOptions): void {
  checkOptions("restoreState", options, RESTORE_RULES)
  const { pauses } = device
  const { isPaused } = pauses
  void pauses.pause()
  device.reset()
  try {
    restoreParts(device, handler, saved, options)
  } catch (error) {
    device.reset()
    // After a failure the driver starts from a reset device, and nobody will call `resume` for it.
    if (!isPaused) pauses.resume()
    throw error
  }
}

function restoreParts(device: SavableDevice, handler: SavedHandler, saved: unknown, options: RestoreOptions): void {
  const { queues, maxQueueSize, config } = device
  const state = parseDeviceState(saved, { queues: queues.length, queueSize: maxQueueSize, configSize: config.size })
  const restoreOwn = handler.restoreState?.(state.own, options)
  // For a legacy driver no FEATURES_OK would fail later.
  const missing = wordsToFeatures(state.accepted ?? []) & ~device.negotiation.offered
  if (missing !== 0n) throw featuresMissing(missing)
  for (const [select, bits] of state.features.entries()) device.setDriverFeatures(select, bits)
  for (const [index, queue] of state.queues.entries()) queues[index]?.restore(queue)
  const isSuspended = (state.status & SUSPEND) !== 0
  const status = (state.status & ~(DEVICE_NEEDS_RESET | SUSPEND)) | (isSuspended ? DRIVER_OK : 0)
  // The status is 0 already; writing 0 would be a reset.
  if (status !== 0) device.writeStatus(status)
  // Requests in flight must be taken again before that.
  if (isSuspended) device.writeStatus(status | SUSPEND)
  if (((device.negotiation.status ^ state.status) & FEATURES_OK) !== 0) {
    throw featuresMissing(wordsToFeatures(state.features) & ~device.negotiation.offered)
  }
  config.restoreGeneration(state.generation)
  restoreOwn?.()
  handler.restoreConfig(Uint8Array.from(state.config))
  if (state.configChanges === true) device.configChanged()
  // The interrupt that told the driver is in the saved state of the transport.
  if ((state.status & DEVICE_NEEDS_RESET) !== 0) device.stop(new VirtqueueError("it was broken when its state was saved"))
}
