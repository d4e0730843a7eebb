/** convertDisk: copies what a disk holds to another disk. Zeroes are not written where they are there already. */
import { checkCount, checkOptions, type Rules } from "../../options.ts"
import { BackingError, checkBacking, type VirtioBacking } from "../backing.ts"
import { CompressedSink, type CompressedTarget } from "./compressed-sink.ts"
import { DiskSink, type Sink } from "./disk-sink.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "./operation.ts"
import { copyPieces } from "./copy.ts"
import type { MapExtent } from "../qcow2/map-extents.ts"
import { everything, type Lookup } from "./pieces.ts"

/** Options of `convertDisk`. */
export interface ConvertOptions extends OperationOptions {
  /**
   * Bytes: runs of zeroes in the data that have this length at least are not written as data. 0: nothing is looked for, and all that the
   * source does not tell to be zeroes is written. A multiple of 512. Default 4096.
   */
  readonly sparseSize?: number
  /** The target reads as zeroes, so nothing has to be done about zeroes. Default false. */
  readonly targetIsZero?: boolean
  /**
   * Copies what the source holds itself, not what shows from its backing file: the target has a backing file with the same content. The
   * source is a qcow2 image. Default false.
   */
  readonly onlyOwn?: boolean
  /** Writes compressed clusters: the target is a qcow2 image. Default false. */
  readonly compressed?: boolean
  /** Pieces that are read, compressed and written at once, 1 to 16. Default 8. */
  readonly parallel?: number
}

export const CONVERT_RULES: Rules<ConvertOptions> = {
  ...OPERATION_RULES, sparseSize: "number?", targetIsZero: "boolean?", onlyOwn: "boolean?", compressed: "boolean?", parallel: "number?",
}

/** What `qemu-img convert` does by itself. */
const DEFAULT_SPARSE_SIZE = 4096
const DEFAULT_PARALLEL = 8

/** The target of a conversion. */
export type ConvertTarget = VirtioBacking & Partial<CompressedTarget>

/**
 * Copies all of `source` to the beginning of `target`, and flushes that; neither is closed. When it rejects, `source` is as it was, and
 * `target` holds a part.
 * @throws BackingError (as a rejection) `invalid-argument` when the target is too small or takes no compressed clusters, `read-only`, and
 * what the disks fail with
 * @throws the signal's reason when it is stopped
 */
export async function convertDisk(source: VirtioBacking, target: ConvertTarget, options: ConvertOptions = {}): Promise<void> {
  checkOptions("convertDisk", options, CONVERT_RULES)
  checkCount("convertDisk", "sparseSize", options.sparseSize, 0)
  checkCount("convertDisk", "parallel", options.parallel, 1, 16)
  checkBacking("convertDisk", source)
  checkBacking("convertDisk", target)
  const { sparseSize = DEFAULT_SPARSE_SIZE, targetIsZero = false, parallel = DEFAULT_PARALLEL } = options
  if (sparseSize % 512 !== 0) throw refusal(`sparseSize is ${sparseSize}; it must be a multiple of 512`)
  if (target.readOnly) throw new BackingError("read-only", "the target of the conversion is read-only")
  if (target.size < source.size) throw refusal(`the target has ${target.size} bytes, and the source ${source.size}`)
  const operation = new Operation(source.size, options)
  const sink = sinkFor(target, { compressed: options.compressed === true, parallel, sparseSize, targetIsZero })
  const lanes = source.asynchronous === true || target.asynchronous === true ? parallel : 1
  await copyPieces({ source, sink, operation, lanes, lookup: lookupFor(source, options) })
  await target.flush?.()
}

interface SinkOptions {
  readonly compressed: boolean
  readonly parallel: number
  readonly sparseSize: number
  readonly targetIsZero: boolean
}

function sinkFor(target: ConvertTarget, options: SinkOptions): Sink {
  if (!options.compressed) return new DiskSink(target, options)
  const { writeCompressed, compressLater } = target
  if (writeCompressed === undefined || compressLater === undefined) throw refusal("only a qcow2 image takes compressed clusters")
  return new CompressedSink(target as VirtioBacking & CompressedTarget, options)
}

/** A disk that tells what it holds itself. */
type OwnedDisk = VirtioBacking & { map?(offset: number, length: number): Iterable<MapExtent> | Promise<Iterable<MapExtent>> }

function lookupFor(source: OwnedDisk, { onlyOwn = false }: ConvertOptions): Lookup {
  if (!onlyOwn) return everything(source)
  if (source.map === undefined) throw refusal("only a qcow2 image tells what it holds itself")
  const map = source.map.bind(source)
  return async (offset, length) => {
    for (const extent of await map(offset, length)) {
      const kind = extent.kind === "backing" ? "skip" : extent.kind === "zero" ? "zero" : "data"
      return { length: extent.length, kind }
    }
    throw new Error("a range of the disk has no extents")
  }
}

function refusal(message: string): BackingError {
  return new BackingError("invalid-argument", `the conversion is not possible: ${message}`)
}
