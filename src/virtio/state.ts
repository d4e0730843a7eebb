/** The saved state of a virtio device, as JSON values, and the check that it makes when it comes back: it may come from anywhere. */
import { VIRTQ_MAX_SIZE } from "./spec.ts"

/** Registers of a queue, and the index that its rings had reached. Addresses in bytes. */
export interface SavedQueue {
  readonly size: number
  readonly enabled: boolean
  readonly legacy: boolean
  readonly descriptorTable: number
  readonly availRing: number
  readonly usedRing: number
  readonly position: number
}

/** What `saveState` of a device returns: JSON values. */
export interface VirtioDeviceState {
  readonly status: number
  /** Feature bits of the driver, 0 to 31 and 32 to 63. */
  readonly features: readonly number[]
  readonly generation: number
  readonly queues: readonly SavedQueue[]
  /** The device configuration space. */
  readonly config: readonly number[]
}

/** What a device of the same make looks like. */
export interface DeviceShape {
  readonly queues: number
  readonly queueSize: number
  readonly configSize: number
}

/** Throws an Error with one line for anything that is no state of a device of this shape. What addresses point to is looked at when they are used. */
export function parseDeviceState(value: unknown, shape: DeviceShape): VirtioDeviceState {
  const state = record(value, "virtio device")
  return {
    status: whole(state["status"], "status", 0xff),
    features: list(state["features"], "features", 2).map((bits) => whole(bits, "features", 0xffff_ffff)),
    generation: whole(state["generation"], "configuration generation", 0xff),
    queues: list(state["queues"], "queues", shape.queues).map((queue) => parseQueue(queue, shape.queueSize)),
    config: list(state["config"], "configuration", shape.configSize).map((byte) => whole(byte, "configuration", 0xff)),
  }
}

function parseQueue(value: unknown, maxSize: number): SavedQueue {
  const queue = record(value, "queue")
  const size = whole(queue["size"], "queue size", Math.min(maxSize, VIRTQ_MAX_SIZE))
  if (size < 1 || (size & (size - 1)) !== 0) throw new Error(`saved state: queue size ${size} is no power of two`)
  const address = (part: string): number => {
    const number = queue[part]
    if (typeof number === "number" && number >= 0 && number <= 2 ** 64) return number
    throw new Error(`saved state: ${part}: ${JSON.stringify(number)} is no address`)
  }
  return {
    size,
    enabled: queue["enabled"] === true,
    legacy: queue["legacy"] === true,
    descriptorTable: address("descriptorTable"),
    availRing: address("availRing"),
    usedRing: address("usedRing"),
    position: whole(queue["position"], "queue position", 0xffff),
  }
}

function record(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null) throw new Error(`saved state: ${what}: no object`)
  return { ...value }
}

function list(value: unknown, what: string, length: number): unknown[] {
  if (!Array.isArray(value) || value.length !== length) throw new Error(`saved state: ${what}: no list of ${length}`)
  return value
}

function whole(value: unknown, what: string, max: number): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > max) throw new Error(`saved state: ${what}: ${JSON.stringify(value)} is no number from 0 to ${max}`)
  return value
}
