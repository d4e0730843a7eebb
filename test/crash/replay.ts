/**
 * Crash replay: runs operations on a recorded image, then builds the file as a power cut at any write may have left it, and looks at it.
 */
import { BackingError } from "../../src/backing/backing.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import { DurableModel } from "../support/durable-model.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import type { MemoryFile } from "../support/memory-file.ts"
import {
  applyOperation, describeOperation, type DiscardRule, type Operation, type OperationLimits, randomOperation,
} from "../support/random-operations.ts"
import type { FileChange, RecordingFile } from "../support/recording-file.ts"
import { type CrashedFiles, type CrashStart, recordFiles, type Since, tryCrashes, withData } from "./crashed-files.ts"

export interface CrashRound extends CrashStart {
  readonly options: OpeningOptions
  readonly operations: number
  readonly limits?: Partial<OperationLimits>
  readonly discardRule: DiscardRule
  /** Looks at what else must be as it was, in each crashed file. */
  readonly alsoCheck?: (crashed: MemoryFile) => void
  /** Called with some of the crashed files, for a second opinion. */
  readonly sample?: (crashed: MemoryFile) => void
}

/** From this many recorded changes on, `durable` says what the disk may hold. */
export interface Stage extends Since {
  readonly durable: DurableModel
}

/** Runs one round. Returns the points tried. @throws Error that names the crash point when a crashed file is not what it must be */
export function crashRound(round: CrashRound): number {
  const { file, data } = recordFiles(round)
  return replay(file.log, runRecorded(file, { ...round, options: withData(round.options, data) }), round)
}

/** Tries crashes after each change of `log`. @throws as `crashRound` */
export function replay(log: readonly FileChange[], stages: readonly Stage[], round: CrashRound): number {
  return tryCrashes(log, stages, round, (crashed, stage) => tryPoint(crashed, stage, round))
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

function tryPoint({ file: crashed, data }: CrashedFiles, stage: Stage, round: CrashRound): void {
  const isDirty = (new DataView(crashed.toBytes().buffer).getUint32(76) & 1) !== 0
  const found = checkQcow2(crashed)
  // Under lazy refcounts the dirty bit stands for corruptions that the next opening repairs.
  if (found.corruptions > 0 && !isDirty) {
    throw new Error(`the check finds: ${found.findings.slice(0, 5).map((finding) => finding.message).join("; ")}`)
  }
  checkContent({ file: crashed, data }, stage, round)
  round.alsoCheck?.(crashed)
  if (round.rng.chance(0.05)) round.sample?.(crashed)
}

/** Reads it as it is, then opens it for writing, uses it, and closes it: all must work. */
function checkContent({ file: crashed, data }: CrashedFiles, stage: Stage, round: CrashRound): void {
  const asFound = openInMemory(crashed.clone({ readOnly: true }), withData(round.options, data?.clone()))
  stage.durable.check(asFound)
  asFound.close()
  if (!round.rng.chance(0.25)) return

  const file = crashed.clone()
  const used = data?.clone()
  const disk: Qcow2Image = openInMemory(file, withData(round.options, used))
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
  const difference = model.firstDifferenceOf(openInMemory(after, withData(round.options, used?.clone())))
  if (difference >= 0) throw new Error(`used after the crash, byte ${difference} is wrong`)
}
