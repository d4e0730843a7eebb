/**
 * Crash replay over a file that answers late: the operations run on an image whose changes reach the source through the log of a
 * `PagedFile`, and the source's own record is cut at any change.
 */
import type { ImageFile } from "../../src/backing/image-file.ts"
import type { AwaitedDisk } from "../../src/backing/paging/awaited-disk.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { LateFile } from "../backing/paging/late-file.ts"
import { openLate, openLateWithData } from "../backing/paging/open-late.ts"
import { DurableModel } from "../support/durable-model.ts"
import type { FlatModel } from "../support/flat-model.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import { describeOperation, type Operation, randomOperation } from "../support/random-operations.ts"
import { recordFiles, withData } from "./crashed-files.ts"
import { type CrashRound, noteChange, replay, type Stage } from "./replay.ts"

/** As `crashRound`, with the changes drained late. Returns the points tried. @throws Error that names the crash point */
export async function lateCrashRound(round: CrashRound): Promise<number> {
  const files = recordFiles(round)
  return replay(files.file.log, await runLate(files, round), round)
}

/** Files that were recorded, each behind a source that answers late. */
export type Recorded = ReturnType<typeof recordFiles>

/** Opens the image as one whose files answer late, in pages of some size. */
export async function openRecorded({ file, data }: Recorded, { options, rng }: Pick<CrashRound, "options" | "rng">): Promise<AwaitedDisk> {
  const pageSize = rng.pick([512, 4096])
  const sizes = { pageSize, cacheSize: pageSize * rng.pick([1, 16]), logSize: rng.pick([1, 20_000, 1 << 20]) }
  const source = new LateFile(file, rng)
  if (data === undefined) return await openLate(source, (paged) => openInMemory(paged, options), sizes)
  const open = (paged: ImageFile, other: ImageFile): Qcow2Image => openInMemory(paged, withData(options, other))
  return await openLateWithData(source, new LateFile(data, rng), open, sizes)
}

async function runLate(files: Recorded, round: CrashRound): Promise<Stage[]> {
  const { rng, data } = round
  const { log } = files.file
  const model = modelOf(openInMemory(round.base.clone({ readOnly: true }), withData(round.options, data?.clone({ readOnly: true }))))
  let durable = DurableModel.flushed(model)
  const stages: Stage[] = [{ from: 0, durable, doing: "open" }]
  const disk = await openRecorded(files, round)
  for (let index = 0; index < round.operations; index++) {
    const operation = randomOperation(rng, { size: disk.size, longest: 8192, ...round.limits })
    if (operation.kind === "reopen" || (operation.kind === "discard" && round.discardRule === "anything")) continue
    const doing = `${index}: ${describeOperation(operation)}`
    durable = durable.clone()
    noteChange(durable, operation)
    stages.push({ from: log.length, durable, doing })
    await performLate(disk, model, operation, round)
    if (operation.kind !== "flush") continue
    durable = DurableModel.flushed(model)
    stages.push({ from: log.length, durable, doing: `after ${doing}` })
  }
  await disk.close()
  stages.push({ from: log.length, durable: DurableModel.flushed(model), doing: "after close" })
  return stages
}

/** Does an operation on a disk that answers later, and on its model. */
export async function performLate(
  disk: AwaitedDisk, model: FlatModel, operation: Operation, round: Pick<CrashRound, "discardRule">,
): Promise<void> {
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

function zeroClusters(
  model: FlatModel,
  { offset, length }: Operation & { kind: "discard" },
  { discardRule }: Pick<CrashRound, "discardRule">,
): void {
  if (discardRule === "anything") return
  const cluster = discardRule.zeroesClustersOf
  const first = Math.ceil(offset / cluster) * cluster
  const end = offset + length === model.size ? model.size : Math.floor((offset + length) / cluster) * cluster
  if (end > first) model.zero(first, end - first)
}
