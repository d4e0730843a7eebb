/** convertDisk: copies what a disk holds to another disk. Zeroes are not written where they are there already. */
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
  /** Takes what cannot be read for zeroes, sector by sector, in place of failing. Default false. */
  readonly salvage?: boolean
  /** Writes compressed clusters: the target is a qcow2 image. Default false. */
  readonly compressed?: boolean
  /** Bytes of data a second at most. Default: as fast as it goes. */
  readonly rate?: number
  /** Pieces that are read, compressed and written at once, 1 to 16. Default 8. */
  readonly parallel?: number
}

export const CONVERT_RULES: Rules<ConvertOptions> = {
  ...OPERATION_RULES, sparseSize: "number?", targetIsZero: "boolean?", onlyOwn: "boolean?", salvage: "boolean?", compressed: "boolean?",
  rate: "number?", parallel: "number?",
}

/** What `qemu-img convert` does by itself. */
const DEFAULT_SPARSE_SIZE = 4096
const DEFAULT_PARALLEL = 8
const SECTOR = 512

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
  checkCount("convertDisk", "rate", options.rate, 1)
  checkCount("convertDisk", "parallel", options.parallel, 1, 16)
  checkBacking("convertDisk", source)
  checkBacking("convertDisk", target)
  const { sparseSize = DEFAULT_SPARSE_SIZE, targetIsZero = false, parallel = DEFAULT_PARALLEL } = options
  if (sparseSize % 512 !== 0) throw refusal(`sparseSize is ${sparseSize}; it must be a multiple of 512`)
  if (target.readOnly) throw new BackingError("read-only", "the target of the conversion is read-only")
  if (target.size < source.size) throw refusal(`the target has ${target.size} bytes, and the source ${source.size}`)
  const operation = new Operation(source.size, options)
  const sink = sinkFor(target, { compressed: options.compressed === true, parallel, sparseSize, targetIsZero })
  const reader = options.salvage === true ? { size: source.size, pread: salvaging(source) } : source
  const lanes = source.asynchronous === true || target.asynchronous === true ? parallel : 1
  const pace = new Pace(options.rate)
  // Clusters are compressed on the same threads, and that takes much longer than reading. A salvage reads sector by sector.
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
  if (writeCompressed === undefined || compressLater === undefined) throw refusal("only a qcow2 image takes compressed clusters")
  if ((qcow2Of(target)?.header.cryptMethod ?? CRYPT_METHOD.NONE) !== CRYPT_METHOD.NONE) throw refusal(NOT_BOTH)
  return new CompressedSink(target as VirtioBacking & CompressedTarget, options)
}

/** Reads as `source` does, but zeroes for what fails. */
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

/** Compressed clusters of an encrypted image hold plain text (QC-CMP-13). */
export const NOT_BOTH = "compressed clusters are not encrypted; leave out one of the two"

function refusal(message: string): BackingError {
  return new BackingError("invalid-argument", `the conversion is not possible: ${message}`)
}
