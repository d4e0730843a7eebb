/**
 * UsualServer: serves batches of usual requests, which takes half of what it takes otherwise: they are rows of numbers, and one loop takes
 * them, another makes the calls, and a third completes them. What comes in between goes on as a `Batch`.
 */
import type { VirtioBacking } from "../../../backing/backing.ts"
import type { VirtioDevice } from "../../device.ts"
import { ROW as ROW_SIZE } from "../../queue/chain-rows.ts"
import type { Ring, RowRing } from "../../queue/ring.ts"
import { LOOK_WEIGHT, type Turn } from "../../turn.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import { refusePromise } from "../answers.ts"
import type { Batch } from "../batch.ts"
import type { CacheMode } from "../cache-mode.ts"
import type { Completion } from "../completion.ts"
import type { BatchErrors } from "../errors/batch-errors.ts"
import type { ErrorPolicy } from "../errors/error-policy.ts"
import type { Executor } from "../executor.ts"
import type { Observation } from "../observation/observation.ts"
import type { RequestLimits } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import type { ThrottledRequests } from "../throttling/throttled-requests.ts"
import { DESCRIPTOR_WEIGHT, REQUEST_WEIGHT } from "../weights.ts"
import type { BlkWiring } from "../wiring.ts"
import { KIND as KIND_AT, LENGTH as LENGTH_AT, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT } from "./columns.ts"
import { APART as APART_WAY, Habit, USUAL as USUAL_WAY, WALKED as WALKED_WAY } from "./habit.ts"
import { takePacked } from "./packed-request.ts"
import { UsualRequests } from "./requests.ts"
import { isDirect, UsualCall, UsualKick, type UsualKickParts } from "./usual-kick.ts"
import { takeSplit } from "./split-request.ts"
import { WalkedRequests } from "./walked-requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN, OUT } = VIRTIO_BLK_T
const [BYTES, LOOK, LEAST, ROW] = [SECTOR_SIZE, LOOK_WEIGHT, REQUEST_WEIGHT, ROW_SIZE] as const
const DESCRIPTOR = DESCRIPTOR_WEIGHT
const [USUAL, WALKED, APART] = [USUAL_WAY, WALKED_WAY, APART_WAY] as const
const [KIND, SECTOR, OFFSET, LENGTH] = [KIND_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT] as const

// What has become of the requests:

/** They have been completed, and `Ring.publish` is to show the driver that. */
export const DONE = 0
/** Nothing has been done for them: they are in `requests`, and others may wait behind them. */
export const LEFT = 1
/** Some have been acted upon: the batch has them all. */
export const BEGUN = 2

/** What a `UsualServer` works with. */
export interface UsualServerParts {
  readonly wiring: BlkWiring
  readonly disk: RequestLimits
  readonly throttled: ThrottledRequests
  /** Where requests go on. */
  readonly batch: Batch
  readonly errors: BatchErrors
}

export class UsualServer {
  readonly requests = new UsualRequests()
  /** Takes requests that are not usual. */
  readonly walked = new WalkedRequests()
  readonly #habit = new Habit()
  /** Of the kick that is being served, if it is a usual one. */
  readonly call = new UsualCall()
  readonly #parts: UsualServerParts
  // Of the parts, to be found at once:
  readonly #device: VirtioDevice
  readonly #executor: Executor
  readonly #cacheMode: CacheMode
  readonly #errors: ErrorPolicy
  readonly #completion: Completion
  readonly #observation: Observation | undefined
  readonly #throttled: ThrottledRequests
  /** `VirtioDevice.changes` when nothing about the requests was found to be special. */
  #plainAt = -1
  readonly #disk: RequestLimits
  readonly #kicks = new WeakMap<Ring, UsualKick>()
  readonly #kickParts: UsualKickParts

  constructor(parts: UsualServerParts) {
    this.#parts = parts
    const { device, executor, cacheMode, errors, completion, observation } = parts.wiring
    this.#disk = parts.disk
    this.#throttled = parts.throttled
    this.#observation = observation
    const takeOver = this.#takeOver.bind(this)
    this.#kickParts = { device, executor, completion, disk: parts.disk, call: this.call, takeOver }
    this.#device = device
    this.#executor = executor
    this.#cacheMode = cacheMode
    this.#errors = errors
    this.#completion = completion
  }

  /**
   * Serves the requests that `ring.look` has seen, `most` at most, if all of them are usual. Returns what has become of them. The loop of
   * calls ends early at the first request that may be merged with another, when the turn is over, and when a call has changed what the
   * device may do.
   *
   * It stays one function of more than 460 bytecodes: V8 would inline a smaller one into its caller, and call what it calls (40 ns).
   */
  serve(queue: Virtqueue, ring: Ring, turn: Turn, most: number): typeof DONE | typeof LEFT | typeof BEGUN {
    const { requests } = this
    requests.begin(queue, ring)
    this.#take(ring, turn, most)
    if (!requests.isWhole || !this.#mayServe()) return LEFT
    const { rows, count, region } = requests
    const device = this.#device
    const { changes } = device
    const { backing } = this.#executor
    let index = 0
    try {
      for (const end = requests.neighbour; index < end && device.changes === changes && !turn.over; index++) {
        requests.next = index
        const row = ROW * index
        const start = rows[row + OFFSET] ?? 0
        const length = rows[row + LENGTH] ?? 0
        const offset = (rows[row + SECTOR] ?? 0) * BYTES
        const kind = rows[row + KIND] ?? 0
        let answer: unknown
        if (kind === IN && backing.preadInto !== undefined) answer = backing.preadInto(region.bytes, start, length, offset)
        else if (kind === OUT && backing.pwriteFrom !== undefined) answer = backing.pwriteFrom(region.bytes, start, length, offset)
        else if (kind <= OUT) answer = transferView(backing, kind, region.viewAt(start, length), offset)
        else if (hasVectored(backing, kind)) answer = transferViews(backing, kind, requests.views(row), offset)
        else break
        if (answer !== undefined) refusePromise(answer, methodOf(backing, kind))
        turn.spend(backing.slow === true ? LOOK : length > LEAST ? length : LEAST, length)
      }
    } catch (error) {
      return this.#failed(queue, ring, error)
    }
    requests.next = index
    const isElsewhere = device.memory.generation !== requests.generation
    if (index < count || device.changes !== changes || isElsewhere || (requests.writes > 0 && this.#cacheMode.writeThrough)) {
      return this.#leave(queue, ring)
    }
    // Nobody is called in between, so nothing changes: `GuestMemory.written` is not there.
    this.#completion.completeUsual(requests)
    return DONE
  }

  /** `queue` has been served, and waits for a kick. Where nothing is special about it, that may be a usual one. */
  awaitKick(queue: Virtqueue, ring: Ring): void {
    const { backing } = this.#executor
    if (this.#habit.way !== USUAL) {
      // It would be tried in vain.
      if (queue.shortcut !== undefined) queue.shortcut = undefined
      return
    }
    if ((ring.splitRows ?? ring.packedRows) === undefined || queue.liveAt !== this.#device.changes || !this.isPlain()) return
    if (!isDirect(backing) || this.#cacheMode.writeThrough) return
    const kick = this.#kicks.get(ring) ?? new UsualKick(this.#kickParts, queue, ring)
    kick.arm(backing)
    if (queue.shortcut === kick) return
    this.#kicks.set(ring, kick)
    queue.shortcut = kick
  }

  /** Takes over the request of a usual kick, whose call has been made. `failure`: it failed. */
  #takeOver({ queue, ring, request, generation }: UsualKick, failure: { readonly error: unknown } | undefined): void {
    this.requests.begin(queue, ring)
    this.requests.add(request, generation)
    if (failure !== undefined) {
      this.#failed(queue, ring, failure.error)
      return
    }
    this.requests.next = 1
    this.#leave(queue, ring)
  }

  #take(ring: Ring, turn: Turn, most: number): void {
    const { requests } = this
    const { splitRows } = ring
    if (splitRows !== undefined) {
      if (requests.rowRing !== splitRows) requests.rowRing = splitRows
      if (this.#habit.way === USUAL) takeSplit(requests, splitRows, this.#disk, most)
      else requests.beginRows(splitRows.table.region, 0)
      if (!requests.isWhole || this.#habit.repeats > 0) this.#takeOthers(splitRows, turn, most)
      return
    }
    const { packedRows } = ring
    if (packedRows === undefined) return
    if (requests.rowRing !== packedRows) requests.rowRing = packedRows
    if (this.#habit.way === USUAL) takePacked(requests, packedRows, this.#disk, most)
    else requests.beginRows(packedRows.descriptors.region, packedRows.availPlace)
    if (!requests.isWhole || this.#habit.repeats > 0) this.#takeOthers(packedRows, turn, most)
  }

  /** Takes what comes behind the usual requests, as far as that makes rows as well, and rows are what is wanted. */
  #takeOthers(ring: RowRing, turn: Turn, most: number): void {
    const { requests, walked } = this
    const habit = this.#habit
    const isSurprise = requests.count === 0
    if (!isSurprise) habit.forget()
    if (requests.isWhole) return
    if (habit.way !== APART && this.#mayServeRows()) {
      const { changes } = this.#device
      walked.take(requests, ring, this.#disk, most)
      // The walk asks `GuestMemory.region`, which is the embedder's: the batch looks whether its ring is still the queue's.
      if (this.#device.changes !== changes) requests.isWhole = false
      turn.spend(DESCRIPTOR * walked.descriptors, 0)
    }
    if (isSurprise) habit.surprise(requests.count > 0 ? WALKED : APART)
  }

  /** No request has to wait, and nobody wants to know of the single one. Whoever changes that bumps `VirtioDevice.changes`. */
  isPlain(): boolean {
    return this.#plainAt === this.#device.changes || this.#looksPlain()
  }

  #looksPlain(): boolean {
    if (this.#errors.stoppedBy !== undefined || this.#observation !== undefined) return false
    if (this.#throttled.throttle !== undefined || !this.#throttled.isFar) return false
    this.#plainAt = this.#device.changes
    return true
  }

  /** The disk answers at once, nobody wants to know of the single request, and none has to wait. */
  #mayServe(): boolean {
    return this.#mayServeRows() && (this.isPlain() || this.#areAdmitted())
  }

  #mayServeRows(): boolean {
    return this.#executor.backing.asynchronous !== true && this.#device.memory.written === undefined
  }

  #areAdmitted(): boolean {
    if (this.#errors.stoppedBy !== undefined || this.#observation?.isDue() === true) return false
    return this.#throttled.admits(this.requests)
  }

  /** The call for the request `next` failed. */
  #failed(queue: Virtqueue, ring: Ring, error: unknown): typeof BEGUN {
    const { batch, errors } = this.#parts
    this.#leave(queue, ring)
    const { next } = batch
    // A call before this one has replaced the memory: it gets another chance, with buffers that are there.
    if (this.#device.memory.generation !== this.requests.generation) return BEGUN
    if (errors.failed(next, next + 1, error)) batch.next = next + 1
    return BEGUN
  }

  /** Leaves the requests to the batch. */
  #leave(queue: Virtqueue, ring: Ring): typeof BEGUN {
    const { batch } = this.#parts
    batch.begin(queue, ring)
    // A call may have replaced the memory, and made the device look at the ring there.
    batch.generation = this.requests.generation
    batch.hasWritten = this.requests.writes > 0
    batch.adopt(this.requests)
    return BEGUN
  }
}

function transferView(backing: VirtioBacking, kind: number, view: Uint8Array, offset: number): unknown {
  return kind === IN ? backing.pread(view, offset) : backing.pwrite(view, offset)
}

/** Otherwise a request whose data are in several stretches takes several calls. */
function hasVectored({ preadv, pwritev }: VirtioBacking, kind: number): boolean {
  return ((kind & 1) === IN ? preadv : pwritev) !== undefined
}

function transferViews(backing: VirtioBacking, kind: number, views: readonly Uint8Array[], offset: number): unknown {
  return (kind & 1) === IN ? backing.preadv?.(views, offset) : backing.pwritev?.(views, offset)
}

function methodOf(backing: VirtioBacking, kind: number): string {
  if (kind === IN) return backing.preadInto === undefined ? "pread" : "preadInto"
  if (kind === OUT) return backing.pwriteFrom === undefined ? "pwrite" : "pwriteFrom"
  return (kind & 1) === IN ? "preadv" : "pwritev"
}
