/** Single steps of the host on an image that a guest uses: snapshots, sizes, bitmaps. */
import { stateOf } from "../../crash/whole/operations.ts"
import { type Action, attempt, doLater } from "./actions.ts"
import { drawLongSize, drawSize, isLong } from "./draw-world.ts"
import type { Run } from "./run.ts"

export const MOST_SNAPSHOTS = 4
const MOST_BITMAPS = 3
/** Calls of files that a change of the whole image makes. */
const MOST_CALLS = 40
const MOST_THROUGH = 3

/** What the host does, mostly. */
export function hostAction(run: Run): Action {
  const { rng, expected, image } = run
  const isOld = image.header.version < 3
  const roll = rng.below(100)
  if (roll < 20) return resize(run)
  if (roll < 50 && !isOld) return bitmapAction(run)
  const ids = [...expected.snapshots.keys()]
  if (ids.length === 0 || (ids.length < MOST_SNAPSHOTS && rng.chance(0.4))) return takeSnapshot(run)
  const id = rng.pick(ids)
  return rng.pick([applySnapshot, deleteSnapshot, lookAtSnapshot, keepView])(run, id)
}

/** Changes of the whole image, each with a later call that fails, until some get through: none is left half done. */
export async function sweep(run: Run): Promise<void> {
  const { rng } = run
  if (!run.hasFaults) return
  const draw = rng.pick([resize, resize, takeSnapshot, hostAction] as const)
  for (let at = 1, through = 0; at <= MOST_CALLS && through < MOST_THROUGH; at += rng.between(1, 3)) {
    run.failingCall = at
    const before = run.faults
    await doLater(draw(run))
    run.failingCall = undefined
    if (run.faults === before) through++
    else if (rng.chance(0.3)) await run.check(`a change failed at call ${at}`)
  }
}

export function* takeSnapshot(run: Run): Action {
  const { rng, expected, image, opened } = run
  const state = rng.chance(0.3) ? rng.between(1, 3 * image.geometry.clusterSize) : 0
  const id = String(Math.max(0, ...[...expected.snapshots.keys()].map(Number)) + 1)
  run.note(`snapshot ${id} with ${state} bytes of state`)
  const hasData = image.dataPath !== undefined
  const error = yield* attempt(
    run,
    () => opened.perform("changes", () => image.snapshots.create({ name: `s${id}`, ...(state === 0 ? {} : { vmState: stateOf(state) }) })),
    hasData ? ["unsupported"] : image.geometry.refcountBits < 4 ? ["no-space"] : [],
  )
  if (error !== undefined) return
  if (hasData) throw new Error("a snapshot of an image with an external data file")
  expected.snapshots.set(id, { content: expected.disk.clone(), state })
}

export function* applySnapshot(run: Run, id: string): Action {
  const { expected, image, opened } = run
  const snapshot = expected.snapshots.get(id)
  if (snapshot === undefined) return
  run.note(`apply snapshot ${id}`)
  const isRefused = image.header.version < 3 && snapshot.content.size !== expected.disk.size
  const allowed = isRefused ? (["unsupported"] as const) : image.geometry.refcountBits < 4 ? (["no-space"] as const) : []
  if ((yield* attempt(run, () => opened.perform("changes", () => image.snapshots.apply(id)), allowed)) !== undefined) return
  expected.replace(snapshot.content.clone())
  expected.mark(0, snapshot.content.size)
}

function* deleteSnapshot(run: Run, id: string): Action {
  run.note(`delete snapshot ${id}`)
  if ((yield* attempt(run, () => run.opened.perform("changes", () => run.image.snapshots.delete(id)))) !== undefined) return
  run.expected.snapshots.delete(id)
  run.views.delete(id)
}

function* lookAtSnapshot(run: Run, id: string): Action {
  const { expected, image, opened } = run
  const snapshot = expected.snapshots.get(id)
  if (snapshot === undefined) return
  run.note(`look at snapshot ${id}`)
  yield* attempt(run, () => opened.perform("reads", () => expected.checkSnapshot(image, id, snapshot)))
}

/** Opens a view, which stays open. */
function* keepView(run: Run, id: string): Action {
  const { expected, image, opened, views } = run
  const snapshot = expected.snapshots.get(id)
  if (snapshot === undefined || views.has(id)) return
  run.note(`keep a view of snapshot ${id}`)
  yield* attempt(run, () => opened.perform("reads", () => {
    views.set(id, { view: image.snapshots.open(id), content: snapshot.content })
  }))
}

export function* resize(run: Run): Action {
  const { rng, expected, image, opened } = run
  const before = expected.disk.size
  const size = rng.chance(0.1) ? before : isLong(before) && rng.chance(0.7) ? drawLongSize(rng) : drawSize(rng, image.geometry.clusterSize)
  const preallocation = size > before && rng.chance(0.3) ? rng.pick(["metadata", "falloc", "full"] as const) : "off"
  run.note(`resize ${before} to ${size}, preallocation ${preallocation}`)
  const isOld = image.header.version < 3 && expected.snapshots.size > 0 && size !== before
  const hides = preallocation !== "off" && image.backing !== undefined && !image.geometry.extendedL2
  const error = yield* attempt(
    run, () => opened.perform("changes", () => image.resize(size, { shrink: true, preallocation })),
    [...(isOld ? (["unsupported"] as const) : []), ...(hides ? (["invalid-argument"] as const) : [])],
  )
  // A cut that fails at its end has happened.
  const isDone = error === undefined || (size < before && image.size === size)
  if (image.size !== (isDone ? size : before)) throw new Error(`a disk of ${before} bytes has ${image.size} after a resize to ${size}`)
  if (!isDone) return
  expected.replace(expected.resized(size))
}

function bitmapAction(run: Run): Action {
  const { rng, expected } = run
  const names = [...expected.bitmaps.keys()]
  if (names.length === 0 || (names.length < MOST_BITMAPS && rng.chance(0.4))) return addBitmap(run)
  const name = rng.pick(names)
  if (rng.chance(0.2)) return mergeBitmaps(run, name, rng.pick(names))
  return changeBitmap(run, name, rng.pick(["remove", "clear", "disable", "enable"] as const))
}

function* addBitmap(run: Run): Action {
  const { rng, expected, image, opened } = run
  const name = `b${rng.u32()}`
  const granularity = rng.pick([512, 4096, 65_536])
  const isEnabled = rng.chance(0.8)
  run.note(`add bitmap ${name}, ${granularity}${isEnabled ? "" : ", disabled"}`)
  if ((yield* attempt(run, () => opened.perform("changes", () => image.bitmaps.add(name, { granularity, isEnabled })))) !== undefined) {
    return
  }
  expected.bitmaps.set(name, { granularity, isEnabled, sectors: new Set() })
}

function* changeBitmap(run: Run, name: string, change: "remove" | "clear" | "disable" | "enable"): Action {
  const { expected, image, opened } = run
  run.note(`${change} bitmap ${name}`)
  const error = yield* attempt(run, () => opened.perform("changes", () => image.bitmaps[change](name)))
  const bitmap = expected.bitmaps.get(name)
  if (bitmap === undefined) return
  if (error === undefined && change === "remove") expected.bitmaps.delete(name)
  else if (error === undefined && change === "clear") bitmap.sectors.clear()
  else if (change === "enable" || change === "disable") {
    // Either way: whoever hears of an error asks.
    const found = image.bitmaps.list().find((one) => one.name === name)
    if (error === undefined && found?.isEnabled !== (change === "enable")) throw new Error(`bitmap ${name} could not be told to ${change}`)
    bitmap.isEnabled = found?.isEnabled === true
  }
}

function* mergeBitmaps(run: Run, name: string, from: string): Action {
  const { expected, image, opened } = run
  run.note(`merge bitmap ${from} into ${name}`)
  if ((yield* attempt(run, () => opened.perform("changes", () => image.bitmaps.merge(name, from)))) !== undefined) return
  for (const sector of expected.bitmaps.get(from)?.sectors ?? []) expected.bitmaps.get(name)?.sectors.add(sector)
}
