/**
 * Crash replay of what concerns all of an image: snapshots and sizes, among writes. Whatever a power cut leaves has no corruption, every
 * snapshot as it was, and the disk as it was before an operation or as it is after it, never between.
 */
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { DurableModel } from "../support/durable-model.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import type { MemoryFile } from "../support/memory-file.ts"
import { applyOperation, type DiscardRule } from "../support/random-operations.ts"
import { applyChange, crashedFile, RecordingFile } from "../support/recording-file.ts"
import type { Rng } from "../support/rng.ts"
import { makeShape, type Qcow2Shape } from "../support/shapes.ts"
import {
  describeWhole, expectSnapshots, isWhole, performWhole, randomWholeOperation, type WholeLimits, type WholeModel, wholeModelAfter,
} from "./whole-operations.ts"
import { noteChange } from "./replay.ts"

export interface WholeCrashRound {
  readonly base: MemoryFile
  readonly options: OpeningOptions
  readonly rng: Rng
  readonly operations: number
  readonly limits: WholeLimits
  readonly discardRule: DiscardRule
  /** Of all crash points, try this share. */
  readonly share: number
}

/** What the image may be from this many recorded changes on. */
interface Stage {
  readonly from: number
  readonly doing: string
  readonly possible: readonly Possible[]
}

interface Possible {
  readonly disk: DurableModel
  readonly model: WholeModel
}

/** Where the switch of the header begins. */
const SIZE_FIELD = 24

/** The model of an image as it is. */
export function wholeModelOf(disk: Qcow2Image): WholeModel {
  const snapshots = new Map(disk.snapshots.list().map(({ id }) => [id, modelOf(disk.snapshots.open(id))]))
  return { disk: modelOf(disk), snapshots }
}

/** Runs one round. Returns the points tried. @throws Error that names the crash point */
export function wholeCrashRound(round: WholeCrashRound): number {
  const recorder = new RecordingFile(round.base.clone())
  const stages = runRecorded(recorder, round)
  const { log } = recorder
  const prefix = round.base.clone()
  let points = 0
  let stage = 0
  for (let length = 0; length <= log.length; length++) {
    while ((stages[stage + 1]?.from ?? Infinity) <= length) stage++
    const now = stages[stage]
    const where = `cut after ${length} of ${log.length} changes`
    if (now !== undefined && round.rng.chance(round.share)) {
      points++
      tryPoint(prefix.clone(), now, `${where}, in order`, round)
    }
    // Between the write of the header and its sync the old tables and the new ones must both be whole.
    const last = log[length - 1]
    const isSwitch = last?.kind === "write" && last.offset === SIZE_FIELD
    for (let tries = isSwitch ? 6 : round.rng.chance(round.share) ? 1 : 0; now !== undefined && tries > 0; tries--) {
      points++
      tryPoint(crashedFile(round.base, log, length, round.rng), now, `${where}, in part`, round)
    }
    const change = log[length]
    if (change !== undefined) applyChange(prefix, change)
  }
  return points
}

function runRecorded(recorder: RecordingFile, round: WholeCrashRound): Stage[] {
  const disk = openInMemory(recorder, round.options)
  let model = wholeModelOf(disk)
  let durable = DurableModel.flushed(model.disk)
  const stages: Stage[] = [{ from: 0, doing: "open", possible: [{ disk: durable, model }] }]
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

function tryPoint(crashed: MemoryFile, stage: Stage, where: string, round: WholeCrashRound): void {
  try {
    const found = checkQcow2(crashed)
    if (found.corruptions > 0) throw new Error(`the check finds: ${found.findings.slice(0, 5).map(({ message }) => message).join("; ")}`)
    const disk = openInMemory(crashed.clone({ readOnly: true }), round.options)
    expectOneOf(disk, stage.possible)
    disk.close()
  } catch (error) {
    if (error instanceof Error) error.message = `${where}, during ${stage.doing}: ${error.message}`
    throw error
  }
}

function expectOneOf(disk: Qcow2Image, possible: readonly Possible[]): void {
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

/** A round on a fresh image of that shape. Version 2 keeps its size while it has snapshots, so there it is one or the other. */
export function wholeRoundFor(shape: Qcow2Shape, rng: Rng): Omit<WholeCrashRound, "operations" | "share"> {
  const { file, opening } = makeShape(shape, SIZE)
  const { clusterSize = 65536, compat, refcountBits } = shape.options
  const isOld = compat === "0.10"
  const snapshots = refcountBits !== 1 && (!isOld || rng.chance(0.5))
  return {
    base: file,
    rng,
    options: { ...opening, cacheSize: rng.pick([4, 1000]) * clusterSize },
    discardRule: isOld && shape.backing !== undefined ? "anything" : { zeroesClustersOf: clusterSize },
    limits: {
      size: SIZE, longest: 20_000, share: 0.4, snapshots, ...(isOld && snapshots ? {} : { sizes: [0, 3 * SIZE] as const }),
    },
  }
}
