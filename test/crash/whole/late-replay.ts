/**
 * Crash replay of snapshots and sizes over files that answer late. An operation that has returned is only on its way to the source: until
 * a flush, a power cut may leave the image as it was before or after any of those since the last one.
 */
import { DurableModel } from "../../support/durable-model.ts"
import { openInMemory } from "../../support/images.ts"
import { recordFiles, withData } from "../crashed-files.ts"
import { openRecorded, performLate, type Recorded } from "../late-replay.ts"
import { noteChange } from "../replay.ts"
import {
  describeWhole, isWhole, performWhole, randomWholeOperation, type WholeModel, wholeModelAfter, type WholeOperation,
} from "./operations.ts"
import { type Possible, replayWhole, type WholeCrashRound, wholeModelOf, type WholeStage } from "./replay.ts"

/** As `wholeCrashRound`, with the changes drained late. Returns the points tried. @throws Error that names the crash point */
export async function lateWholeCrashRound(round: WholeCrashRound): Promise<number> {
  const files = recordFiles(round)
  return replayWhole(files.file.log, await runLate(files, round), round)
}

async function runLate(files: Recorded, round: WholeCrashRound): Promise<WholeStage[]> {
  const { rng, limits, base, options, data } = round
  const { log } = files.file
  let model = wholeModelOf(openInMemory(base.clone({ readOnly: true }), withData(options, data?.clone({ readOnly: true }))))
  let possible: readonly Possible[] = [{ disk: DurableModel.flushed(model.disk), model }]
  const stages: WholeStage[] = [{ from: 0, doing: "open", possible }]
  const disk = await openRecorded(files, round)
  for (let index = 0; index < round.operations; index++) {
    const operation = randomWholeOperation(rng, limits, model)
    if (operation.kind === "reopen" || (operation.kind === "discard" && round.discardRule === "anything")) continue
    const doing = `${index}: ${describeWhole(operation)}`
    const after = isWhole(operation) ? wholeModelAfter(model, operation) : model
    possible = withOperation(possible, operation, after)
    stages.push({ from: log.length, doing, possible })
    if (!isWhole(operation)) await performLate(disk, model.disk, operation, round)
    else await performWhole(disk, operation)
    model = after
    if (operation.kind !== "flush") continue
    possible = [{ disk: DurableModel.flushed(model.disk), model }]
    stages.push({ from: log.length, doing: `after ${doing}`, possible })
  }
  await disk.close()
  stages.push({ from: log.length, doing: "after close", possible: [{ disk: DurableModel.flushed(model.disk), model }] })
  return stages
}

/** What may be there once `operation` is under way: whatever is written later comes after all that has been synced, in either file. */
function withOperation(possible: readonly Possible[], operation: WholeOperation, after: WholeModel): readonly Possible[] {
  if (operation.kind === "look") return possible
  if (isWhole(operation)) return [...possible, { disk: DurableModel.flushed(after.disk), model: after }]
  return possible.map((each, at) => {
    if (at < possible.length - 1) return each
    const disk = each.disk.clone()
    noteChange(disk, operation)
    return { ...each, disk }
  })
}
