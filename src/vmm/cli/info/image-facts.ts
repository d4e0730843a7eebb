/** The properties of an image, under the names of `qemu-img info --output=json`. */
import { statSync } from "node:fs"
import { LockedFile } from "../../../backing/host/image-lock.ts"
import type { ImageFile } from "../../../backing/image-file.ts"
import { decodeText, getU64, viewOf } from "../../../backing/bytes/fields.ts"
import { findExtension } from "../../../backing/qcow2/format/extensions.ts"
import { BITMAP_FLAG, checkedDirectoryPlace, decodeDirectory } from "../../../backing/qcow2/format/bitmaps.ts"
import { backingFormat, hasFeature, headerGeometry, type Qcow2Header } from "../../../backing/qcow2/format/header.ts"
import { readHeader } from "../../../backing/qcow2/format/parse-header.ts"
import { readSnapshotTable, type Snapshot } from "../../../backing/qcow2/format/snapshot-table.ts"
import {
  AUTOCLEAR_BIT, COMPATIBLE_BIT, COMPRESSION_TYPE, CRYPT_METHOD, EXTENSION_TYPE, INCOMPATIBLE_BIT,
} from "../../../backing/qcow2/format/spec.ts"
import { type ImageFormat, probeFormat } from "../../../backing/signatures.ts"
import { type EncryptionFacts, encryptionFacts, type LuksFacts, luksFacts } from "./encryption-facts.ts"

/** "LUKS" 0xba 0xbe, version 1. */
const LUKS_SIGNATURE = [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe, 0, 1]

export interface Facts {
  readonly filename: string
  readonly format: ImageFormat
  /** Bytes. */
  readonly "virtual-size": number
  /** Bytes that the host has allocated. */
  readonly "actual-size": number
  readonly "dirty-flag": boolean
  readonly "cluster-size"?: number
  readonly encrypted?: boolean
  readonly "backing-filename"?: string
  readonly "full-backing-filename"?: string
  readonly "backing-filename-format"?: string
  readonly snapshots?: readonly SnapshotFacts[]
  readonly "format-specific"?:
    | { readonly type: "qcow2"; readonly data: Qcow2Facts }
    | { readonly type: "luks"; readonly data: LuksFacts }
}

export interface SnapshotFacts {
  readonly id: string
  readonly name: string
  readonly "vm-state-size": number
  readonly "date-sec": number
  readonly "date-nsec": number
  readonly "vm-clock-sec": number
  readonly "vm-clock-nsec": number
  readonly icount?: number
}

export type Qcow2Facts = Readonly<Record<string, string | number | boolean | readonly BitmapFacts[] | EncryptionFacts>>

export interface BitmapFacts {
  readonly flags: readonly ("in-use" | "auto")[]
  readonly name: string
  readonly granularity: number
}

/**
 * Reads one image, without opening its backing file.
 * @throws BackingError if it cannot be read; `busy` if somebody else has it open for writing
 */
export function imageFacts(path: string, options: { readonly format: ImageFormat | undefined; readonly ignoreLocks: boolean }): Facts {
  const file = new LockedFile(path, { readOnly: true, lockReadOnly: false, ignoreLocks: options.ignoreLocks })
  try {
    file.claim()
    const format = options.format ?? (isLuks(file) ? "luks" : probeFormat(file))
    if (format === "luks") return rawLuksFacts(file)
    return format === "raw" ? rawFacts(file) : qcow2Facts(file)
  } finally {
    file.close()
  }
}

function rawFacts(file: ImageFile): Facts {
  // Rounded to whole sectors.
  const size = Math.ceil(file.size() / 512) * 512
  return { "virtual-size": size, filename: file.path, format: "raw", "actual-size": allocatedBytes(file.path), "dirty-flag": false }
}

/** Probes for LUKS. Only done here, where nothing is opened according to the result. */
function isLuks(file: ImageFile): boolean {
  const start = new Uint8Array(LUKS_SIGNATURE.length)
  return file.read(start, 0) === start.length && LUKS_SIGNATURE.every((byte, index) => start[index] === byte)
}

/** The properties of a LUKS image that can be read without its passphrase. */
function rawLuksFacts(file: ImageFile): Facts {
  const data = luksFacts({ file, offset: 0, length: file.size() })
  const size = Math.max(0, Math.floor((file.size() - data["payload-offset"]) / 512) * 512)
  return {
    "virtual-size": size, filename: file.path, format: "luks", "actual-size": allocatedBytes(file.path),
    "format-specific": { type: "luks", data }, encrypted: true, "dirty-flag": false,
  }
}

function qcow2Facts(file: ImageFile): Facts {
  const header = readHeader(file)
  const { snapshots } = readSnapshotTable(file, header)
  const backing = header.backingFile === undefined ? undefined : decodeText(header.backingFile)
  const stated = backingFormat(header)
  return {
    ...(stated !== undefined && { "backing-filename-format": stated }),
    "virtual-size": header.size,
    filename: file.path,
    "cluster-size": 2 ** header.clusterBits,
    format: "qcow2",
    "actual-size": allocatedBytes(file.path),
    ...(header.cryptMethod !== CRYPT_METHOD.NONE && { encrypted: true }),
    ...(snapshots.length > 0 && { snapshots: snapshots.map(snapshotFacts) }),
    "format-specific": {
      type: "qcow2",
      data: formatFacts(header, { bitmaps: bitmapFacts(file, header), encrypt: encryptionFacts(file, header) }),
    },
    ...(backing !== undefined && { "full-backing-filename": beside(file.path, backing), "backing-filename": backing }),
    "dirty-flag": hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.DIRTY),
  }
}

/** The properties outside the header. */
interface Described {
  readonly bitmaps: readonly BitmapFacts[]
  readonly encrypt: EncryptionFacts | undefined
}

/** A version 2 image has no feature bits. */
function formatFacts(header: Qcow2Header, { bitmaps, encrypt }: Described): Qcow2Facts {
  const incompatible = (bit: number) => hasFeature(header.incompatibleFeatures, bit)
  const isVersion3 = header.version === 3
  const dataFile = findExtension(header.extensions, EXTENSION_TYPE.EXTERNAL_DATA_FILE_NAME)
  return {
    compat: isVersion3 ? "1.1" : "0.10",
    "compression-type": header.compressionType === COMPRESSION_TYPE.ZSTD ? "zstd" : "zlib",
    ...(isVersion3 && { "lazy-refcounts": hasFeature(header.compatibleFeatures, COMPATIBLE_BIT.LAZY_REFCOUNTS) }),
    ...(bitmaps.length > 0 && { bitmaps }),
    "refcount-bits": 2 ** header.refcountOrder,
    ...(encrypt !== undefined && { encrypt }),
    ...(incompatible(INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE) && {
      ...(dataFile !== undefined && { "data-file": decodeText(dataFile) }),
      "data-file-raw": hasFeature(header.autoclearFeatures, AUTOCLEAR_BIT.RAW_EXTERNAL_DATA),
    }),
    ...(isVersion3 && { corrupt: incompatible(INCOMPATIBLE_BIT.CORRUPT), "extended-l2": incompatible(INCOMPATIBLE_BIT.EXTENDED_L2) }),
  }
}

function bitmapFacts(file: ImageFile, header: Qcow2Header): BitmapFacts[] {
  const place = checkedDirectoryPlace(header, file.path)
  if (place === undefined) return []
  const bytes = new Uint8Array(place.length)
  file.read(bytes, place.offset)
  return decodeDirectory(bytes, place.count, { geometry: headerGeometry(header), path: file.path }).map(({ entry }) => ({
    flags: [
      ...((entry.flags & BITMAP_FLAG.IN_USE) !== 0 ? ["in-use" as const] : []),
      ...((entry.flags & BITMAP_FLAG.AUTO) !== 0 ? ["auto" as const] : []),
    ],
    name: entry.name,
    granularity: 2 ** entry.granularityBits,
  }))
}

/** In a snapshot's extra data. [QCOW2] "Snapshots" */
const ICOUNT = { OFFSET: 16, NONE: 0xffff_ffff_ffff_ffffn } as const

function snapshotFacts(snapshot: Snapshot): SnapshotFacts {
  const { extraData } = snapshot
  const hasCount = extraData.length >= ICOUNT.OFFSET + 8 && viewOf(extraData).getBigUint64(ICOUNT.OFFSET) !== ICOUNT.NONE
  return {
    ...(hasCount && { icount: getU64(viewOf(extraData), ICOUNT.OFFSET) }),
    "vm-clock-nsec": Number(snapshot.vmClockNanoseconds % 1_000_000_000n),
    name: snapshot.name,
    "date-sec": snapshot.dateSeconds,
    "date-nsec": snapshot.dateNanoseconds,
    "vm-clock-sec": Number(snapshot.vmClockNanoseconds / 1_000_000_000n),
    id: snapshot.id,
    "vm-state-size": snapshot.vmStateSize,
  }
}

function allocatedBytes(path: string): number {
  return statSync(path).blocks * 512
}

/** The name of a file that `imagePath` refers to, joined as in qemu-img, without resolving links. */
function beside(imagePath: string, name: string): string {
  if (name.startsWith("/") || /^[^/]*:/.test(name)) return name
  return imagePath.slice(0, imagePath.lastIndexOf("/") + 1) + name
}
