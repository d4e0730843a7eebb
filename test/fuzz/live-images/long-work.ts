/** Long work on an image: stream, while guest and host go on; rebase and commit, which want that nobody changes anything meanwhile. */
import type { OpenedDisk } from "../../../src/backing/open-disk.ts"
import { commitLayers } from "../../../src/backing/operations/commit.ts"
import type { OperationOptions } from "../../../src/backing/operations/operation.ts"
import { rebaseLayers } from "../../../src/backing/operations/rebase.ts"
import { streamDisk } from "../../../src/backing/operations/stream.ts"
import { isDataFileRaw } from "../../../src/backing/qcow2/format/header.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { layersOf } from "../../../src/backing/qcow2/layers/layer-run.ts"
import type { BackingDisk } from "../../../src/backing/qcow2/reader.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { type Action, doLater, doNow, flush, guestAction, read } from "./actions.ts"
import { addLayer, addRaw, drawSize } from "./draw-world.ts"
import { hostAction, MOST_SNAPSHOTS, takeSnapshot } from "./host-actions.ts"
import type { Run } from "./run.ts"
import { contentOf } from "./world.ts"

/** A stop that was asked for. */
class Stopped extends Error {}

/** Steps that guest and host take during one piece of work: without a bound it would never end. */
const MOST_STEPS = 40
const MOST_TRIES = 8

interface Company extends Required<Pick<OperationOptions, "progress" | "signal">> {
  /** Lets the others take their turns. */
  readonly others: () => void
}

/**
 * Does `work`, while guest and host do what `draw` says. It may be stopped at any step, or meet an error. Returns whether it has come to
 * its end.
 */
async function alongside(run: Run, draw: () => Action, work: (company: Company) => Promise<unknown>): Promise<boolean> {
  const { rng, opened } = run
  let left = rng.between(0, MOST_STEPS)
  let steps = rng.chance(0.3) ? rng.between(1, 12) : Infinity
  const others = (): void => {
    steps--
    if (opened.isLate) return
    for (let count = Math.min(left, rng.below(4)); count > 0; count--, left--) doNow(draw())
    if (!run.hasFaults || rng.chance(0.5)) return
    run.disarm()
    run.arm()
  }
  const signal = { get aborted() { return steps < 0 }, reason: new Stopped("enough") } as unknown as Company["signal"]
  run.isBusy = true
  run.arm()
  try {
    const under = { isWay: true }
    const working = work({ progress: others, signal, others }).finally(() => (under.isWay = false))
    // Whoever waits for the steps below hears of it afterwards.
    working.catch(() => undefined)
    for (; opened.isLate && under.isWay && left > 0; left--) {
      await doLater(draw())
      await new Promise((resolve) => setImmediate(resolve))
    }
    await working
    return true
  } catch (error) {
    run.disarm()
    if (!(error instanceof Stopped)) run.judge(error)
    else run.note("  stopped")
    return false
  } finally {
    run.disarm()
    run.isBusy = false
  }
}

/** Somebody who changes nothing. */
function reader(run: Run): () => Action {
  return () => (run.rng.chance(0.9) ? read(run) : flush(run))
}

/** Guest and host, with few changes of the whole image: each of them makes a stream begin again. Snapshots keep what was behind it then. */
function anybody(run: Run): () => Action {
  const { rng } = run
  let whole = 6
  return () => {
    if (!rng.chance(0.3) || whole-- <= 0) return guestAction(run)
    return run.expected.snapshots.size < MOST_SNAPSHOTS && rng.chance(0.5) ? takeSnapshot(run) : hostAction(run)
  }
}

/** Pulls what is behind the image into it, over one of the layers or over none. */
export async function stream(run: Run): Promise<void> {
  const { rng } = run
  if (run.chain.length < 2) return
  const at = rng.chance(0.5) ? rng.between(1, run.chain.length - 1) : undefined
  const base = at === undefined ? undefined : run.chain[at]
  const draw = anybody(run)
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    run.note(`stream, over ${base ?? "nothing"}`)
    let time = 0
    const isDone = await alongside(run, draw, ({ progress, signal, others }) => {
      const clock = { now: () => time, sleep: async (ms: number) => (time += ms, others()) }
      return streamDisk(run.guest as OpenedDisk, {
        ...(base === undefined ? {} : { base }),
        ...(rng.chance(0.5) ? { rate: 1 << 20, clock } : {}),
        progress,
        signal,
      })
    })
    await run.check(`${isDone ? "streamed" : "not streamed"} over ${base ?? "nothing"}`)
    if (!isDone && rng.chance(0.8)) continue
    if (isDone) run.chain = [run.world.top, ...(at === undefined ? [] : run.chain.slice(at))]
    return
  }
}

/** Puts the image onto another chain: a new one, what is behind the one that is there, or none. */
export async function rebase(run: Run): Promise<void> {
  const { rng, world, image } = run
  if (run.opened.isLate) return
  const lower = run.chain.slice(2)
  // A raw data file holds all that the guest sees.
  const name = isDataFileRaw(image.header) ? undefined : drawBase(run, lower)
  const draw = reader(run)
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const disk = name === undefined ? undefined : world.read(name)
    const same = lower.includes(name ?? "") && rng.chance(0.7) ? layerCalled(image, name) : undefined
    const reference = name === undefined ? undefined : { name, format: world.layer(name).format }
    run.note(`rebase onto ${name ?? "nothing"}${same === undefined ? "" : ", which is in the chain"}`)
    let old: BackingDisk | undefined
    const isDone = await alongside(run, draw, async ({ progress, signal }) => {
      old = await rebaseLayers(image, { reference, disk, same }, { progress, signal })
    })
    if (isDone) old?.close()
    else disk?.close()
    await run.check(`${isDone ? "rebased" : "not rebased"} onto ${name ?? "nothing"}`)
    if (!isDone && rng.chance(0.8)) continue
    if (isDone) run.chain = [world.top, ...(name === undefined ? [] : world.chainOf(name))]
    return
  }
}

function drawBase({ rng, world }: Run, lower: readonly string[]): string | undefined {
  if (lower.length > 0 && rng.chance(0.7)) return rng.pick(lower)
  if (rng.chance(0.25)) return undefined
  const size = drawSize(rng, 4096)
  if (rng.chance(0.5)) return addRaw(rng, world, size)
  return addLayer(rng, world, { under: rng.chance(0.5) ? addRaw(rng, world, drawSize(rng, 4096)) : undefined, size })
}

function layerCalled(image: Qcow2Image, name: string | undefined): Qcow2Image | RawBacking | undefined {
  for (const layer of layersOf(image)) {
    if ((layer instanceof Qcow2Image || layer instanceof RawBacking) && layer.path === name) return layer
  }
  return undefined
}

/** Writes what the image holds into one behind it. Nobody writes to it meanwhile. */
export async function commit(run: Run): Promise<void> {
  const { rng, world } = run
  if (run.chain.length < 2) return
  const at = rng.between(1, run.chain.length - 1)
  const name = run.chain[at] ?? ""
  const keep = at > 1 || rng.chance(0.3)
  await run.close()
  await run.open({ now: true, writable: [name] })
  await run.check("opened for a commit")
  const base = layerCalled(run.image, name)
  if (base === undefined) throw new Error("there is no base")
  const before = await contentOf(base)
  const draw = reader(run)
  for (let tries = 0, isDone = false; tries < MOST_TRIES && !isDone; tries++) {
    run.note(`commit to ${name}${keep ? ", and keep it" : ""}`)
    isDone = await alongside(run, draw, ({ progress, signal }) => commitLayers(run.image, base, { keep, progress, signal }))
    await run.check(`${isDone ? "committed" : "not committed"} to ${name}`)
    if (!isDone && rng.chance(0.8)) continue
    if (!isDone) break
    const after = await contentOf(base)
    const { size } = run.expected.disk
    const difference = run.expected.disk.firstDifference(after.subarray(0, size), 0)
    if (difference >= 0) throw new Error(`after a commit byte ${difference} of the base differs`)
    if (Buffer.compare(after.subarray(size), before.subarray(size)) !== 0) {
      throw new Error("a commit has changed the base behind the image's end")
    }
  }
  await run.close()
  await run.open()
  await run.check(`opened after a commit to ${name}${world.layer(name).format === "raw" ? ", raw" : ""}`)
}
