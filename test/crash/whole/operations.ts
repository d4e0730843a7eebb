/**
 * Random operations on a whole image: snapshots and sizes among reads and writes, with a model of all that it must hold, the snapshots'
 * disks included.
 */
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import type { SnapshotActions } from "../../../src/backing/qcow2/snapshots/snapshots.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { describeOperation, type Operation, type OperationLimits, randomOperation } from "../../support/random-operations.ts"
import type { Rng } from "../../support/rng.ts"

export type WholeOperation =
  | Operation
  | { readonly kind: "snapshot"; readonly state: number }
  | { readonly kind: "apply" | "delete" | "look"; readonly id: string }
  | { readonly kind: "resize"; readonly size: number }

/** What an image must hold. */
export interface WholeModel {
  disk: FlatModel
  /** The disks of the snapshots, by id. */
  snapshots: ReadonlyMap<string, FlatModel>
}

export interface WholeLimits extends OperationLimits {
  /** Share of the operations that concern all of the image. */
  readonly share: number
  /** Sizes that the disk may get, in bytes; none: it keeps its own. */
  readonly sizes?: readonly [least: number, most: number]
  readonly snapshots: boolean
}

/** Draws one operation for an image that holds `model`. */
export function randomWholeOperation(rng: Rng, limits: WholeLimits, model: WholeModel): WholeOperation {
  const { size } = model.disk
  if (!rng.chance(limits.share)) return randomOperation(rng, { ...limits, size })
  const ids = [...model.snapshots.keys()]
  if (limits.sizes !== undefined && (!limits.snapshots || rng.chance(0.4))) {
    const [least, most] = limits.sizes
    return { kind: "resize", size: Math.floor(rng.between(least, most) / 512) * 512 }
  }
  if (!limits.snapshots) return { kind: "flush" }
  if (ids.length === 0 || (ids.length < 4 && rng.chance(0.4))) return { kind: "snapshot", state: rng.chance(0.2) ? rng.below(20_000) : 0 }
  const id = rng.pick(ids)
  return { kind: rng.pick(["apply", "delete", "look"] as const), id }
}

export function isWhole(operation: WholeOperation): operation is Exclude<WholeOperation, Operation> {
  return ["snapshot", "apply", "delete", "look", "resize"].includes(operation.kind)
}

export function describeWhole(operation: WholeOperation): string {
  if (!isWhole(operation)) return describeOperation(operation)
  if (operation.kind === "snapshot") return `take a snapshot with ${operation.state} bytes of state`
  return operation.kind === "resize" ? `resize to ${operation.size}` : `${operation.kind} snapshot ${operation.id}`
}

/** What the model is after an operation that concerns all of the image. */
export function wholeModelAfter(model: WholeModel, operation: Exclude<WholeOperation, Operation>): WholeModel {
  const snapshots = new Map(model.snapshots)
  switch (operation.kind) {
    case "snapshot":
      return { ...model, snapshots: snapshots.set(nextId(snapshots), model.disk.clone()) }
    case "apply":
      return { ...model, disk: (snapshots.get(operation.id) ?? model.disk).clone() }
    case "delete":
      snapshots.delete(operation.id)
      return { ...model, snapshots }
    case "resize":
      return { ...model, disk: resized(model.disk, operation.size) }
    case "look":
      return model
  }
}

function nextId(snapshots: ReadonlyMap<string, FlatModel>): string {
  return String(Math.max(0, ...[...snapshots.keys()].map(Number)) + 1)
}

/** What was cut off never comes back. */
function resized(model: FlatModel, size: number): FlatModel {
  return FlatModel.of(model.read(0, Math.min(model.size, size)), size)
}

/** An image that does what concerns all of it at once, or later. */
export interface WholeDisk {
  readonly snapshots?: SnapshotActions
  resize?(size: number, options: { readonly shrink: boolean }): void | Promise<void>
}

/** Does an operation that concerns all of the image: what it returns is to be awaited where the image answers later. */
export function performWhole(disk: WholeDisk, operation: Exclude<WholeOperation, Operation>): unknown {
  const { snapshots } = disk
  switch (operation.kind) {
    case "snapshot":
      return snapshots?.create({ name: "a snapshot", ...(operation.state === 0 ? {} : { vmState: stateOf(operation.state) }) })
    case "apply":
      return snapshots?.apply(operation.id)
    case "delete":
      return snapshots?.delete(operation.id)
    case "resize":
      return disk.resize?.(operation.size, { shrink: true })
    case "look":
      return undefined
  }
}

export function stateOf(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, at) => (at * 31 + length) & 0xff)
}

/** Whether the image holds what the model says. @throws Error at the first difference */
export function expectSnapshots(disk: Qcow2Image, model: WholeModel): void {
  const ids = disk.snapshots.list().map(({ id }) => id)
  if (ids.join() !== [...model.snapshots.keys()].join()) throw new Error(`the snapshots are ${ids}, not ${[...model.snapshots.keys()]}`)
  for (const [id, content] of model.snapshots) expectSnapshot(disk, id, content)
  for (const { id, vmStateSize } of disk.snapshots.list()) if (vmStateSize > 0) expectState(disk, id)
}

export function expectSnapshot(disk: Qcow2Image, id: string, content: FlatModel): void {
  const view = disk.snapshots.open(id)
  if (view.size !== content.size) throw new Error(`snapshot ${id} has ${view.size} bytes, not ${content.size}`)
  const difference = content.firstDifferenceOf(view)
  if (difference >= 0) throw new Error(`byte ${difference} of snapshot ${id} differs`)
  view.close()
}

function expectState(disk: Qcow2Image, id: string): void {
  const { view, offset, size } = disk.snapshots.openVmState(id)
  const found = new Uint8Array(size)
  view.pread(found, offset)
  if (Buffer.compare(found, stateOf(size)) !== 0) throw new Error(`the VM state of snapshot ${id} differs`)
  view.close()
}
