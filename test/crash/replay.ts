/**
 * Crash replay: runs operations on a recorded image, then builds the file as a power cut at any write may have left it, and looks at it.
 */
import { BackingError } from "../../src/backing/backing.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import { DurableModel } from "../support/durable-model.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import type { MemoryFile } from "../support/memory-file.ts"
import {
  applyOperation, describeOperation, type DiscardRule, type Operation, type OperationLimits, randomOperation,
} from "../support/random-operations.ts"
import { applyChange, crashedFile, type FileChange, RecordingFile } from "../support/recording-file.ts"
import type { Rng } from "../support/rng.ts"

export interface CrashRound {
  readonly base: MemoryFile
  readonly options: OpeningOptions
  /** The external data file of the image in `base`. */
  readonly data?: MemoryFile
  readonly rng: Rng
  readonly operations: number
  readonly limits?: Partial<OperationLimits>
  readonly discardRule: DiscardRule
  /** Of all crash points, try this share. Default 1. */
  readonly share?: number
  /** Looks at what else must be as it was, in each crashed file. */
  readonly alsoCheck?: (crashed: MemoryFile) => void
  /** Called with some of the crashed files, for a second opinion. */
  readonly sample?: (crashed: MemoryFile) => void
}

/** From this many recorded changes on, `durable` says what the disk may hold. */
export interface Stage {
  readonly from: number
  readonly durable: DurableModel
  readonly doing: string
}

/** Runs one round. Returns the points tried. @throws Error that names the crash point when a crashed file is not what it must be */
export function crashRound(round: CrashRound): number {
  const recorder = new RecordingFile(round.base.clone())
  const data = round.data && new RecordingFile(round.data.clone(), { log: recorder.log, to: DATA })
  const stages = runRecorded(recorder, data === undefined ? round : withData(round, data))
  return replay(recorder.log, stages, round)
}

/** The data file's name in the log. */
const DATA = "data"

function withData(round: CrashRound, data: ImageFile | undefined): CrashRound {
  return data === undefined ? round : { ...round, options: { ...round.options, openDataFile: () => data } }
}

/** An image and its data file, as a crash after the first `length` changes may have left them. */
interface Crashed {
  readonly file: MemoryFile
  readonly data: MemoryFile | undefined
}

/** Each file keeps its own order of syncs. */
function crashedFiles(log: readonly FileChange[], length: number, { base, data, rng }: CrashRound): Crashed {
  const of = (to: string | undefined): FileChange[] => log.slice(0, length).filter((change) => change.to === to)
  const image = of(undefined)
  const changes = of(DATA)
  return { file: crashedFile(base, image, image.length, rng), data: data && crashedFile(data, changes, changes.length, rng) }
}

/** Tries crashes after each change of `log`. @throws as `crashRound` */
export function replay(log: readonly FileChange[], stages: readonly Stage[], round: CrashRound): number {
  const { rng } = round
  const prefix: Crashed = { file: round.base.clone(), data: round.data?.clone() }
  let points = 0
  let stage = 0
  for (let length = 0; length <= log.length; length++) {
    while ((stages[stage + 1]?.from ?? Infinity) <= length) stage++
    const now = stages[stage]
    if (now !== undefined && rng.chance(round.share ?? 1)) {
      points += 2
      tryPoint(
        { file: prefix.file.clone(), data: prefix.data?.clone() },
        now,
        `cut after ${length} of ${log.length} changes, in order`,
        round,
      )
      tryPoint(
        crashedFiles(log, length, round),
        now,
        `cut after ${length} of ${log.length} changes, the unsynced ones in part`,
        round,
      )
    }
    const change = log[length]
    const file = change?.to === DATA ? prefix.data : prefix.file
    if (change !== undefined && file !== undefined) applyChange(file, change)
  }
  return points
}

/** Does the operations, and notes what each stretch of the log may leave behind. */
function runRecorded(recorder: RecordingFile, round: CrashRound): Stage[] {
  const disk = openInMemory(recorder, round.options)
  const model = modelOf(disk)
  let durable = DurableModel.flushed(model)
  const stages: Stage[] = [{ from: 0, durable, doing: "open" }]
  for (let index = 0; index < round.operations; index++) {
    const operation = randomOperation(round.rng, { size: disk.size, longest: 8192, ...round.limits })
    const doing = `${index}: ${describeOperation(operation)}`
    durable = durable.clone()
    noteChange(durable, operation)
    // From its first write on, an operation may show.
    stages.push({ from: recorder.log.length, durable, doing })
    applyOperation(disk, model, operation, round.discardRule)
    if (operation.kind !== "flush") continue
    durable = DurableModel.flushed(model)
    stages.push({ from: recorder.log.length, durable, doing: `after ${doing}` })
  }
  disk.close()
  stages.push({ from: recorder.log.length, durable: DurableModel.flushed(model), doing: "after close" })
  return stages
}

export function noteChange(durable: DurableModel, operation: Operation): void {
  if (operation.kind === "write") durable.write(operation.data, operation.offset)
  else if (operation.kind === "discard" || operation.kind === "writeZeroes") durable.zero(operation.offset, operation.length)
}

function tryPoint({ file: crashed, data }: Crashed, stage: Stage, where: string, round: CrashRound): void {
  try {
    const isDirty = (new DataView(crashed.toBytes().buffer).getUint32(76) & 1) !== 0
    const found = checkQcow2(crashed)
    // Under lazy refcounts the dirty bit stands for corruptions that the next opening repairs.
    if (found.corruptions > 0 && !isDirty) {
      throw new Error(`the check finds: ${found.findings.slice(0, 5).map((finding) => finding.message).join("; ")}`)
    }
    checkContent({ file: crashed, data }, stage, round)
    round.alsoCheck?.(crashed)
    if (round.rng.chance(0.05)) round.sample?.(crashed)
  } catch (error) {
    if (error instanceof Error) error.message = `${where}, during ${stage.doing}: ${error.message}`
    throw error
  }
}

/** Reads it as it is, then opens it for writing, uses it, and closes it: all must work. */
function checkContent({ file: crashed, data }: Crashed, stage: Stage, round: CrashRound): void {
  const asFound = openInMemory(crashed.clone({ readOnly: true }), withData(round, data?.clone()).options)
  stage.durable.check(asFound)
  asFound.close()
  if (!round.rng.chance(0.25)) return

  const file = crashed.clone()
  const used = data?.clone()
  const disk: Qcow2Image = openInMemory(file, withData(round, used).options)
  stage.durable.check(disk)
  const model = modelOf(disk)
  for (let index = 0; index < 10; index++) {
    applyOperation(disk, model, randomOperation(round.rng, { size: disk.size, longest: 4096 }), round.discardRule)
  }
  disk.close()
  const after = file.clone()
  const found = checkQcow2(after)
  if (found.corruptions > 0) {
    throw new BackingError(
      "corrupt",
      `used after the crash, the check finds: ${found.findings.slice(0, 5).map((finding) => finding.message).join("; ")}`,
    )
  }
  const difference = model.firstDifferenceOf(openInMemory(after, withData(round, used?.clone()).options))
  if (difference >= 0) throw new Error(`used after the crash, byte ${difference} is wrong`)
}
