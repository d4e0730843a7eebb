/**
 * One round on an image over a file that answers late: two to eight requests at a time, in ranges of their own, against a flat model. At
 * the end the file must be sound and hold what the model holds, for the synchronous reader as well.
 */
import { BackingError } from "../../src/backing/backing.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import type { AwaitedDisk } from "../../src/backing/paging/awaited-disk.ts"
import type { LoadingDisk } from "../../src/backing/paging/loading-disk.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"
import { LateFile } from "../backing/paging/late-file.ts"
import { openLate, openLateWithData } from "../backing/paging/open-late.ts"
import { withData } from "../crash/crashed-files.ts"
import type { FlatModel } from "../support/flat-model.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { type DiscardRule, expectSame, type Operation, randomOperation } from "../support/random-operations.ts"
import type { Rng } from "../support/rng.ts"

export interface LateDisk {
  readonly base: MemoryFile
  /** Undefined for a raw image. */
  readonly options: OpeningOptions | undefined
  /** A raw backing image, which answers late as well. */
  readonly below?: MemoryFile
  /** The external data file, which answers late as well. */
  readonly data?: MemoryFile
  readonly longest: number
  readonly discardRule: DiscardRule
}

/** Runs one round of `batches`. Returns the reads that the source was asked for. @throws Error at the first byte that is wrong */
export async function lateDiskRound(shape: LateDisk, rng: Rng, batches: number): Promise<number> {
  const file = shape.base.clone()
  const data = shape.data?.clone()
  const open = (over: ImageFile, [below]: readonly ImageFile[], external: ImageFile | undefined): LoadingDisk => {
    if (shape.options === undefined) return new RawBacking(over)
    const options = withData(shape.options, external)
    return openInMemory(over, { ...options, ...(below === undefined ? {} : { openBacking: () => new RawBacking(below) }) })
  }
  const below = (): MemoryFile[] => (shape.below === undefined ? [] : [shape.below.clone({ readOnly: true })])
  const model = modelOf(open(file.clone({ readOnly: true }), below(), data?.clone({ readOnly: true })))
  const source = new LateFile(file, rng, { canPunch: rng.chance(0.7) })
  const pageSize = rng.pick([512, 4096, 65_536])
  const sizes = { pageSize, cacheSize: pageSize * rng.pick([1, 1, 6, 100]), logSize: rng.pick([1, 20_000, 1 << 20]) }
  const lower = below().map((each) => new LateFile(each, rng))
  const external = data && new LateFile(data, rng)
  const disk = external === undefined
    ? await openLate(source, (over, under) => open(over, under, undefined), sizes, lower)
    : await openLateWithData(source, external, (over, other) => open(over, [], other), sizes)
  const odds = rng.pick([0, 0, 0.03])
  const sources = [source, ...lower, ...(external === undefined ? [] : [external])]
  for (const each of sources) {
    each.failing = (call) => (call === "read" && rng.chance(odds) ? new Error("injected") : undefined)
  }
  for (let batch = 0; batch < batches; batch++) await runBatch(disk, model, shape, rng)
  for (const each of sources) each.failing = undefined
  await disk.close()
  const after = file.clone()
  if (shape.options !== undefined) {
    const { corruptions, findings } = checkQcow2(after)
    if (corruptions > 0) throw new Error(`the check finds: ${findings.slice(0, 5).map(({ message }) => message).join("; ")}`)
  }
  const difference = model.firstDifferenceOf(open(after, below(), data?.clone()))
  if (difference >= 0) throw new Error(`byte ${difference} is wrong in the file that was left`)
  return source.counts.read
}

async function runBatch(disk: AwaitedDisk, model: FlatModel, shape: LateDisk, rng: Rng): Promise<void> {
  const operations = disjoint(Array.from({ length: rng.between(2, 8) }, () => draw(disk, shape, rng)))
  await Promise.all(operations.map((operation) => insist(() => perform(disk, model, operation, rng))))
  for (const operation of operations) updateModel(model, operation, shape.discardRule)
}

/** Repeats what fails because a read of the source has failed. */
async function insist(work: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof BackingError) || !error.message.includes("injected")) throw error
    }
  }
}

function draw(disk: AwaitedDisk, shape: LateDisk, rng: Rng): Operation {
  for (;;) {
    const operation = randomOperation(rng, { size: disk.size, longest: shape.longest })
    if (operation.kind === "discard" && (shape.discardRule === "anything" || disk.discard === undefined)) continue
    if (operation.kind !== "reopen") return operation
  }
}

/** Those that do not overlap one before them. */
function disjoint(operations: readonly Operation[]): Operation[] {
  const kept: Operation[] = []
  for (const operation of operations) if (!kept.some((other) => meets(operation, other))) kept.push(operation)
  return kept
}

function rangeOf(operation: Operation): readonly [start: number, end: number] {
  if (operation.kind === "flush" || operation.kind === "reopen") return [0, 0]
  const length = operation.kind === "write" ? operation.data.length : operation.length
  return [operation.offset, operation.offset + length]
}

function meets(one: Operation, other: Operation): boolean {
  const [[start, end], [from, to]] = [rangeOf(one), rangeOf(other)]
  return start < to && from < end
}

/** The buffers that are lent are taken away when the call has been answered. */
async function perform(disk: AwaitedDisk, model: FlatModel, operation: Operation, rng: Rng): Promise<void> {
  switch (operation.kind) {
    case "write": {
      const data = operation.data.slice()
      if (!rng.chance(0.3) || !disk.pwriteNow([data], operation.offset)) await disk.pwrite(data, operation.offset)
      data.fill(0xee)
      return
    }
    case "read": {
      const data = new Uint8Array(operation.length).fill(0xee)
      if (!rng.chance(0.3) || !disk.preadNow([data], operation.offset)) await disk.pread(data, operation.offset)
      expectSame(model, data, operation.offset, "a read")
      return
    }
    case "discard":
      return await disk.discard?.(operation.offset, operation.length)
    case "writeZeroes":
      return await disk.writeZeroes?.(operation.offset, operation.length, operation.mayUnmap)
    default:
      return await disk.flush?.()
  }
}

function updateModel(model: FlatModel, operation: Operation, rule: DiscardRule): void {
  if (operation.kind === "write") model.write(operation.data, operation.offset)
  else if (operation.kind === "writeZeroes") model.zero(operation.offset, operation.length)
  else if (operation.kind === "discard" && rule !== "anything") {
    const cluster = rule.zeroesClustersOf
    const end = operation.offset + operation.length
    const first = Math.ceil(operation.offset / cluster) * cluster
    const last = end === model.size ? end : Math.floor(end / cluster) * cluster
    if (last > first) model.zero(first, last - first)
  }
}
