/**
 * Crash replay over a file that answers late: the operations run on an image whose changes reach the source through the log of a
 * `PagedFile`, and the source's own record is cut at any change.
 */
import type { AwaitedDisk } from "../../src/backing/paging/awaited-disk.ts"
import { LateFile } from "../backing/paging/late-file.ts"
import { openLate } from "../backing/paging/open-late.ts"
import { DurableModel } from "../support/durable-model.ts"
import type { FlatModel } from "../support/flat-model.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import { describeOperation, type Operation, randomOperation } from "../support/random-operations.ts"
import { RecordingFile } from "../support/recording-file.ts"
import { type CrashRound, noteChange, replay, type Stage } from "./replay.ts"

/** As `crashRound`, with the changes drained late. Returns the points tried. @throws Error that names the crash point */
export async function lateCrashRound(round: CrashRound): Promise<number> {
  const recorder = new RecordingFile(round.base.clone())
  const stages = await runLate(recorder, round)
  return replay(recorder.log, stages, round)
}

async function runLate(recorder: RecordingFile, round: CrashRound): Promise<Stage[]> {
  const { rng } = round
  const model = modelOf(openInMemory(round.base.clone({ readOnly: true }), round.options))
  let durable = DurableModel.flushed(model)
  const stages: Stage[] = [{ from: 0, durable, doing: "open" }]
  const pageSize = rng.pick([512, 4096])
  const disk = await openLate(new LateFile(recorder, rng), (file) => openInMemory(file, round.options), {
    pageSize, cacheSize: pageSize * rng.pick([1, 16]), logSize: rng.pick([1, 20_000, 1 << 20]),
  })
  for (let index = 0; index < round.operations; index++) {
    const operation = randomOperation(rng, { size: disk.size, longest: 8192, ...round.limits })
    if (operation.kind === "reopen" || (operation.kind === "discard" && round.discardRule === "anything")) continue
    const doing = `${index}: ${describeOperation(operation)}`
    durable = durable.clone()
    noteChange(durable, operation)
    stages.push({ from: recorder.log.length, durable, doing })
    await perform(disk, model, operation, round)
    if (operation.kind !== "flush") continue
    durable = DurableModel.flushed(model)
    stages.push({ from: recorder.log.length, durable, doing: `after ${doing}` })
  }
  await disk.close()
  stages.push({ from: recorder.log.length, durable: DurableModel.flushed(model), doing: "after close" })
  return stages
}

async function perform(disk: AwaitedDisk, model: FlatModel, operation: Operation, round: CrashRound): Promise<void> {
  switch (operation.kind) {
    case "write":
      await disk.pwrite(operation.data, operation.offset)
      return model.write(operation.data, operation.offset)
    case "writeZeroes":
      await disk.writeZeroes?.(operation.offset, operation.length, operation.mayUnmap)
      return model.zero(operation.offset, operation.length)
    case "discard":
      await disk.discard?.(operation.offset, operation.length)
      return zeroClusters(model, operation, round)
    case "read":
      return await disk.pread(new Uint8Array(operation.length), operation.offset)
    default:
      await disk.flush?.()
  }
}

function zeroClusters(model: FlatModel, { offset, length }: Operation & { kind: "discard" }, { discardRule }: CrashRound): void {
  if (discardRule === "anything") return
  const cluster = discardRule.zeroesClustersOf
  const first = Math.ceil(offset / cluster) * cluster
  const end = offset + length === model.size ? model.size : Math.floor((offset + length) / cluster) * cluster
  if (end > first) model.zero(first, end - first)
}
