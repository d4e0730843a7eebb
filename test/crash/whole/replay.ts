/**
 * Crash replay of what concerns all of an image: snapshots and sizes, among writes. Whatever a power cut leaves has no corruption, every
 * snapshot as it was, and the disk as it was before an operation or as it is after it, never between.
 */
import type { OpeningOptions } from "../../../src/backing/qcow2/open.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { DurableModel } from "../../support/durable-model.ts"
import { modelOf, openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { applyOperation, type DiscardRule } from "../../support/random-operations.ts"
import type { FileChange, RecordingFile } from "../../support/recording-file.ts"
import type { Rng } from "../../support/rng.ts"
import { makeShape, type Qcow2Shape } from "../../support/shapes.ts"
import {
  describeWhole, expectSnapshots, isWhole, performWhole, randomWholeOperation, type WholeLimits, type WholeModel, wholeModelAfter,
} from "./operations.ts"
import { type CrashedFiles, type CrashStart, recordFiles, type Since, tryCrashes, withData } from "../crashed-files.ts"
import { noteChange } from "../replay.ts"

export interface WholeCrashRound extends CrashStart {
  readonly options: OpeningOptions
  readonly operations: number
  readonly limits: WholeLimits
  readonly discardRule: DiscardRule
}

/** What the image may be from this many recorded changes on. */
export interface WholeStage extends Since {
  readonly possible: readonly Possible[]
}

export interface Possible {
  readonly disk: DurableModel
  readonly model: WholeModel
}

/** The model of an image as it is. */
export function wholeModelOf(disk: Qcow2Image): WholeModel {
  const snapshots = new Map(disk.snapshots.list().map(({ id }) => [id, modelOf(disk.snapshots.open(id))]))
  return { disk: modelOf(disk), snapshots }
}

/** Runs one round. Returns the points tried. @throws Error that names the crash point */
export function wholeCrashRound(round: WholeCrashRound): number {
  const { file, data } = recordFiles(round)
  return replayWhole(file.log, runRecorded(file, { ...round, options: withData(round.options, data) }), round)
}

/** Tries crashes after each change of `log`. @throws as `wholeCrashRound` */
export function replayWhole(log: readonly FileChange[], stages: readonly WholeStage[], round: WholeCrashRound): number {
  return tryCrashes(log, stages, round, (crashed, stage) => tryPoint(crashed, stage, round))
}

function runRecorded(recorder: RecordingFile, round: WholeCrashRound): WholeStage[] {
  const disk = openInMemory(recorder, round.options)
  let model = wholeModelOf(disk)
  let durable = DurableModel.flushed(model.disk)
  const stages: WholeStage[] = [{ from: 0, doing: "open", possible: [{ disk: durable, model }] }]
  const note = (doing: string, possible: readonly Possible[]): void => void stages.push({ from: recorder.log.length, doing, possible })
  for (let index = 0; index < round.operations; index++) {
    const operation = randomWholeOperation(round.rng, round.limits, model)
    const doing = `${index}: ${describeWhole(operation)}`
    if (isWhole(operation)) {
      const after = wholeModelAfter(model, operation)
      const flushed = DurableModel.flushed(after.disk)
      note(doing, [{ disk: durable, model }, { disk: flushed, model: after }])
      performWhole(disk, operation)
      model = after
      if (operation.kind === "look") continue
      durable = flushed
      note(`after ${doing}`, [{ disk: durable, model }])
      continue
    }
    durable = durable.clone()
    noteChange(durable, operation)
    note(doing, [{ disk: durable, model }])
    applyOperation(disk, model.disk, operation, round.discardRule)
    if (operation.kind === "flush") durable = DurableModel.flushed(model.disk)
    if (operation.kind === "flush") note(`after ${doing}`, [{ disk: durable, model }])
  }
  disk.close()
  note("after close", [{ disk: DurableModel.flushed(model.disk), model }])
  return stages
}

function tryPoint({ file, data }: CrashedFiles, stage: WholeStage, round: WholeCrashRound): void {
  expectSound(file)
  const disk = openInMemory(file.clone({ readOnly: true }), withData(round.options, data?.clone({ readOnly: true })))
  expectOneOf(disk, stage.possible)
  disk.close()
  if (round.rng.chance(0.15)) useAgain({ file: file.clone(), data: data?.clone() }, round)
}

function expectSound(file: MemoryFile): void {
  const { corruptions, findings } = checkQcow2(file)
  if (corruptions > 0) throw new Error(`the check finds: ${findings.slice(0, 5).map(({ message }) => message).join("; ")}`)
}

/** What a crash has left can be used like any image, leaks and all. */
function useAgain({ file, data }: CrashedFiles, { rng, options, limits, discardRule }: WholeCrashRound): void {
  const disk = openInMemory(file, withData(options, data))
  let model = wholeModelOf(disk)
  const done: string[] = []
  for (let count = 0; count < 6; count++) {
    const operation = randomWholeOperation(rng, { ...limits, share: 0.5 }, model)
    done.push(describeWhole(operation))
    if (!isWhole(operation)) applyOperation(disk, model.disk, operation, discardRule)
    else {
      performWhole(disk, operation)
      model = wholeModelAfter(model, operation)
    }
  }
  disk.close()
  const after = file.clone({ readOnly: true })
  expectSound(after)
  const again = openInMemory(after, withData(options, data?.clone({ readOnly: true })))
  try {
    expectOneOf(again, [{ disk: DurableModel.flushed(model.disk), model }])
  } catch (error) {
    throw new Error(`used again (${done.join("; ")})`, { cause: error })
  }
  again.close()
}

/** @throws Error unless the image is one of these */
export function expectOneOf(disk: Qcow2Image, possible: readonly Possible[]): void {
  const errors: Error[] = []
  for (const { disk: durable, model } of possible) {
    try {
      durable.check(disk)
      expectSnapshots(disk, model)
      return
    } catch (error) {
      if (!(error instanceof Error)) throw error
      errors.push(error)
    }
  }
  throw new Error(errors.map(({ message }) => message).join("; or "))
}

const SIZE = 100_352
/** Large enough for holes in the file. */
const LARGE = 3 << 19

/** A round on a fresh image of that shape. Version 2 keeps its size while it has snapshots, so there it is one or the other. */
export function wholeRoundFor(shape: Qcow2Shape, rng: Rng): Omit<WholeCrashRound, "operations" | "share"> {
  const isLarge = (shape.options.clusterSize ?? 65536) >= 16384 && rng.chance(0.1)
  const size = isLarge ? LARGE : SIZE
  const { file, opening } = makeShape(shape, size)
  const { clusterSize = 65536, compat, refcountBits, dataFile } = shape.options
  const isOld = compat === "0.10"
  const snapshots = dataFile === undefined && refcountBits !== 1 && (!isOld || rng.chance(0.5))
  const data = opening.openDataFile?.({ name: "data", format: undefined, imagePath: "" })
  return {
    base: file,
    ...(data instanceof MemoryFile ? { data } : {}),
    rng,
    options: {
      ...opening, cacheSize: rng.pick([4, 1000]) * clusterSize, discardNoUnref: !isOld && rng.chance(0.3),
      overlapCheck: rng.pick(["cached", "all"] as const),
    },
    discardRule: isOld && shape.backing !== undefined ? "anything" : { zeroesClustersOf: clusterSize },
    limits: {
      size, longest: isLarge ? LARGE : 20_000, share: 0.4, snapshots,
      ...(isOld && snapshots ? {} : { sizes: [0, isLarge ? size : 3 * size] as const }),
    },
  }
}
