/** measureDisk: how large the file of a new image would be, without making it. [QCOW2] "General", as `qemu-img measure` counts. */
import { checkOptions, type Rules } from "../../options.ts"
import { BackingError, checkBacking, type VirtioBacking } from "../backing.ts"
import { checkCreateOptions, CREATE_QCOW2_RULES, type CreateQcow2Options } from "../qcow2/create-options.ts"
import { TABLE_ENTRY_SIZE } from "../qcow2/format/spec.ts"
import type { Geometry } from "../qcow2/format/geometry.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "./operation.ts"
import { runAt } from "./runs.ts"

/** Options of `measureDisk`: those of the image that is not made, and of the operation. */
export interface MeasureOptions extends Omit<CreateQcow2Options, "size">, OperationOptions {
  /** Bytes of the disk in the image. */
  readonly size?: number
  /** Default "qcow2". */
  readonly format?: "raw" | "qcow2"
}

const MEASURE_RULES: Rules<MeasureOptions> = {
  ...CREATE_QCOW2_RULES, ...OPERATION_RULES, size: "number?", format: ["raw", "qcow2"],
}

/** What `measureDisk` finds, in bytes of the image's file. */
export interface Measurement {
  /** Needed for what the disk holds now. */
  readonly required: number
  /** Needed when each cluster of the disk is written. */
  readonly fullyAllocated: number
}

/**
 * The bytes that a file needs for an image that holds what `disk` reads as; without a disk, a new and empty image of the size in the
 * options. What is told of allocation is believed, and nothing is read.
 * @throws BackingError (as a rejection) `invalid-argument` for options that contradict each other or exceed the format's limits
 * @throws the signal's reason when it is stopped
 */
export async function measureDisk(disk: VirtioBacking | undefined, options: MeasureOptions = {}): Promise<Measurement> {
  checkOptions("measureDisk", options, MEASURE_RULES)
  if (disk !== undefined) checkBacking("measureDisk", disk)
  const { format = "qcow2", progress: _, signal: __, ...creating } = options
  const size = options.size ?? disk?.size
  if (size === undefined) throw new BackingError("invalid-argument", "measureDisk needs a disk, or a size")
  if (format === "raw") {
    const bytes = Math.ceil(size / 512) * 512
    return { required: bytes, fullyAllocated: bytes }
  }
  const geometry = checkCreateOptions({ ...creating, size }, "the new image")
  const { clusterSize } = geometry
  const content = Math.ceil(size / clusterSize) * clusterSize
  const fullyAllocated = fullSize(geometry, content)
  if (disk === undefined) return { required: fullyAllocated - content, fullyAllocated }
  // Nobody knows how much of the disk shows from that backing file.
  if (options.backing !== undefined) return { required: fullyAllocated, fullyAllocated }
  const data = await dataBytes(disk, clusterSize, new Operation(disk.size, options))
  return { required: fullyAllocated - content + data, fullyAllocated }
}

/** Bytes of a file all of whose `content` bytes of clusters are allocated: header, tables, refcounts of all of it. */
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
