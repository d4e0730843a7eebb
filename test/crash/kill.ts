/** Kills a process that writes to an image, with SIGKILL and in the middle of it, and looks at what it leaves. */
import { spawn } from "node:child_process"
import { dirname, join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { openImage } from "../../src/backing/open.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { DurableModel } from "../support/durable-model.ts"
import type { FlatModel } from "../support/flat-model.ts"
import { modelOf } from "../support/images.ts"
import { type Operation, randomOperation } from "../support/random-operations.ts"
import { Rng } from "../support/rng.ts"

const here = dirname(fileURLToPath(import.meta.url))

/** How far the child came: operations done, and how many of them a flush has covered. */
interface Progress {
  readonly done: number
  readonly flushed: number
}

/**
 * Lets a child work on the image at `path`, which holds `model`, until `after` operations are done, kills it, and checks what it left.
 * Returns what the disk holds now, and how far the child came.
 * @throws Error when the image is corrupt or misses something that was flushed
 */
export async function killRound(
  path: string, model: FlatModel, round: { readonly seed: number; readonly after: number },
): Promise<{ model: FlatModel; progress: Progress }> {
  const progress = await runAndKill(path, round)
  const durable = whatMayBe(model, round.seed, progress)
  const file = new HostFile(path, { readOnly: true })
  const found = checkQcow2(file)
  file.close()
  if (found.corruptions > 0) {
    throw new Error(`after ${progress.done} operations: ${found.findings.slice(0, 5).map((finding) => finding.message).join("; ")}`)
  }
  const asFound = openImage(path, { format: "qcow2", readOnly: true })
  durable.check(asFound)
  const content = modelOf(asFound)
  asFound.close()
  return { model: content, progress }
}

async function runAndKill(path: string, { seed, after }: { readonly seed: number; readonly after: number }): Promise<Progress> {
  const child = spawn(process.execPath, ["--import", "tsx", join(here, "kill-child.ts"), path, String(seed)], {
    cwd: join(here, "..", ".."), stdio: ["ignore", "pipe", "pipe"],
  })
  const errors: Buffer[] = []
  child.stderr.on("data", (data: Buffer) => errors.push(data))
  const closed = new Promise<NodeJS.Signals | null>((resolve) => child.on("close", (_code, signal) => resolve(signal)))
  let done = 0
  let flushed = 0
  for await (const line of createInterface({ input: child.stdout })) {
    const [word, index] = line.split(" ")
    if (word === "open") continue
    done = Number(index) + 1
    if (word === "flushed") flushed = done
    if (done >= after) child.kill("SIGKILL")
  }
  const signal = await closed
  if (signal !== "SIGKILL") throw new Error(`the child ended by itself: ${Buffer.concat(errors).toString()}`)
  return { done, flushed }
}

/** Replays the child's operations: those before the last flush have happened, those after it may have, and one more may be half done. */
function whatMayBe(model: FlatModel, seed: number, progress: Progress): DurableModel {
  const rng = new Rng(seed)
  const flushed = model.clone()
  const later: Operation[] = []
  for (let index = 0; index <= progress.done; index++) {
    const operation = randomOperation(rng, { size: model.size, longest: 30_000 })
    if (index >= progress.flushed) later.push(operation)
    else if (operation.kind === "write") flushed.write(operation.data, operation.offset)
    else if (operation.kind === "writeZeroes") flushed.zero(operation.offset, operation.length)
    else if (operation.kind === "discard") discardWhole(flushed, operation.offset, operation.length)
  }
  const durable = DurableModel.flushed(flushed)
  for (const operation of later) {
    if (operation.kind === "write") durable.write(operation.data, operation.offset)
    else if (operation.kind === "writeZeroes" || operation.kind === "discard") durable.zero(operation.offset, operation.length)
  }
  return durable
}

/** Cluster size of the image that the kill tests use. */
export const KILL_CLUSTER_SIZE = 1024

function discardWhole(model: FlatModel, offset: number, length: number): void {
  const first = Math.ceil(offset / KILL_CLUSTER_SIZE) * KILL_CLUSTER_SIZE
  const end = offset + length === model.size ? model.size : Math.floor((offset + length) / KILL_CLUSTER_SIZE) * KILL_CLUSTER_SIZE
  if (end > first) model.zero(first, end - first)
}
