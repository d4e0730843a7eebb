/** convertDisk: copies the content of a disk to another one. Does not write zeroes to a target that already reads as zeroes. */
import { checkCount, checkOptions, type Rules } from "../../../options.ts"
import { BackingError, checkBacking, type VirtioBacking } from "../../backing.ts"
import { CompressedSink, type CompressedTarget } from "./compressed-sink.ts"
import { DiskSink, type Sink } from "./disk-sink.ts"
import { lateReadsOf } from "./late-reads.ts"
import { qcow2Of } from "../layer-steps.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "../operation.ts"
import { copyPieces } from "./copy.ts"
import { CRYPT_METHOD } from "../../qcow2/format/spec.ts"
import type { MapExtent } from "../../qcow2/map-extents.ts"
import { Pace } from "../pace.ts"
import { everything, type Lookup } from "./pieces.ts"

/** Options of `convertDisk`. */
export interface ConvertOptions extends OperationOptions {
  /**
   * Minimum bytes of a run of zeroes that is not written as data. A multiple of 512. 0: does not search the data for zeroes, and skips only
   * runs that the source reports as zeroes. Default 4096.
   */
  readonly sparseSize?: number
  /** The target already reads as zeroes, so zeroes are skipped. Default false. */
  readonly targetIsZero?: boolean
  /**
   * Copies only the source's own data, and not data of its backing file, because the target has a backing file with the same content. The
   * source must be a qcow2 image. Default false.
   */
  readonly onlyOwn?: boolean
  /** Copies unreadable sectors as zeroes instead of failing. Default false. */
  readonly salvage?: boolean
  /** Writes compressed clusters. The target must be a qcow2 image. Default false. */
  readonly compressed?: boolean
  /** Maximum of bytes copied a second. Default: no limit. */
  readonly rate?: number
  /** Number of pieces to read, compress and write in parallel, 1 to 16. Default 8. */
  readonly parallel?: number
}

export const CONVERT_RULES: Rules<ConvertOptions> = {
  ...OPERATION_RULES, sparseSize: "number?", targetIsZero: "boolean?", onlyOwn: "boolean?", salvage: "boolean?", compressed: "boolean?",
  rate: "number?", parallel: "number?",
}

/** The default of `qemu-img convert`. */
const DEFAULT_SPARSE_SIZE = 4096
const DEFAULT_PARALLEL = 8
const SECTOR = 512

/** The target of a conversion. */
export type ConvertTarget = VirtioBacking & Partial<CompressedTarget>

/**
 * Copies all of `source` to the beginning of `target`, and flushes `target`. Closes neither. When it rejects, `source` is unchanged, and
 * `target` has a part of the data.
 * @throws BackingError (as a rejection) `invalid-argument` if the target is too small or cannot have compressed clusters, `read-only`, and
 * errors of the disks
 * @throws the signal's reason when it is stopped
 */
export async function convertDisk(source: VirtioBacking, target: ConvertTarget, options: ConvertOptions = {}): Promise<void> {
  checkOptions("convertDisk", options, CONVERT_RULES)
  checkCount("convertDisk", "sparseSize", options.sparseSize, 0)
  checkCount("convertDisk", "rate", options.rate, 1)
  checkCount("convertDisk", "parallel", options.parallel, 1, 16)
  checkBacking("convertDisk", source)
  checkBacking("convertDisk", target)
  const { sparseSize = DEFAULT_SPARSE_SIZE, targetIsZero = false, parallel = DEFAULT_PARALLEL } = options
  if (sparseSize % 512 !== 0) throw refusal(`sparseSize is ${sparseSize}; it must be a multiple of 512`)
  if (target.readOnly) throw new BackingError("read-only", "the target of the conversion is read-only")
  if (target.size < source.size) throw refusal(`the target has ${target.size} bytes, but the source has ${source.size}`)
  const operation = new Operation(source.size, options)
  const sink = sinkFor(target, { compressed: options.compressed === true, parallel, sparseSize, targetIsZero })
  const reader = options.salvage === true ? { size: source.size, pread: salvaging(source) } : source
  const lanes = source.asynchronous === true || target.asynchronous === true ? parallel : 1
  const pace = new Pace(options.rate)
  // Not with compression, which needs the same threads and takes much longer than reading, and not with salvage, which reads single
  // sectors.
  const readsAhead = lanes === 1 && options.compressed !== true && options.salvage !== true
  const lateReads = readsAhead ? lateReadsOf(source) : undefined
  await copyPieces({ source: reader, sink, operation, lanes, pace, lookup: lookupFor(source, options), lateReads })
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
  if (writeCompressed === undefined || compressLater === undefined) throw refusal("only a qcow2 image can have compressed clusters")
  if ((qcow2Of(target)?.header.cryptMethod ?? CRYPT_METHOD.NONE) !== CRYPT_METHOD.NONE) throw refusal(NOT_BOTH)
  return new CompressedSink(target as VirtioBacking & CompressedTarget, options)
}

/** Reads from `source`, with zeroes for unreadable sectors. */
function salvaging(source: VirtioBacking): VirtioBacking["pread"] {
  return async (buffer, offset) => {
    try {
      await source.pread(buffer, offset)
    } catch (error) {
      if (!(error instanceof BackingError) || error.code !== "io") throw error
      await readSectors(source, buffer, offset)
    }
  }
}

async function readSectors(source: VirtioBacking, buffer: Uint8Array, offset: number): Promise<void> {
  for (let at = 0; at < buffer.length; at += SECTOR) {
    const sector = buffer.subarray(at, at + SECTOR)
    try {
      await source.pread(sector, offset + at)
    } catch (error) {
      if (!(error instanceof BackingError) || error.code !== "io") throw error
      sector.fill(0)
    }
  }
}

/** A disk that may tell its own data from data of its backing file. */
type OwnedDisk = VirtioBacking & { map?(offset: number, length: number): Iterable<MapExtent> | Promise<Iterable<MapExtent>> }

function lookupFor(source: OwnedDisk, { onlyOwn = false }: ConvertOptions): Lookup {
  if (!onlyOwn) return everything(source)
  if (source.map === undefined) throw refusal("onlyOwn needs a qcow2 image, which can tell its own data from that of its backing file")
  const map = source.map.bind(source)
  return async (offset, length) => {
    for (const extent of await map(offset, length)) {
      const kind = extent.kind === "backing" ? "skip" : extent.kind === "zero" ? "zero" : "data"
      return { length: extent.length, kind }
    }
    throw new Error("a range of the disk has no extents")
  }
}

/** Compressed clusters of an encrypted image would be plain text (QC-CMP-13). */
export const NOT_BOTH = "compressed clusters cannot be encrypted; leave out compression or encryption"

function refusal(message: string): BackingError {
  return new BackingError("invalid-argument", `the conversion is not possible: ${message}`)
}
