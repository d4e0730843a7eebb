/** The block device's options, and the configuration space and feature bits that follow from them ([VIRTIO] 5.2.3 to 5.2.5). */
import { checkNames, checkOptions, type Rules } from "../../options.ts"
import type { VirtioBacking } from "../../backing/backing.ts"
import {
  type DiskStop, READ_ERROR_POLICIES, type ReadErrorPolicy, WRITE_ERROR_POLICIES, type WriteErrorPolicy,
} from "./errors/policies.ts"
import type { ObservedRequest } from "./observation/observed-request.ts"
import type { ThrottleLimits } from "./throttling/limits.ts"
import type { Throttle } from "./throttling/throttle.ts"
import { featureMask, hasBit, VIRTIO_F } from "../spec.ts"
import { ID_SIZE, SECTOR_SIZE, VIRTIO_BLK_CONFIG, VIRTIO_BLK_F } from "./spec.ts"

/** Names of feature bits, as the specification spells them. */
export type BlkFeatureName = keyof typeof VIRTIO_BLK_F | Exclude<keyof typeof VIRTIO_F, "VERSION_1">

/** Feature bits that are offered only on request, because a driver that can do without them gains nothing. */
const ON_REQUEST = [
  "RING_PACKED", "IN_ORDER", "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA", "SUSPEND", "ACCESS_PLATFORM",
] as const satisfies readonly BlkFeatureName[]

/** Names of feature bits that are offered only on request. */
export type RequestedFeatureName = (typeof ON_REQUEST)[number]

/** Options of `VirtioBlk`. Sizes are in bytes. */
export interface VirtioBlkOptions {
  /** The answer to GET_ID: up to 20 printable ASCII characters; longer ones are cut. Default "". */
  readonly serial?: string
  /** Number of request queues, 1 to 65535; more than one offers MQ. Default 1. */
  readonly queues?: number
  /** Maximum of descriptors of each queue: a power of two from 1 to 32768. Default 256. */
  readonly queueSize?: number
  /**
   * Bytes of a logical block, a hint for the guest: a power of two from 512 to 65536. Requests in sectors of 512 bytes work in any case.
   * Default 512.
   */
  readonly blockSize?: number
  /** Bytes of a physical block: `blockSize` times a power of two. Default `blockSize`. */
  readonly physicalBlockSize?: number
  /** Bytes: the size of request that the guest should prefer, a multiple of `blockSize`. Default 0: no preference. */
  readonly optimalIoSize?: number
  /** True: nothing is ever written, even if the backing is writable. Default: the backing's `readOnly`. */
  readonly readOnly?: boolean
  /** Called with each failure of the backing, of which the guest only sees a status. */
  readonly onError?: (error: unknown) => void
  /**
   * What to do if the backing fails a read. "report" (default): the guest gets the error. "ignore": it reads zeroes. "stop": the disk
   * stops: it keeps this request and all others, calls `onStop`, and begins them again at `VirtioBlk.resume`.
   */
  readonly readErrors?: ReadErrorPolicy
  /** The same for writes, discards and flushes; "enospc" stops if there is no space left, and reports any other error. */
  readonly writeErrors?: WriteErrorPolicy
  /** Called soon after the disk has stopped. It may do anything. */
  readonly onStop?: (stop: DiskStop) => void
  /**
   * Called with each request when it has been completed. It may do anything, even reset the device or unplug the disk. Its errors
   * are rethrown after the guest has its answers.
   */
  readonly observer?: (request: ObservedRequest) => void
  /**
   * Whether `statistics` has a latency histogram for each kind of request: "all" times every request, "sampled" one random batch in 64,
   * which is a tenth faster for a guest that sends one request at a time. Default "off".
   */
  readonly latency?: "off" | "sampled" | "all"
  /**
   * Feature bits that are offered only on request. Default: none.
   * - RING_PACKED: packed rings, beside split ones. Some drivers know only those, and Linux prefers them.
   * - IN_ORDER: requests complete in order of arrival, so a slow one delays those after it.
   * - NOTIFICATION_DATA, NOTIF_CONFIG_DATA (PCI only): kicks carry more data, which the device does not need.
   * - SUSPEND: the driver can suspend the device.
   * - ACCESS_PLATFORM: addresses are those of an IOMMU, which the transport's `memory` translates. The driver must accept it, so there must
   * be no legacy interface.
   */
  readonly withFeatures?: readonly RequestedFeatureName[]
  /** Limits of bytes and requests a second, for this disk, or in a `Throttle` that several disks share. Default: no limits. */
  readonly throttle?: Throttle | ThrottleLimits
  /** Feature bits not to offer. Without FLUSH, which removes CONFIG_WCE too, the disk does not promise to survive a crash. */
  readonly withoutFeatures?: readonly BlkFeatureName[]
}

export const VIRTIO_BLK_RULES: Rules<VirtioBlkOptions> = {
  serial: "string?", queues: "number?", queueSize: "number?", blockSize: "number?", physicalBlockSize: "number?", optimalIoSize: "number?",
  withFeatures: "array?", withoutFeatures: "array?", readOnly: "boolean?", onError: "function?",
  observer: "function?", readErrors: READ_ERROR_POLICIES, writeErrors: WRITE_ERROR_POLICIES, onStop: "function?", throttle: "object?",
  latency: ["off", "sampled", "all"],
}

/** Maximum of segments of a DISCARD, WRITE_ZEROES or SECURE_ERASE request. */
export const MAX_DISCARD_SEGMENTS = 256
export const MAX_WRITE_ZEROES_SEGMENTS = 16
export const MAX_SECURE_ERASE_SEGMENTS = 16
/** Maximum of sectors of one segment: just under 2 GiB to discard; 512 MiB to zero or to erase, because these may have to be written. */
export const MAX_DISCARD_SECTORS = 0x3f_ffff
export const MAX_WRITE_ZEROES_SECTORS = 0x10_0000
export const MAX_SECURE_ERASE_SECTORS = 0x10_0000

/** Bits that a legacy driver must not see ([VIRTIO] 5.2.5.2). */
export const ZONED_MASK: bigint = featureMask([VIRTIO_BLK_F.ZONED])

const GEOMETRY_HEADS = 16
const GEOMETRY_SECTORS = 63

/** Options with their defaults, checked. */
export interface BlkParameters {
  readonly serial: Uint8Array
  readonly queues: number
  readonly queueSize: number
  readonly blockSize: number
  readonly physicalBlockSize: number
  readonly optimalIoSize: number
  readonly readOnly: boolean
  readonly withFeatures: bigint
  readonly withoutFeatures: bigint
}

/** Checks the options. @throws TypeError or RangeError with one line that says what is wrong */
export function blkParameters(options: VirtioBlkOptions): BlkParameters {
  checkOptions("VirtioBlk", options, VIRTIO_BLK_RULES)
  const { serial = "", queues = 1, queueSize = 256, blockSize = SECTOR_SIZE, physicalBlockSize = blockSize } = options
  const { optimalIoSize = 0, readOnly = false, withFeatures = [], withoutFeatures = [] } = options
  if (!isPowerOfTwo(blockSize) || blockSize < SECTOR_SIZE || blockSize > 65536) {
    throw new RangeError(`blockSize: ${blockSize} is not a power of two from 512 to 65536`)
  }
  if (!isPowerOfTwo(physicalBlockSize) || physicalBlockSize < blockSize || physicalBlockSize / blockSize > 2 ** 15) {
    throw new RangeError(`physicalBlockSize: ${physicalBlockSize} is not a power of two from blockSize (${blockSize}) up`)
  }
  if (!Number.isInteger(optimalIoSize / blockSize) || optimalIoSize < 0 || optimalIoSize / blockSize > 0xffff_ffff) {
    throw new RangeError(`optimalIoSize: ${optimalIoSize} is not a multiple of blockSize (${blockSize})`)
  }
  if (!/^[\x20-\x7e]*$/.test(serial)) throw new RangeError("serial: only printable ASCII characters can be shown to a guest")
  const { VERSION_1: _, ...ringFeatures } = VIRTIO_F
  const known: Readonly<Record<BlkFeatureName, number>> = { ...VIRTIO_BLK_F, ...ringFeatures }
  checkNames("VirtioBlk", "withoutFeatures", withoutFeatures, Object.keys(known))
  checkNames("VirtioBlk", "withFeatures", withFeatures, ON_REQUEST)
  const bits = withoutFeatures.map((name) => known[name])
  if (withoutFeatures.includes("FLUSH")) bits.push(VIRTIO_BLK_F.CONFIG_WCE)
  return {
    serial: Uint8Array.from(serial.slice(0, ID_SIZE), (char) => char.charCodeAt(0)),
    queues,
    queueSize,
    blockSize,
    physicalBlockSize,
    optimalIoSize,
    readOnly,
    withFeatures: featureMask(withFeatures.map((name) => known[name])),
    withoutFeatures: featureMask(bits),
  }
}

/**
 * Feature bits that a driver must accept. Without ZONED it cannot use a host-managed disk; without ACCESS_PLATFORM it would pass
 * guest-physical addresses where the device expects those of an IOMMU.
 */
export function requiredFeatures(backing: VirtioBacking, { withFeatures, withoutFeatures }: BlkParameters): bigint {
  const required = withFeatures & ~withoutFeatures & featureMask([VIRTIO_F.ACCESS_PLATFORM])
  if (backing.zones?.model !== "host-managed") return required
  if (hasBit(withoutFeatures, VIRTIO_BLK_F.ZONED)) {
    throw new RangeError(
      "withoutFeatures: ZONED cannot be left out: the disk is host-managed, and of no use to a driver that does not know zones",
    )
  }
  return required | ZONED_MASK
}

/** The feature bits of the device type, which depend on the backing. */
export function blkFeatures(backing: VirtioBacking, parameters: BlkParameters): bigint {
  const bits: number[] = [VIRTIO_BLK_F.SEG_MAX, VIRTIO_BLK_F.GEOMETRY, VIRTIO_BLK_F.BLK_SIZE, VIRTIO_BLK_F.TOPOLOGY]
  if (parameters.queues > 1) bits.push(VIRTIO_BLK_F.MQ)
  if (parameters.readOnly) bits.push(VIRTIO_BLK_F.RO)
  if (backing.flush !== undefined) bits.push(VIRTIO_BLK_F.FLUSH, VIRTIO_BLK_F.CONFIG_WCE)
  const isHostManaged = backing.zones?.model === "host-managed"
  if (!parameters.readOnly && backing.discard !== undefined && backing.canUnmap !== false && !isHostManaged) bits.push(VIRTIO_BLK_F.DISCARD)
  if (backing.zones !== undefined) bits.push(VIRTIO_BLK_F.ZONED)
  if (backing.writeZeroes !== undefined && !parameters.readOnly) bits.push(VIRTIO_BLK_F.WRITE_ZEROES)
  if (backing.secureErase !== undefined && !parameters.readOnly && secureEraseSectors(backing) > 0) bits.push(VIRTIO_BLK_F.SECURE_ERASE)
  if (backing.lifetime !== undefined) bits.push(VIRTIO_BLK_F.LIFETIME)
  return featureMask(bits) | parameters.withFeatures
}

/** Fills in all fields but the capacity and `writeback`, which change. */
export function writeStaticConfig(config: DataView, backing: VirtioBacking, parameters: BlkParameters, offered: bigint): void {
  const { blockSize, physicalBlockSize, optimalIoSize, queues, queueSize } = parameters
  const offers = (bit: number) => hasBit(offered, bit)
  // The header and the status take a descriptor each.
  config.setUint32(VIRTIO_BLK_CONFIG.seg_max, Math.max(queueSize - 2, 1), true)
  config.setUint32(VIRTIO_BLK_CONFIG.blk_size, blockSize, true)
  config.setUint8(VIRTIO_BLK_CONFIG.topology_physical_block_exp, Math.log2(physicalBlockSize / blockSize))
  config.setUint16(VIRTIO_BLK_CONFIG.topology_min_io_size, physicalBlockSize / blockSize, true)
  config.setUint32(VIRTIO_BLK_CONFIG.topology_opt_io_size, optimalIoSize / blockSize, true)
  config.setUint16(VIRTIO_BLK_CONFIG.num_queues, queues, true)
  const discards = offers(VIRTIO_BLK_F.DISCARD)
  config.setUint32(VIRTIO_BLK_CONFIG.max_discard_sectors, discards ? MAX_DISCARD_SECTORS : 0, true)
  config.setUint32(VIRTIO_BLK_CONFIG.max_discard_seg, discards ? MAX_DISCARD_SEGMENTS : 0, true)
  config.setUint32(VIRTIO_BLK_CONFIG.discard_sector_alignment, discards ? sectorsOf(backing.discardGranularity) : 0, true)
  const zeroes = offers(VIRTIO_BLK_F.WRITE_ZEROES)
  const unmaps = zeroes && (backing.canUnmap ?? backing.discard !== undefined)
  config.setUint32(VIRTIO_BLK_CONFIG.max_write_zeroes_sectors, zeroes ? MAX_WRITE_ZEROES_SECTORS : 0, true)
  config.setUint32(VIRTIO_BLK_CONFIG.max_write_zeroes_seg, zeroes ? MAX_WRITE_ZEROES_SEGMENTS : 0, true)
  config.setUint8(VIRTIO_BLK_CONFIG.write_zeroes_may_unmap, unmaps ? 1 : 0)
  const erases = offers(VIRTIO_BLK_F.SECURE_ERASE)
  config.setUint32(VIRTIO_BLK_CONFIG.max_secure_erase_sectors, erases ? secureEraseSectors(backing) : 0, true)
  config.setUint32(VIRTIO_BLK_CONFIG.max_secure_erase_seg, erases ? MAX_SECURE_ERASE_SEGMENTS : 0, true)
  config.setUint32(VIRTIO_BLK_CONFIG.secure_erase_sector_alignment, erases ? sectorsOf(backing.secureEraseAlignment) : 0, true)
}

/** The largest segment of a SECURE_ERASE that is a multiple of the backing's unit. 0: the unit is larger than a segment may be. */
function secureEraseSectors(backing: VirtioBacking): number {
  const alignment = sectorsOf(backing.secureEraseAlignment)
  return Math.floor(MAX_SECURE_ERASE_SECTORS / alignment) * alignment
}

function sectorsOf(bytes = SECTOR_SIZE): number {
  return Math.max(Math.floor(bytes / SECTOR_SIZE), 1)
}

/** The capacity in sectors; inexact above 2^53, which no disk has. */
export function readCapacity(config: DataView): number {
  return config.getUint32(VIRTIO_BLK_CONFIG.capacity, true) + config.getUint32(VIRTIO_BLK_CONFIG.capacity + 4, true) * 2 ** 32
}

/** Writes the capacity in sectors, and the number of cylinders. */
export function writeCapacity(config: DataView, sectors: number): void {
  config.setUint32(VIRTIO_BLK_CONFIG.capacity, sectors % 2 ** 32, true)
  config.setUint32(VIRTIO_BLK_CONFIG.capacity + 4, Math.floor(sectors / 2 ** 32), true)
  config.setUint16(VIRTIO_BLK_CONFIG.geometry_cylinders, Math.min(Math.floor(sectors / (GEOMETRY_HEADS * GEOMETRY_SECTORS)), 0xffff), true)
  config.setUint8(VIRTIO_BLK_CONFIG.geometry_heads, GEOMETRY_HEADS)
  config.setUint8(VIRTIO_BLK_CONFIG.geometry_sectors, GEOMETRY_SECTORS)
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value))
}
