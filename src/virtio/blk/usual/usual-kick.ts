/**
 * UsualKick: serves the usual kick of a queue, which brings one usual request while the device has nothing else to do: past all that a
 * batch of requests, or anything that is not usual, goes through (a third of what it costs there).
 */
import type { VirtioBacking } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { INTERRUPT_WANTED, type Ring, type TakenChain } from "../../queue/ring.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import type { Shortcut } from "../../work.ts"
import { refusePromise } from "../answers.ts"
import type { Completion } from "../completion.ts"
import type { RequestLimits } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import { SingleRequest } from "./single-request.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN } = VIRTIO_BLK_T
const [SECTOR, INTERRUPT] = [SECTOR_SIZE, INTERRUPT_WANTED] as const

/** A backing that needs no views of RAM, and answers at once. */
export type DirectBacking = VirtioBacking & Required<Pick<VirtioBacking, "preadInto" | "pwriteFrom">>

export function isDirect(backing: VirtioBacking): backing is DirectBacking {
  return backing.asynchronous !== true && backing.preadInto !== undefined && backing.pwriteFrom !== undefined
}

/** What a `UsualKick` works with. */
export interface UsualKickParts {
  readonly device: VirtioDevice
  readonly disk: RequestLimits
  readonly executor: { readonly backing: VirtioBacking }
  readonly completion: Completion
  readonly call: UsualCall
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
  readonly #parts: UsualKickParts
  // Of the parts, to be found at once:
  readonly #device: VirtioDevice
  readonly #disk: RequestLimits
  readonly #executor: { readonly backing: VirtioBacking }
  readonly #completion: Completion
  readonly #call: UsualCall
  /** `VirtioDevice.changes` when nothing was found that would make a kick unusual; the backing then. */
  #usualAt = -1
  #backing: DirectBacking | undefined

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
  arm(backing: DirectBacking): void {
    this.#usualAt = this.#device.changes
    if (this.#backing !== backing) this.#backing = backing
  }

  serve(): boolean {
    const { ring, request } = this
    const device = this.#device
    const backing = this.#backing
    const { changes, memory } = device
    const { generation, splitRows, packedRows } = ring
    const rows = splitRows ?? packedRows
    if (backing === undefined || rows === undefined || memory.generation !== generation || !this.#isUsual(backing)) return false
    const waiting = rows.countWaiting()
    if (waiting !== 1) return waiting === 0
    if (splitRows !== undefined) {
      if (!request.takeSplit(splitRows, this.#disk)) return false
    } else if (packedRows === undefined || !request.takePacked(packedRows, this.#disk)) return false
    const { type, sector, offset, length } = request
    const call = this.#call
    // A store of an object costs several of a number.
    if (call.kick !== this) call.kick = this
    call.isRunning = true
    try {
      const { bytes } = request.region
      const answer: unknown = type === IN
        ? backing.preadInto(bytes, offset, length, sector * SECTOR)
        : backing.pwriteFrom(bytes, offset, length, sector * SECTOR)
      if (answer !== undefined) refusePromise(answer, type === IN ? "preadInto" : "pwriteFrom")
    } catch (error) {
      return this.#giveUp(generation, { error })
    }
    if (device.changes !== changes || memory.generation !== generation) return this.#giveUp(generation, undefined)
    call.isRunning = false
    const next = this.#completion.completeSingle(rows, request)
    if ((next & INTERRUPT) === 0) return next === 0
    // It may do anything: make a request available, replace the memory.
    device.signals?.queueInterrupt(this.queue.index)
    return next === INTERRUPT && memory.generation === generation && rows.countWaiting() === 0
  }

  /** Nothing has changed since `arm`, nor what nobody tells of. */
  #isUsual(backing: DirectBacking): boolean {
    const { changes, memory, inFlight } = this.#device
    if (this.#usualAt !== changes || backing !== this.#executor.backing || backing.asynchronous === true) return false
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
