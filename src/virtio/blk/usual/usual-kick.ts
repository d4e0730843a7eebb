/**
 * UsualKick: serves the usual kick of a queue, which brings one request while the device has nothing else to do: past all that a batch of
 * requests, or anything that is not usual, goes through (a third of what it costs there). The most usual request is read by itself, see
 * `SingleRequest`; any other that makes a row goes as one.
 */
import type { VirtioBacking } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { INTERRUPT_WANTED, type Ring, type SingleRing, type TakenChain } from "../../queue/ring.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import type { Shortcut } from "../../work.ts"
import { refusePromise } from "../answers.ts"
import type { Turn } from "../../turn.ts"
import type { Completion } from "../completion.ts"
import type { RequestLimits } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import type { Habit } from "./habit.ts"
import { NONE as NONE_WAITS, SingleRequest, TAKEN as IS_TAKEN } from "./single-request.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN } = VIRTIO_BLK_T
const [SECTOR, INTERRUPT, NONE, TAKEN] = [SECTOR_SIZE, INTERRUPT_WANTED, NONE_WAITS, IS_TAKEN] as const

/** A backing that needs no views of RAM, and answers at once. */
export type DirectBacking = VirtioBacking & Required<Pick<VirtioBacking, "preadInto" | "pwriteFrom">>

export function isDirect(backing: VirtioBacking): backing is DirectBacking {
  return backing.asynchronous !== true && backing.preadInto !== undefined && backing.pwriteFrom !== undefined
}

/** Beside what `SingleRing.giveBackOnly` returns: the request has not been completed. */
export const NOT_SERVED = -1

/** What a `UsualKick` works with. */
export interface UsualKickParts {
  readonly device: VirtioDevice
  readonly disk: RequestLimits
  readonly executor: { readonly backing: VirtioBacking }
  readonly completion: Completion
  readonly call: UsualCall
  readonly habit: Habit
  /** See `UsualServer`: for requests that `SingleRequest` does not read, and backings that want views. */
  serveRow(kick: UsualKick, turn: Turn): number
  /** Takes over the request of `kick`, whose call has been made: it failed, or did something to the device. */
  takeOver(kick: UsualKick, failure: { readonly error: unknown } | undefined): void
}

/** The call of the backing for the request of a usual kick: while it runs, the request is one that has been taken and is not completed. */
export class UsualCall {
  kick: UsualKick | undefined
  isRunning = false

  get unfinished(): boolean {
    return this.isRunning && this.kick !== undefined && this.kick.queue.ring === this.kick.ring
  }

  /** The chains of `queue` that are not completed. */
  chains(queue: Virtqueue): TakenChain[] {
    return this.unfinished && this.kick?.queue === queue ? [this.kick.request] : []
  }
}

export class UsualKick implements Shortcut {
  readonly queue: Virtqueue
  readonly ring: Ring
  readonly request = new SingleRequest()
  /** Of the guest memory in which the request lies that is given up. */
  generation = -1
  /** The next request is likely to be one that `SingleRequest` reads. */
  expectsSingle = true
  /** It is likely to be the only one: a packed ring has no index that says so. */
  expectsOnly = true
  /** A request that is read by itself ends the driver's habit of others. */
  endsHabit = false
  readonly #parts: UsualKickParts
  // Of the parts, to be found at once:
  readonly #device: VirtioDevice
  readonly #disk: RequestLimits
  readonly #executor: { readonly backing: VirtioBacking }
  readonly #completion: Completion
  readonly #call: UsualCall
  /** `VirtioDevice.changes` when nothing was found that would make a kick unusual; the backing then. */
  #usualAt = -1
  #backing: VirtioBacking | undefined
  #direct: DirectBacking | undefined

  constructor(parts: UsualKickParts, queue: Virtqueue, ring: Ring) {
    this.#parts = parts
    this.queue = queue
    this.ring = ring
    this.#device = parts.device
    this.#disk = parts.disk
    this.#executor = parts.executor
    this.#completion = parts.completion
    this.#call = parts.call
  }

  /** Nothing would make the next kick unusual, until `VirtioDevice.changes` or the backing does. */
  arm(backing: VirtioBacking, direct: DirectBacking | undefined): void {
    this.#usualAt = this.#device.changes
    if (this.#backing === backing) return
    this.#backing = backing
    this.#direct = direct
  }

  serve(turn: Turn): boolean {
    const { ring, request } = this
    const device = this.#device
    const { changes, memory } = device
    const { generation, splitRows } = ring
    if (memory.generation !== generation || !this.#isUsual()) return false
    const backing = this.#direct
    let rows: SingleRing
    if (splitRows !== undefined) {
      const waiting = splitRows.countWaiting()
      if (waiting !== 1) return waiting === 0
      if (backing === undefined || !this.expectsSingle || !request.takeSplit(splitRows, this.#disk)) return this.#serveRow(splitRows, turn)
      rows = splitRows
    } else {
      const { packedRows } = ring
      if (packedRows === undefined) return false
      if (backing === undefined || !this.expectsSingle) return packedRows.countWaiting() === 0 || this.#serveRow(packedRows, turn)
      const taken = request.takePacked(packedRows, this.#disk)
      // Of those that are left it may be that more than one waits.
      if (taken !== TAKEN) return taken === NONE
      rows = packedRows
    }
    if (this.endsHabit) this.#endHabit()
    const call = this.#call
    // A store of an object costs several of a number.
    if (call.kick !== this) call.kick = this
    call.isRunning = true
    try {
      transfer(backing, request)
    } catch (error) {
      return this.#giveUp(generation, { error })
    }
    if (device.changes !== changes || memory.generation !== generation) return this.#giveUp(generation, undefined)
    call.isRunning = false
    const next = this.#completion.completeSingle(rows, request)
    return (next & INTERRUPT) === 0 ? next === 0 : this.#interrupt(next, rows, generation)
  }

  #endHabit(): void {
    this.endsHabit = false
    this.#parts.habit.forget()
  }

  #serveRow(rows: SingleRing, turn: Turn): boolean {
    const { generation } = this.ring
    const next = this.#parts.serveRow(this, turn)
    if (next === NOT_SERVED) return false
    return (next & INTERRUPT) === 0 ? next === 0 : this.#interrupt(next, rows, generation)
  }

  /** It may do anything: make a request available, replace the memory. `next`: what `SingleRing.giveBackOnly` has returned. */
  #interrupt(next: number, rows: SingleRing, generation: number): boolean {
    const { signals, memory } = this.#device
    signals?.queueInterrupt(this.queue.index)
    return next === INTERRUPT && memory.generation === generation && rows.countWaiting() === 0
  }

  /** Nothing has changed since `arm`, nor what nobody tells of. */
  #isUsual(): boolean {
    const { changes, memory, inFlight } = this.#device
    const { backing } = this.#executor
    if (this.#usualAt !== changes || this.#backing !== backing || backing.asynchronous === true) return false
    return memory.written === undefined && inFlight.oldChanges === 0 && !inFlight.full
  }

  /** The request, whose call has been made, goes on otherwise. `generation`: of the guest memory in which it lies. */
  #giveUp(generation: number, failure: { readonly error: unknown } | undefined): false {
    this.generation = generation
    this.#call.isRunning = false
    this.#parts.takeOver(this, failure)
    return false
  }
}

function transfer(backing: DirectBacking, { region: { bytes }, type, sector, offset, length }: SingleRequest): void {
  const answer: unknown = type === IN
    ? backing.preadInto(bytes, offset, length, sector * SECTOR)
    : backing.pwriteFrom(bytes, offset, length, sector * SECTOR)
  if (answer !== undefined) refusePromise(answer, type === IN ? "preadInto" : "pwriteFrom")
}
