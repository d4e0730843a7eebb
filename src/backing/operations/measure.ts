/** measureDisk: computes the size of a new image's file, like `qemu-img measure`. [QCOW2] "General" */
import { checkOptions, type Rules } from "../../options.ts"
import { BackingError, checkBacking, type VirtioBacking } from "../backing.ts"
import { volumeOverhead } from "../luks/new-volume.ts"
import { checkCreateOptions, CREATE_QCOW2_RULES, type CreateQcow2Options } from "../qcow2/create-options.ts"
import { directoryEntryBytes, tableEntriesFor } from "../qcow2/format/bitmaps.ts"
import { TABLE_ENTRY_SIZE } from "../qcow2/format/spec.ts"
import type { Geometry } from "../qcow2/format/geometry.ts"
import type { ImageFormat } from "../signatures.ts"
import { bitmapsOf } from "./convert/copy-bitmaps.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "./operation.ts"
import { runAt } from "./runs.ts"

/** Options of `measureDisk`: those of the image, and of the operation. */
export interface MeasureOptions extends Omit<CreateQcow2Options, "size">, OperationOptions {
  /** Bytes of the disk in the image. */
  readonly size?: number
  /** Default "qcow2". */
  readonly format?: ImageFormat
}

const MEASURE_RULES: Rules<MeasureOptions> = {
  ...CREATE_QCOW2_RULES, ...OPERATION_RULES, size: "number?", format: ["raw", "qcow2", "luks"],
}

/** The result of `measureDisk`, in bytes of the image's file. */
export interface Measurement {
  /** For the present data of the disk. */
  readonly required: number
  /** If each cluster of the disk is written. */
  readonly fullyAllocated: number
  /** In addition, for the disk's persistent bitmaps, if they are copied. Left out unless both images are qcow2 version 3. */
  readonly bitmaps?: number
}

/**
 * The bytes that an image with the content of `disk` needs; without a disk, an empty image of the size in the options. Uses only the disk's
 * allocation, and reads no data.
 * @throws BackingError (as a rejection) `invalid-argument` for options that contradict each other or exceed the format's limits
 * @throws the signal's reason when it is stopped
 */
export async function measureDisk(disk: VirtioBacking | undefined, options: MeasureOptions = {}): Promise<Measurement> {
  checkOptions("measureDisk", options, MEASURE_RULES)
  if (disk !== undefined) checkBacking("measureDisk", disk)
  const { format = "qcow2", progress: _, signal: __, ...creating } = options
  const size = options.size ?? disk?.size
  if (size === undefined) throw new BackingError("invalid-argument", "measureDisk needs a disk, or a size")
  const { encryption } = options
  if (format !== "qcow2") {
    const bytes = Math.ceil(size / 512) * 512 + (format === "luks" ? volumeOverhead(encryption ?? {}, "the new image") : 0)
    return { required: bytes, fullyAllocated: bytes }
  }
  const geometry = checkCreateOptions({ ...creating, size }, "the new image")
  const { clusterSize } = geometry
  const content = Math.ceil(size / clusterSize) * clusterSize
  const luks = encryption === undefined ? 0 : Math.ceil(volumeOverhead(encryption, "the new image") / clusterSize) * clusterSize
  const fullyAllocated = fullSize(geometry, content) + luks
  if (disk === undefined) return { required: fullyAllocated - content, fullyAllocated }
  const bitmaps = bitmapBytes(disk, geometry)
  // The part of the disk that is read from that backing file is unknown.
  if (options.backing !== undefined) return { required: fullyAllocated, fullyAllocated, ...bitmaps }
  const data = await dataBytes(disk, clusterSize, new Operation(disk.size, options))
  return { required: fullyAllocated - content + data, fullyAllocated, ...bitmaps }
}

/** All clusters of a disk's bitmaps, their tables and their directory, in an image of that geometry. */
function bitmapBytes(disk: VirtioBacking, { version, clusterSize }: Geometry): Pick<Measurement, "bitmaps"> {
  const bitmaps = version === 3 ? bitmapsOf(disk) : undefined
  if (bitmaps === undefined) return {}
  const rounded = (bytes: number): number => Math.ceil(bytes / clusterSize) * clusterSize
  let [bytes, directory] = [0, 0]
  for (const { name, granularity } of bitmaps.list()) {
    const entries = tableEntriesFor(disk.size, Math.log2(granularity), clusterSize)
    bytes += entries * clusterSize + rounded(entries * TABLE_ENTRY_SIZE)
    directory += directoryEntryBytes(name)
  }
  return { bitmaps: bytes + rounded(directory) }
}

/** Bytes of a file with `content` bytes of allocated clusters, including header, tables and all refcounts. */
function fullSize({ clusterSize, l2Entries, refcountBlockEntries }: Geometry, content: number): number {
  const perTable = clusterSize / TABLE_ENTRY_SIZE
  const l2Tables = Math.ceil(content / clusterSize / l2Entries)
  const clusters = content / clusterSize + 1 + l2Tables + Math.ceil(l2Tables / perTable)
  let [blocks, table] = [0, 0]
  for (let before = -1; before !== blocks + table;) {
    before = blocks + table
    blocks = Math.ceil((clusters + table + blocks) / refcountBlockEntries)
    table = Math.ceil(blocks / perTable)
  }
  return (clusters + blocks + table) * clusterSize
}

/** Bytes of all clusters with data in them. */
async function dataBytes(disk: VirtioBacking, clusterSize: number, operation: Operation): Promise<number> {
  let clusters = 0
  /** The first cluster that has not been counted. */
  let next = 0
  for (let offset = 0; offset < disk.size;) {
    await operation.turn()
    const { length, isZero } = await runAt(disk, offset, disk.size - offset)
    if (!isZero) {
      const first = Math.max(Math.floor(offset / clusterSize), next)
      next = Math.max(Math.ceil((offset + length) / clusterSize), first)
      clusters += next - first
    }
    offset += length
    operation.advance(length)
  }
  return clusters * clusterSize
}
