/** Random operations on a disk, compared with a flat model of its content. */
import { BackingError, type VirtioBacking } from "../../src/backing/backing.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import type { FlatModel } from "./flat-model.ts"
import type { Rng } from "./rng.ts"

export type Operation =
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array; readonly parts: number; readonly compressed?: boolean }
  | { readonly kind: "read"; readonly offset: number; readonly length: number; readonly parts: number }
  | { readonly kind: "discard"; readonly offset: number; readonly length: number }
  | { readonly kind: "writeZeroes"; readonly offset: number; readonly length: number; readonly mayUnmap: boolean }
  | { readonly kind: "flush" }
  | { readonly kind: "reopen" }

export interface OperationLimits {
  /** Bytes of the disk. */
  readonly size: number
  /** Operations stay within this many bytes at the start and at the end, so that they meet each other on a big disk. */
  readonly focus?: number
  /** Most bytes of one operation. */
  readonly longest: number
  /** Offsets and lengths are multiples of this. Default: bytes and sectors mixed. */
  readonly unit?: number
}

/** Draws one operation. */
export function randomOperation(rng: Rng, limits: OperationLimits): Operation {
  const unit = limits.unit ?? rng.pick([1, 512, 512, 4096])
  const { offset, length } = randomRange(rng, limits, unit)
  const roll = rng.below(100)
  if (roll < 45) return randomWrite(offset, rng.bytes(length), rng.pick([1, 1, 1, 3]))
  if (roll < 70) return { kind: "read", offset, length, parts: rng.pick([1, 1, 3]) }
  if (roll < 82) return { kind: "discard", offset, length }
  if (roll < 92) return { kind: "writeZeroes", offset, length, mayUnmap: rng.chance(0.5) }
  return roll < 97 ? { kind: "flush" } : { kind: "reopen" }
}

/** A quarter of the writes have compressible data, to be stored compressed if the disk can. */
function randomWrite(offset: number, data: Uint8Array, parts: number): Operation {
  const compressed = parts === 1 && ((data[0] ?? 0) >> 1) % 3 === 0
  if (compressed) for (let at = 61; at < data.length; at++) data[at] = data[at - 61] ?? 0
  return { kind: "write", offset, data, parts, compressed }
}

function randomRange(rng: Rng, limits: OperationLimits, unit: number): { offset: number; length: number } {
  const { size, longest } = limits
  const focus = Math.min(size, limits.focus ?? size)
  const start = rng.chance(0.85) ? 0 : size - focus
  const offset = Math.floor((start + rng.below(focus)) / unit) * unit
  // Mostly short ranges, and now and then everything up to the end.
  const length = rng.chance(0.05) ? size - offset : 1 + rng.below(rng.chance(0.7) ? Math.min(longest, 3 * unit) : longest)
  return { offset, length: Math.min(Math.max(unit, Math.floor(length / unit) * unit), size - offset, longest) }
}

/** Cuts `bytes` into `parts` views, none empty. */
export function split(bytes: Uint8Array, parts: number): Uint8Array[] {
  const step = Math.max(1, Math.ceil(bytes.length / parts))
  const views: Uint8Array[] = []
  for (let at = 0; at < bytes.length; at += step) views.push(bytes.subarray(at, at + step))
  return views
}

/** The required effect of a discard: zero whole clusters of this size, or "anything": zero each sector or leave it. */
export type DiscardRule = { readonly zeroesClustersOf: number } | "anything"

/** Does `operation` (the caller does `reopen`) on both, and compares them. @throws Error at the first byte that differs */
export function applyOperation(disk: VirtioBacking, model: FlatModel, operation: Operation, discardRule: DiscardRule): void {
  switch (operation.kind) {
    case "write":
      if (operation.compressed === true) writeCompressed(disk, operation)
      else if (operation.parts > 1 && disk.pwritev !== undefined) disk.pwritev(split(operation.data, operation.parts), operation.offset)
      else disk.pwrite(operation.data, operation.offset)
      model.write(operation.data, operation.offset)
      return
    case "read": {
      const data = new Uint8Array(operation.length).fill(0xee)
      if (operation.parts > 1 && disk.preadv !== undefined) disk.preadv(split(data, operation.parts), operation.offset)
      else disk.pread(data, operation.offset)
      expectSame(model, data, operation.offset, "a read")
      return
    }
    case "discard":
      if (disk.discard === undefined) return
      disk.discard(operation.offset, operation.length)
      modelDiscard(disk, model, operation, discardRule)
      return
    case "writeZeroes":
      if (disk.writeZeroes === undefined) return
      disk.writeZeroes(operation.offset, operation.length, operation.mayUnmap)
      model.zero(operation.offset, operation.length)
      return
    case "flush":
      disk.flush?.()
      return
    case "reopen":
      return
  }
}

/**
 * Stores up to `most` whole clusters of a write compressed, if the disk can and they have no host cluster yet, so that the write may be
 * repeated. Other bytes are first written uncompressed.
 */
export function writeCompressed(
  disk: VirtioBacking, { data, offset }: { readonly data: Uint8Array; readonly offset: number }, most = Number.POSITIVE_INFINITY,
): void {
  if (!(disk instanceof Qcow2Image)) return void disk.pwrite(data, offset)
  const { clusterSize } = disk.geometry
  const start = Math.ceil(offset / clusterSize) * clusterSize
  const last = offset + data.length
  const end = Math.min(last === disk.size ? last : Math.floor(last / clusterSize) * clusterSize, start + most * clusterSize)
  if (end <= start) return void disk.pwrite(data, offset)
  if (start > offset) disk.pwrite(data.subarray(0, start - offset), offset)
  if (last > end) disk.pwrite(data.subarray(end - offset), end)
  const clusters = data.subarray(start - offset, end - offset)
  try {
    disk.writeCompressed(clusters, start)
  } catch (error) {
    if (!(error instanceof BackingError) || error.code !== "unsupported") throw error
    disk.pwrite(clusters, start)
  }
}

function modelDiscard(
  disk: VirtioBacking,
  model: FlatModel,
  { offset, length }: { offset: number; length: number },
  rule: DiscardRule,
): void {
  if (rule !== "anything") {
    const cluster = rule.zeroesClustersOf
    const first = Math.ceil(offset / cluster) * cluster
    // A last cluster that the disk's end cuts short counts as whole.
    const end = offset + length === model.size ? model.size : Math.floor((offset + length) / cluster) * cluster
    if (end > first) model.zero(first, end - first)
    return
  }
  const data = new Uint8Array(length)
  disk.pread(data, offset)
  for (let at = 0; at < length; ) {
    const part = data.subarray(at, Math.min(length, at + 512 - ((offset + at) % 512)))
    if (part.every((byte) => byte === 0)) model.zero(offset + at, part.length)
    else expectSame(model, part, offset + at, "a read after a discard")
    at += part.length
  }
}

export function expectSame(model: FlatModel, data: Uint8Array, offset: number, what: string): void {
  const difference = model.firstDifference(data, offset)
  if (difference < 0) return
  const [expected] = model.read(difference, 1)
  throw new Error(`${what} of ${data.length} bytes at ${offset}: byte ${difference} is ${data[difference - offset]}, not ${expected}`)
}

/** The operation without its data, for messages. */
export function describeOperation(operation: Operation): string {
  switch (operation.kind) {
    case "write":
      return (
        `write ${operation.data.length} bytes at ${operation.offset} in ${operation.parts}${operation.compressed ? ", compressed" : ""}`
      )
    case "read":
      return `read ${operation.length} bytes at ${operation.offset} in ${operation.parts}`
    case "discard":
      return `discard ${operation.length} bytes at ${operation.offset}`
    case "writeZeroes":
      return `write ${operation.length} zeroes at ${operation.offset}${operation.mayUnmap ? ", may unmap" : ""}`
    default:
      return operation.kind
  }
}

export interface OperationRun {
  readonly disk: VirtioBacking
  readonly model: FlatModel
  readonly rng: Rng
  readonly count: number
  readonly limits: OperationLimits
  readonly discardRule: DiscardRule
  /** Closes the disk, checks its files, and opens it again. */
  reopen(disk: VirtioBacking): VirtioBacking
}

/** Does `count` random operations, compares the whole disk now and then and at the end, and closes it with a last `reopen`. */
export function runOperations(run: OperationRun): void {
  let { disk } = run
  const history: string[] = []
  try {
    for (let index = 0; index < run.count; index++) {
      const operation = randomOperation(run.rng, run.limits)
      history.push(`${index}: ${describeOperation(operation)}`)
      if (operation.kind === "reopen") disk = run.reopen(disk)
      else applyOperation(disk, run.model, operation, run.discardRule)
      if (index % 50 === 49) expectAllSame(disk, run.model)
    }
    disk = run.reopen(disk)
    expectAllSame(disk, run.model)
    disk.close()
  } catch (error) {
    if (error instanceof Error) error.message += `\nthe last operations were:\n${history.slice(-12).join("\n")}`
    throw error
  }
}

function expectAllSame(disk: VirtioBacking, model: FlatModel): void {
  const difference = model.firstDifferenceOf(disk)
  if (difference < 0) return
  const byte = new Uint8Array(1)
  disk.pread(byte, difference)
  throw new Error(`byte ${difference} of the disk is ${byte[0]}, not ${model.read(difference, 1)[0]}`)
}
