/** The saved state of a virtio device, as JSON values, and the check of a state to restore, which may come from anywhere. */
import type { Rules } from "../options.ts"
import { checkStateVersion, savedList, savedNumber, savedNumbers, savedObject, shown } from "../saved-state.ts"
import { hasBit, VIRTIO_F, VIRTQ_MAX_SIZE } from "./spec.ts"

/** A 64-bit address: a number, or its low and high half where a number is not exact. */
export type SavedAddress = number | readonly [low: number, high: number]

/** A chain of a packed ring that was in flight when the state was saved. The ring may have other descriptors in its place now. */
export interface SavedChain {
  /** Buffer id. */
  readonly id: number
  /** Its descriptors in the ring, as four 32-bit words each. */
  readonly descriptors: readonly number[]
}

/** The position of a ring when its state was saved, with the chains in flight. */
export interface SavedRing {
  /**
   * Split ring: the index of the next used entry. Packed ring: the slot of the next used descriptor, and in bit 15 its wrap counter.
   */
  readonly position: number
  /** Number of used entries (or descriptors of a packed ring) before `position` that are not published yet. Default 0. */
  readonly unpublished?: number
  /** Split ring: the heads of the chains in flight. */
  readonly heads: readonly number[]
  /** IN_ORDER: chains that are done and wait for earlier ones, by their index in the list, with their used length. */
  readonly held?: readonly (readonly [index: number, length: number])[]
  /** Packed ring: the chains in flight. Absent if the ring was never used. */
  readonly chains?: readonly SavedChain[]
}

/** Registers of a queue, and the position of its ring. Addresses in bytes. */
export interface SavedQueue extends SavedRing {
  readonly size: number
  readonly enabled: boolean
  readonly legacy: boolean
  readonly descriptorTable: SavedAddress
  readonly availRing: SavedAddress
  readonly usedRing: SavedAddress
}

/** What `saveState` of a device returns: JSON values. */
export interface VirtioDeviceState {
  /** Only if the transport's own state has none. */
  readonly version?: number
  readonly status: number
  /** Feature bits of the driver, 0 to 31 and 32 to 63. */
  readonly features: readonly number[]
  /** Those of `features` that the device offered. Absent in states of older versions. */
  readonly accepted?: readonly number[]
  readonly generation: number
  readonly queues: readonly SavedQueue[]
  /** The device configuration space. */
  readonly config: readonly number[]
  /** The device is suspended, and after that it will announce a change of the configuration space. */
  readonly configChanges?: boolean
  /** The state of the device type. */
  readonly own?: unknown
}

/** Options of `saveState`. */
export interface SaveOptions {
  /**
   * "again": requests in flight are saved as not done, and repeated after the state is restored. Do not restore it before the disk has
   * answered them here. An append to a zone may then be done twice. Default: saving a device with requests in flight is an error.
   */
  readonly inFlight?: "again"
}

/** Options of `restoreState`. */
export interface RestoreOptions {
  /**
   * "same": only over the image of the saved state, unchanged since. "any": also over a copy, for whose content the caller answers. Default
   * "same", which accepts any disk without a `VirtioBacking.version`.
   */
  readonly image?: "same" | "any"
}

export const SAVE_RULES: Rules<SaveOptions> = { inFlight: ["again"] }
export const RESTORE_RULES: Rules<RestoreOptions> = { image: ["same", "any"] }

/** The properties of the device that the state must match. */
export interface DeviceShape {
  readonly queues: number
  readonly queueSize: number
  readonly configSize: number
}

/** @throws Error for anything but a state of a device of this shape. Addresses are checked later, when they are used. */
export function parseDeviceState(value: unknown, shape: DeviceShape): VirtioDeviceState {
  const state = savedObject(value, "virtio device")
  if (state["version"] !== undefined) checkStateVersion(state["version"])
  const features = savedNumbers(state["features"], "features", { length: 2 })
  const accepted = wordsToFeatures(features)
  const packed = hasBit(accepted, VIRTIO_F.RING_PACKED) && hasBit(accepted, VIRTIO_F.VERSION_1)
  return {
    status: savedNumber(state["status"], "status", 0xff),
    features,
    ...(state["accepted"] !== undefined && { accepted: savedNumbers(state["accepted"], "accepted features", { length: 2 }) }),
    generation: savedNumber(state["generation"], "configuration generation", 0xff),
    queues: savedList(state["queues"], "queues", (queue) => parseQueue(queue, { maxSize: shape.queueSize, packed }), shape.queues),
    config: savedNumbers(state["config"], "configuration", { length: shape.configSize, max: 0xff }),
    configChanges: state["configChanges"] === true,
    own: state["own"],
  }
}

/** Feature bits 0 to 31, and 32 to 63, as one number. */
export function wordsToFeatures([low = 0, high = 0]: readonly number[]): bigint {
  return BigInt(low) | (BigInt(high) << 32n)
}

/** The error for a state whose driver uses features that the device does not offer (`missing`). */
export function featuresMissing(missing: bigint): Error {
  const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => hasBit(missing, bit))
  if (bits.length === 0) return new Error("saved state: this disk is for drivers that have accepted other features: open it as it was")
  const names = `${bits.length === 1 ? "bit" : "bits"} ${bits.join(", ")}`
  const remedy = "open the disk as it was (read-only or not, discard, flush), with the same withFeatures and withoutFeatures"
  return new Error(`saved state: the driver uses features that this device does not offer (${names}): ${remedy}`)
}

function parseQueue(value: unknown, { maxSize, packed }: { readonly maxSize: number; readonly packed: boolean }): SavedQueue {
  const queue = savedObject(value, "queue")
  const size = savedNumber(queue["size"], "queue size", Math.min(maxSize, VIRTQ_MAX_SIZE))
  if (size < 1 || (!packed && (size & (size - 1)) !== 0)) throw new Error(`saved state: queue size ${size} is not a power of two`)
  const ring = packed ? parsePackedRing(queue, size) : parseSplitRing(queue, size)
  return {
    size,
    enabled: queue["enabled"] === true,
    legacy: queue["legacy"] === true,
    descriptorTable: parseAddress(queue["descriptorTable"], "descriptorTable"),
    availRing: parseAddress(queue["availRing"], "availRing"),
    usedRing: parseAddress(queue["usedRing"], "usedRing"),
    ...ring,
    ...(queue["held"] !== undefined && { held: parseHeld(queue["held"], ring.heads.length + (ring.chains?.length ?? 0)) }),
  }
}

function parseHeld(value: unknown, chains: number): (readonly [index: number, length: number])[] {
  return savedList(value, "chains that are done", (item) => {
    const [index = 0, length = 0] = savedNumbers(item, "chain that is done", { length: 2 })
    return [savedNumber(index, "index of a chain that is done", chains - 1), length] as const
  })
}

function parseSplitRing(queue: Readonly<Record<string, unknown>>, size: number): SavedRing {
  // States of older versions have no heads.
  const heads = savedNumbers(queue["heads"] ?? [], "heads of chains", { max: 0xffff })
  if (heads.length > size) throw new Error(`saved state: ${heads.length} chains in flight in a queue of ${size}`)
  return { position: savedNumber(queue["position"], "queue position", 0xffff), heads, ...parseUnpublished(queue, size) }
}

function parseUnpublished(queue: Readonly<Record<string, unknown>>, size: number): Pick<SavedRing, "unpublished"> {
  if (queue["unpublished"] === undefined) return {}
  return { unpublished: savedNumber(queue["unpublished"], "used entries that the driver has not been told of", size) }
}

function parsePackedRing(queue: Readonly<Record<string, unknown>>, size: number): SavedRing {
  const position = savedNumber(queue["position"], "queue position", 0xffff)
  if ((position & 0x7fff) >= size) throw new Error(`saved state: slot ${position & 0x7fff} in a queue of ${size}`)
  if (queue["chains"] === undefined) return { position, heads: [] }
  const unpublished = parseUnpublished(queue, size)
  const chains = savedList(queue["chains"], "chains", parseChain)
  const slots = chains.reduce((sum, { descriptors }) => sum + descriptors.length / 4, 0)
  if (slots > size) throw new Error(`saved state: ${slots} descriptors in flight in a queue of ${size}`)
  return { position, heads: [], chains, ...unpublished }
}

function parseChain(value: unknown): SavedChain {
  const chain = savedObject(value, "chain")
  const descriptors = savedNumbers(chain["descriptors"], "descriptors of a chain")
  if (descriptors.length === 0 || descriptors.length % 4 !== 0) {
    throw new Error(`saved state: ${descriptors.length} words are not the descriptors of a chain`)
  }
  return { id: savedNumber(chain["id"], "buffer id", 0xffff), descriptors }
}

function parseAddress(value: unknown, what: string): SavedAddress {
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < 2 ** 64) return value
  if (!Array.isArray(value)) throw new Error(`saved state: ${what}: ${shown(value)} is not an address`)
  const [low = 0, high = 0] = savedNumbers(value, what, { length: 2 })
  return [low, high]
}

/** The low and the high half of an address. */
export function addressWords(address: SavedAddress): readonly [low: number, high: number] {
  return typeof address === "number" ? [address % 2 ** 32, Math.floor(address / 2 ** 32)] : address
}

/** An address from its two halves. */
export function savedAddress(low: number, high: number): SavedAddress {
  const address = low + high * 2 ** 32
  return Number.isSafeInteger(address) ? address : [low, high]
}
