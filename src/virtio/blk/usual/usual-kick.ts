/**
 * UsualKick serves the usual kick of a queue, which brings one request while the device has nothing else to do. It skips the steps that
 * batches and unusual requests need, and costs a third of them. The most usual request is read as a `SingleRequest`; any other that makes
 * a row is served as a row.
 */
import type { VirtioBacking } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { INTERRUPT_WANTED, type Ring, type SingleRing, type TakenChain } from "../../queue/ring.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import type { Shortcut } from "../../work.ts"
import { refusePromise } from "../answers.ts"
import type { Turn } from "../../turn.ts"
import type { Completion } from "../completion.ts"
import type { Observation } from "../observation/observation.ts"
import type { RequestLimits } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import type { Allowance } from "../throttling/allowance.ts"
import type { Gate } from "./gate.ts"
import type { Habit } from "./habit.ts"
import { NONE as NONE_WAITS, SingleRequest, TAKEN as IS_TAKEN } from "./single-request.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN } = VIRTIO_BLK_T
const [SECTOR, INTERRUPT, NONE, TAKEN] = [SECTOR_SIZE, INTERRUPT_WANTED, NONE_WAITS, IS_TAKEN] as const

/** A synchronous backing that needs no views of RAM. */
export type DirectBacking = VirtioBacking & Required<Pick<VirtioBacking, "preadInto" | "pwriteFrom">>

export function isDirect(backing: VirtioBacking): backing is DirectBacking {
  return backing.asynchronous !== true && backing.preadInto !== undefined && backing.pwriteFrom !== undefined
}

/** Returned in place of the result of `SingleRing.giveBackOnly` if the request has not been completed. */
export const NOT_SERVED = -1

/** The parts of the device that a `UsualKick` uses. */
export interface UsualKickParts {
  readonly device: VirtioDevice
  readonly disk: RequestLimits
  readonly executor: { readonly backing: VirtioBacking }
  readonly completion: Completion
  readonly call: UsualCall
  readonly habit: Habit
  readonly gate: Gate
  /** See `UsualServer`: serves requests that `SingleRequest` does not read, and backings that need views. */
  serveRow(kick: UsualKick, turn: Turn): number
  /** Takes over the request of `kick` after a call that failed or changed the device. */
  takeOver(kick: UsualKick, failure: { readonly error: unknown } | undefined): void
}

/** The backing's call for the request of a usual kick. While it runs, the request is taken and not completed. */
export class UsualCall {
  kick: UsualKick | undefined
  isRunning = false

  get unfinished(): boolean {
    return this.isRunning && this.kick !== undefined && this.kick.queue.ring === this.kick.ring
  }

  /** The chains of `queue` that have not been completed. */
  chains(queue: Virtqueue): TakenChain[] {
    return this.unfinished && this.kick?.queue === queue ? [this.kick.request] : []
  }
}

export class UsualKick implements Shortcut {
  readonly queue: Virtqueue
  readonly ring: Ring
  readonly request = new SingleRequest()
  /** For a request that is given up: the generation of the guest memory that holds it. */
  generation = -1
  /** The next request is probably one that `SingleRequest` can read. */
  expectsSingle = true
  /** The next request probably comes alone: a packed ring has no index that tells. */
  expectsOnly = true
  /** The next single request has to reset the driver's habit. */
  endsHabit = false
  /** Requests are limited or timed. */
  isWatched = false
  readonly #parts: UsualKickParts
  // Copied from the parts for faster access:
  readonly #device: VirtioDevice
  readonly #disk: RequestLimits
  readonly #executor: { readonly backing: VirtioBacking }
  readonly #completion: Completion
  readonly #call: UsualCall
  readonly #gate: Gate
  /** `VirtioDevice.changes`, what limits and times requests, and the backing, when kicks were last found to be usual. */
  #usualAt = -1
  #allowance: Allowance | undefined
  #observation: Observation | undefined
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
    this.#gate = parts.gate
  }

  /** Kicks are usual from now on, until `VirtioDevice.changes` or the backing changes. */
  arm(backing: VirtioBacking, direct: DirectBacking | undefined): void {
    const { changes } = this.#device
    if (this.#usualAt !== changes) {
      this.#usualAt = changes
      this.#allowance = this.#gate.allowance
      this.#observation = this.#gate.observation
      this.isWatched = this.#allowance !== undefined || this.#observation !== undefined
    }
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
    if (this.isWatched === true && this.#allowance?.letsOnePass === false) return false
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
      // LEFT: more than one chain may wait.
      if (taken !== TAKEN) return taken === NONE
      rows = packedRows
    }
    const isTimed = this.isWatched === true && this.#pass(request)
    if (this.endsHabit) this.#endHabit()
    const call = this.#call
    // Storing an object costs several stores of a number.
    if (call.kick !== this) call.kick = this
    call.isRunning = true
    try {
      transfer(backing, request)
    } catch (error) {
      return this.#giveUp(generation, { error })
    }
    if (device.changes !== changes || memory.generation !== generation) return this.#giveUp(generation, undefined)
    call.isRunning = false
    if (isTimed) this.#gate.endTiming(request.type === IN ? 1 : 0, request.type === IN ? 0 : 1)
    const next = this.#completion.completeSingle(rows, request)
    return (next & INTERRUPT) === 0 ? next === 0 : this.#interrupt(next, rows, generation)
  }

  /** Counts a request. Returns whether it is timed. */
  #pass({ type, length }: SingleRequest): boolean {
    const observation = this.#observation
    this.#allowance?.takeOne(type !== IN, length)
    return observation !== undefined && observation.isDue() && this.#gate.beginTiming(observation)
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

  /** Interrupts the guest, which may do anything meanwhile: make a request available, replace the memory. `next`: see `giveBackOnly`. */
  #interrupt(next: number, rows: SingleRing, generation: number): boolean {
    const { signals, memory } = this.#device
    signals?.queueInterrupt(this.queue.index)
    return next === INTERRUPT && memory.generation === generation && rows.countWaiting() === 0
  }

  /** Whether nothing has changed since `arm`, including state that `VirtioDevice.changes` does not count. */
  #isUsual(): boolean {
    const { changes, memory, inFlight } = this.#device
    const { backing } = this.#executor
    if (this.#usualAt !== changes || this.#backing !== backing || backing.asynchronous === true) return false
    return memory.written === undefined && inFlight.oldChanges === 0 && !inFlight.full
  }

  /** Hands the request over after its call. `generation`: of the guest memory that holds it. */
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
