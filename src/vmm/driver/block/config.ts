/**
 * The configuration fields of a virtio block device, as far as its negotiated features make them valid. [VIRTIO] 5.2.4.
 */
import { BLK_CONFIG, SECTOR_SIZE } from "./spec.ts"
import { featureNames, includesFeature } from "../virtio/features.ts"
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
}

/** Reads all fields that `features` (negotiated) and `offered` make valid, as they are at one moment. */
export function readBlockConfig(transport: DriverTransport, features: bigint, offered: bigint): BlockIdentity {
  return transport.stableConfig(() => {
    const u8 = (offset: number): number => transport.readConfig(offset, 1)
    const u16 = (offset: number): number => transport.readConfig(offset, 2)
    const u32 = (offset: number): number => transport.readConfig(offset, 4)
    const ranges = (sectors: number, count: number, alignment: number): DiscardLimits => ({
      maxSectors: u32(sectors),
      maxRanges: u32(count),
      sectorAlignment: u32(alignment),
    })
    const capacity = u32(BLK_CONFIG.CAPACITY) + u32(BLK_CONFIG.CAPACITY + 4) * 2 ** 32
    return {
      capacity,
      size: capacity * SECTOR_SIZE,
      features: featureNames(features),
      readOnly: includesFeature(offered, "RO"),
      ...(includesFeature(features, "SIZE_MAX") && { sizeMax: u32(BLK_CONFIG.SIZE_MAX) }),
      ...(includesFeature(features, "SEG_MAX") && { segMax: u32(BLK_CONFIG.SEG_MAX) }),
      ...(includesFeature(features, "GEOMETRY") && {
        geometry: { cylinders: u16(BLK_CONFIG.CYLINDERS), heads: u8(BLK_CONFIG.HEADS), sectors: u8(BLK_CONFIG.SECTORS) },
      }),
      ...(includesFeature(features, "BLK_SIZE") && { blockSize: u32(BLK_CONFIG.BLK_SIZE) }),
      ...(includesFeature(features, "TOPOLOGY") && {
        topology: {
          physicalBlockExp: u8(BLK_CONFIG.PHYSICAL_BLOCK_EXP),
          alignmentOffset: u8(BLK_CONFIG.ALIGNMENT_OFFSET),
          minIoSize: u16(BLK_CONFIG.MIN_IO_SIZE),
          optIoSize: u32(BLK_CONFIG.OPT_IO_SIZE),
        },
      }),
      ...(includesFeature(features, "CONFIG_WCE") && { writeback: u8(BLK_CONFIG.WRITEBACK) !== 0 }),
      ...(includesFeature(features, "MQ") && { queues: u16(BLK_CONFIG.NUM_QUEUES) }),
      ...(includesFeature(features, "DISCARD") && {
        discard: ranges(BLK_CONFIG.MAX_DISCARD_SECTORS, BLK_CONFIG.MAX_DISCARD_SEG, BLK_CONFIG.DISCARD_SECTOR_ALIGNMENT),
      }),
      ...(includesFeature(features, "WRITE_ZEROES") && {
        writeZeroes: {
          maxSectors: u32(BLK_CONFIG.MAX_WRITE_ZEROES_SECTORS),
          maxRanges: u32(BLK_CONFIG.MAX_WRITE_ZEROES_SEG),
          mayUnmap: u8(BLK_CONFIG.WRITE_ZEROES_MAY_UNMAP) !== 0,
        },
      }),
      ...(includesFeature(features, "SECURE_ERASE") && {
        secureErase: ranges(BLK_CONFIG.MAX_SECURE_ERASE_SECTORS, BLK_CONFIG.MAX_SECURE_ERASE_SEG, BLK_CONFIG.SECURE_ERASE_SECTOR_ALIGNMENT),
      }),
    }
  })
}
