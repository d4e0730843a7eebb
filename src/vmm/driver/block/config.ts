/**
 * The configuration fields of a virtio block device, as far as its negotiated features make them valid. [VIRTIO] 5.2.4.
 */
import { BLK_CONFIG, BLK_ZONED_MODELS, SECTOR_SIZE } from "./spec.ts"
import { type FeatureName, featureNames, includesFeature } from "../virtio/features.ts"
import type { DriverTransport } from "../virtio/transport.ts"

/** Limits of DISCARD and SECURE_ERASE. */
export interface DiscardLimits {
  /** Sectors in one range, at most. */
  readonly maxSectors: number
  /** Ranges in one request, at most. */
  readonly maxRanges: number
  /** Sectors: where it is best to split. */
  readonly sectorAlignment: number
}

/** A field is there when its feature was negotiated. Sectors have 512 bytes, whatever `blockSize` says. */
export interface BlockIdentity {
  /** Sectors. */
  readonly capacity: number
  /** Bytes: `capacity` * 512. */
  readonly size: number
  /** Names of the negotiated features. */
  readonly features: readonly string[]
  /** The device offers RO: writes will fail. */
  readonly readOnly: boolean
  /** Bytes in one segment, at most. */
  readonly sizeMax?: number
  /** Data segments in one request, at most. */
  readonly segMax?: number
  readonly geometry?: { readonly cylinders: number; readonly heads: number; readonly sectors: number }
  /** Bytes: a hint. */
  readonly blockSize?: number
  /** In blocks of `blockSize`. */
  readonly topology?: {
    readonly physicalBlockExp: number
    readonly alignmentOffset: number
    readonly minIoSize: number
    readonly optIoSize: number
  }
  /** True: write-back, false: write-through. */
  readonly writeback?: boolean
  readonly queues?: number
  readonly discard?: DiscardLimits
  readonly writeZeroes?: { readonly maxSectors: number; readonly maxRanges: number; readonly mayUnmap: boolean }
  readonly secureErase?: DiscardLimits
  /** Of a disk that offers ZONED. "none": it has no zones that anybody sees. */
  readonly zoned?: {
    readonly model: "none" | "host-managed" | "host-aware"
    /** Sectors of a zone. */
    readonly zoneSectors: number
    /** 0: any number. */
    readonly maxOpenZones: number
    readonly maxActiveZones: number
    /** 0: no append. */
    readonly maxAppendSectors: number
    /** Bytes. */
    readonly writeGranularity: number
  }
}

/** What decides which fields are there, and how they are read. */
export interface ConfigContext {
  /** Those negotiated. */
  readonly features: bigint
  readonly offered: bigint
  /** The fields of a legacy device in a big-endian guest are. */
  readonly isBigEndian: boolean
}

/** Reads all fields that `features` and `offered` make valid, as they are at one moment. */
export function readBlockConfig(transport: DriverTransport, { features, offered, isBigEndian }: ConfigContext): BlockIdentity {
  const field = (offset: number, width: 2 | 4): number => {
    const value = transport.readConfig(offset, width)
    return isBigEndian ? swapBytes(value, width) : value
  }
  const fields: Fields = {
    has: (name) => includesFeature(features, name),
    u8: (offset) => transport.readConfig(offset, 1),
    u16: (offset) => field(offset, 2),
    u32: (offset) => field(offset, 4),
  }
  return transport.stableConfig(() => {
    const [low, high] = isBigEndian ? [4, 0] : [0, 4]
    const capacity = fields.u32(BLK_CONFIG.CAPACITY + low) + fields.u32(BLK_CONFIG.CAPACITY + high) * 2 ** 32
    return {
      capacity,
      size: capacity * SECTOR_SIZE,
      features: featureNames(features),
      readOnly: includesFeature(offered, "RO"),
      ...readLayout(fields),
      ...(fields.has("CONFIG_WCE") && { writeback: fields.u8(BLK_CONFIG.WRITEBACK) !== 0 }),
      ...(fields.has("MQ") && { queues: fields.u16(BLK_CONFIG.NUM_QUEUES) }),
      ...readRangeLimits(fields),
      ...(fields.has("ZONED") && { zoned: readZoned(fields) }),
    }
  })
}

function swapBytes(value: number, width: 2 | 4): number {
  const bytes = new DataView(new ArrayBuffer(4))
  bytes.setUint32(0, value)
  return width === 2 ? bytes.getUint16(2, true) : bytes.getUint32(0, true)
}

/** The configuration, field by field, and which features make fields valid. */
interface Fields {
  has(feature: FeatureName): boolean
  u8(offset: number): number
  u16(offset: number): number
  u32(offset: number): number
}

function readLayout({ has, u8, u16, u32 }: Fields): Pick<BlockIdentity, "sizeMax" | "segMax" | "geometry" | "blockSize" | "topology"> {
  return {
    ...(has("SIZE_MAX") && { sizeMax: u32(BLK_CONFIG.SIZE_MAX) }),
    ...(has("SEG_MAX") && { segMax: u32(BLK_CONFIG.SEG_MAX) }),
    ...(has("GEOMETRY") && {
      geometry: { cylinders: u16(BLK_CONFIG.CYLINDERS), heads: u8(BLK_CONFIG.HEADS), sectors: u8(BLK_CONFIG.SECTORS) },
    }),
    ...(has("BLK_SIZE") && { blockSize: u32(BLK_CONFIG.BLK_SIZE) }),
    ...(has("TOPOLOGY") && {
      topology: {
        physicalBlockExp: u8(BLK_CONFIG.PHYSICAL_BLOCK_EXP),
        alignmentOffset: u8(BLK_CONFIG.ALIGNMENT_OFFSET),
        minIoSize: u16(BLK_CONFIG.MIN_IO_SIZE),
        optIoSize: u32(BLK_CONFIG.OPT_IO_SIZE),
      },
    }),
  }
}

function readRangeLimits({ has, u8, u32 }: Fields): Pick<BlockIdentity, "discard" | "writeZeroes" | "secureErase"> {
  return {
    ...(has("DISCARD") && {
      discard: {
        maxSectors: u32(BLK_CONFIG.MAX_DISCARD_SECTORS),
        maxRanges: u32(BLK_CONFIG.MAX_DISCARD_SEG),
        sectorAlignment: u32(BLK_CONFIG.DISCARD_SECTOR_ALIGNMENT),
      },
    }),
    ...(has("WRITE_ZEROES") && {
      writeZeroes: {
        maxSectors: u32(BLK_CONFIG.MAX_WRITE_ZEROES_SECTORS),
        maxRanges: u32(BLK_CONFIG.MAX_WRITE_ZEROES_SEG),
        mayUnmap: u8(BLK_CONFIG.WRITE_ZEROES_MAY_UNMAP) !== 0,
      },
    }),
    ...(has("SECURE_ERASE") && {
      secureErase: {
        maxSectors: u32(BLK_CONFIG.MAX_SECURE_ERASE_SECTORS),
        maxRanges: u32(BLK_CONFIG.MAX_SECURE_ERASE_SEG),
        sectorAlignment: u32(BLK_CONFIG.SECURE_ERASE_SECTOR_ALIGNMENT),
      },
    }),
  }
}

function readZoned({ u8, u32 }: Fields): NonNullable<BlockIdentity["zoned"]> {
  return {
    model: BLK_ZONED_MODELS.get(u8(BLK_CONFIG.ZONED_MODEL)) ?? "none",
    zoneSectors: u32(BLK_CONFIG.ZONE_SECTORS),
    maxOpenZones: u32(BLK_CONFIG.MAX_OPEN_ZONES),
    maxActiveZones: u32(BLK_CONFIG.MAX_ACTIVE_ZONES),
    maxAppendSectors: u32(BLK_CONFIG.MAX_APPEND_SECTORS),
    writeGranularity: u32(BLK_CONFIG.WRITE_GRANULARITY),
  }
}
