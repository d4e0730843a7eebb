/** Kills a process that writes to an image, with SIGKILL and in the middle of it, and looks at what it leaves. */
import { spawn } from "node:child_process"
import { basename, dirname, join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { createImage } from "../../src/backing/create.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { openImage } from "../../src/backing/open.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { DurableModel } from "../support/durable-model.ts"
import { FlatModel } from "../support/flat-model.ts"
import type { Operation } from "../support/random-operations.ts"
import { Rng } from "../support/rng.ts"
import { drawOperation, KILL_CLUSTER_SIZE, KILL_SIZE, modelAfter } from "./kill-work.ts"
import { noteChange } from "./replay.ts"
import { describeWhole, isWhole, type WholeModel } from "./whole/operations.ts"
import { expectOneOf, type Possible, wholeModelOf } from "./whole/replay.ts"

const here = dirname(fileURLToPath(import.meta.url))

/** Makes the image that the child works on: an overlay of a backing image. */
export function makeKillImage(path: string): WholeModel {
  const base = `${path}.base`
  createImage(base, { size: KILL_SIZE, clusterSize: 512 })
  createImage(path, { size: KILL_SIZE, clusterSize: KILL_CLUSTER_SIZE, backing: basename(base), backingFormat: "qcow2" })
  return { disk: new FlatModel(KILL_SIZE), snapshots: new Map() }
}

/**
 * Lets a child work on the image at `path`, which holds `model`, until `after` operations are done, kills it, and checks what it left.
 * Returns what the image holds now, and how many operations the child has done.
 * @throws Error when the image is corrupt or misses something that was stored
 */
export async function killRound(
  path: string, model: WholeModel, round: { readonly seed: number; readonly after: number },
): Promise<{ readonly model: WholeModel; readonly done: number }> {
  const done = await runAndKill(path, round)
  const { possible, doing } = whatMayBe(model, round.seed, done)
  try {
    for (const each of [path, `${path}.base`]) expectSound(each)
    const asFound = openImage(path, { format: "qcow2", readOnly: true })
    if (!(asFound instanceof Qcow2Image)) throw new Error("it is no qcow2 image any more")
    expectOneOf(asFound, possible)
    const content = wholeModelOf(asFound)
    asFound.close()
    return { model: content, done }
  } catch (error) {
    throw new Error(`after ${done} operations, during: ${doing}`, { cause: error })
  }
}

function expectSound(path: string): void {
  const file = new HostFile(path, { readOnly: true })
  const { corruptions, findings } = checkQcow2(file)
  file.close()
  if (corruptions > 0) throw new Error(`${path}: ${findings.slice(0, 5).map(({ message }) => message).join("; ")}`)
}

async function runAndKill(path: string, { seed, after }: { readonly seed: number; readonly after: number }): Promise<number> {
  const child = spawn(process.execPath, ["--import", "tsx", join(here, "kill-child.ts"), path, String(seed)], {
    cwd: join(here, "..", ".."), stdio: ["ignore", "pipe", "pipe"],
  })
  const errors: Buffer[] = []
  child.stderr.on("data", (data: Buffer) => errors.push(data))
  const closed = new Promise<NodeJS.Signals | null>((resolve) => child.on("close", (_code, signal) => resolve(signal)))
  let done = 0
  for await (const line of createInterface({ input: child.stdout })) {
    const [word, index] = line.split(" ")
    if (word === "open") continue
    done = Number(index) + 1
    if (done >= after) child.kill("SIGKILL")
  }
  const signal = await closed
  if (signal !== "SIGKILL") throw new Error(`the child ended by itself: ${Buffer.concat(errors).toString()}`)
  return done
}

/**
 * Draws the child's operations again. What was before the last flush, commit, snapshot or size has happened; what came after it may have,
 * and one more may be half done.
 */
function whatMayBe(start: WholeModel, seed: number, done: number): { readonly possible: readonly Possible[]; readonly doing: string } {
  const rng = new Rng(seed)
  let model: WholeModel = { ...start, disk: start.disk.clone() }
  let durable = DurableModel.flushed(model.disk)
  for (let index = 0; ; index++) {
    const operation = drawOperation(rng, model)
    const after = modelAfter(model, operation)
    const isStored = operation.kind === "commit" || operation.kind === "flush" || (isWhole(operation) && operation.kind !== "look")
    if (index === done) {
      const doing = operation.kind === "commit" ? "commit" : describeWhole(operation)
      if (operation.kind !== "commit" && !isWhole(operation)) noteChange(durable, operation)
      const before = { disk: durable, model }
      return { possible: after === model ? [before] : [before, { disk: DurableModel.flushed(after.disk), model: after }], doing }
    }
    if (operation.kind !== "commit" && !isWhole(operation)) {
      durable = durable.clone()
      noteChange(durable, operation)
      updateModel(model.disk, operation)
    }
    model = after
    if (isStored) durable = DurableModel.flushed(model.disk)
  }
}

function updateModel(model: FlatModel, operation: Operation): void {
  if (operation.kind === "write") model.write(operation.data, operation.offset)
  else if (operation.kind === "writeZeroes") model.zero(operation.offset, operation.length)
  else if (operation.kind === "discard") discardWhole(model, operation.offset, operation.length)
}

function discardWhole(model: FlatModel, offset: number, length: number): void {
  const first = Math.ceil(offset / KILL_CLUSTER_SIZE) * KILL_CLUSTER_SIZE
  const end = offset + length === model.size ? model.size : Math.floor((offset + length) / KILL_CLUSTER_SIZE) * KILL_CLUSTER_SIZE
  if (end > first) model.zero(first, end - first)
}
