/**
 * UsualServer: serves batches of usual requests, which takes half of what it takes otherwise: they are rows of numbers, and one loop takes
 * them, another makes the calls, and a third completes them. What comes in between goes on as a `Batch`.
 */
import type { VirtioDevice } from "../../device.ts"
import { LinearMemory } from "../../guest-memory.ts"
import { ROW as ROW_SIZE } from "../../queue/chain-rows.ts"
import type { Ring } from "../../queue/ring.ts"
import { LOOK_WEIGHT, type Turn } from "../../turn.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import { refusePromise } from "../answers.ts"
import { type Batch, BATCH_REQUESTS } from "../batch.ts"
import type { CacheMode } from "../cache-mode.ts"
import type { Completion } from "../completion.ts"
import type { BatchErrors } from "../errors/batch-errors.ts"
import type { ErrorPolicy } from "../errors/error-policy.ts"
import type { Executor } from "../executor.ts"
import type { Observation } from "../observation/observation.ts"
import type { RequestLimits } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import type { ThrottledRequests } from "../throttling/throttled-requests.ts"
import { REQUEST_WEIGHT } from "../weights.ts"
import type { BlkWiring } from "../wiring.ts"
import { KIND as KIND_AT, LENGTH as LENGTH_AT, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT } from "./columns.ts"
import { APART as APART_WAY, USUAL as USUAL_WAY } from "./habit.ts"
import { Intake } from "./intake.ts"
import type { UsualRequests } from "./requests.ts"
import { isDirect, NOT_SERVED as NOT, UsualCall, UsualKick, type UsualKickParts } from "./usual-kick.ts"
import { hasVectored, methodOf, transferFirst, transferView, transferViews } from "./row-calls.ts"
import type { WalkedRequests } from "./walked-requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN, OUT } = VIRTIO_BLK_T
const [BYTES, LOOK, LEAST, ROW] = [SECTOR_SIZE, LOOK_WEIGHT, REQUEST_WEIGHT, ROW_SIZE] as const
const [USUAL, APART, NOT_SERVED] = [USUAL_WAY, APART_WAY, NOT] as const
const [KIND, SECTOR, OFFSET, LENGTH] = [KIND_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT] as const

// What has become of the requests:

/** They have been completed, and `Ring.publish` is to show the driver that. */
export const DONE = 0
/** Nothing has been done for them: they are in `requests`, and others may wait behind them. */
export const LEFT = 1
/** Some have been acted upon: the batch has them all. */
export const BEGUN = 2

/** Who serves batches. */
export interface BatchServer {
  /** Fills the batch with the usual requests that have been taken, and others: `room` at most. Returns whether the ring is empty. */
  fillBatch(queue: Virtqueue, ring: Ring, room: number, turn: Turn): boolean
  /** Acts on what is in it. Returns true when there is more to do in the next turn. */
  finish(turn: Turn): boolean
}

/** What a `UsualServer` works with. */
export interface UsualServerParts {
  readonly wiring: BlkWiring
  readonly disk: RequestLimits
  readonly throttled: ThrottledRequests
  /** Where requests go on. */
  readonly batch: Batch
  readonly errors: BatchErrors
  readonly server: BatchServer
}

export class UsualServer {
  readonly requests: UsualRequests
  /** See `Intake`. */
  readonly walked: WalkedRequests
  readonly #intake: Intake
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
  readonly #kicks = new WeakMap<Ring, UsualKick>()
  readonly #kickParts: UsualKickParts

  constructor(parts: UsualServerParts) {
    this.#parts = parts
    const { device, executor, cacheMode, errors, completion, observation } = parts.wiring
    this.#intake = new Intake(parts.wiring, parts.disk)
    this.requests = this.#intake.requests
    this.walked = this.#intake.walked
    this.#throttled = parts.throttled
    this.#observation = observation
    const { disk } = parts
    const { habit } = this.#intake
    const takeOver = this.#takeOver.bind(this)
    const serveRow = this.#serveRow.bind(this)
    this.#kickParts = { device, executor, completion, disk, habit, call: this.call, takeOver, serveRow }
    this.#device = device
    this.#executor = executor
    this.#cacheMode = cacheMode
    this.#errors = errors
    this.#completion = completion
  }

  /**
   * Serves the requests that `ring.look` has seen, `most` at most, if all of them are usual. Returns what has become of them. The loop of
   * calls ends early at the first request that may be merged with another, when the turn is over, and when a call has changed what the
   * device may do, or moved RAM. Behind the loop nobody is called, so nothing changes: `GuestMemory.written` is not there.
   *
   * A `LinearMemory` need not be asked before each call, which costs half of a request where it is a WebAssembly.Memory (measured): once
   * that has grown, the old buffer is either gone, so that a call which would use it fails, or is still RAM.
   *
   * It stays one function of more than 460 bytecodes: V8 would inline a smaller one into its caller, and call what it calls (40 ns).
   */
  serve(queue: Virtqueue, ring: Ring, turn: Turn, most: number): typeof DONE | typeof LEFT | typeof BEGUN {
    const { requests } = this
    requests.begin(queue, ring)
    this.#intake.take(ring, turn, most)
    if (!requests.isWhole || !this.#mayServe()) return LEFT
    const { rows, count, region } = requests
    const device = this.#device
    const { changes, memory } = device
    const { backing } = this.#executor
    const isSure = memory instanceof LinearMemory
    let index = 0
    try {
      for (const end = requests.neighbour; index < end && device.changes === changes && !turn.over; index++) {
        if (!isSure && memory.generation !== requests.generation) break
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
    const isElsewhere = memory.generation !== requests.generation
    if (index < count || device.changes !== changes || isElsewhere || (requests.writes > 0 && this.#cacheMode.writeThrough)) {
      return this.#leave(queue, ring)
    }
    this.#completion.completeUsual(requests)
    return DONE
  }

  /** `queue` has been served, and waits for a kick. Where nothing is special about it, that may be a usual one. */
  awaitKick(queue: Virtqueue, ring: Ring): void {
    const { backing } = this.#executor
    if (this.#intake.habit.way === APART) {
      // It would be tried in vain.
      if (queue.shortcut !== undefined) queue.shortcut = undefined
      return
    }
    if ((ring.splitRows ?? ring.packedRows) === undefined || queue.liveAt !== this.#device.changes || !this.isPlain()) return
    if (backing.asynchronous === true || this.#cacheMode.writeThrough) return
    const kick = this.#kicks.get(ring) ?? new UsualKick(this.#kickParts, queue, ring)
    kick.arm(backing, isDirect(backing) ? backing : undefined)
    this.#prepare(kick)
    kick.expectsOnly = this.requests.taken === 1
    if (queue.shortcut === kick) return
    this.#kicks.set(ring, kick)
    queue.shortcut = kick
  }

  /** For the next request, which is likely to be as the last one was. */
  #prepare(kick: UsualKick): void {
    const { habit, requests } = this.#intake
    kick.expectsSingle = habit.way === USUAL && (requests.rows[KIND] ?? 0) <= OUT
    kick.endsHabit = habit.repeats > 0
  }

  /**
   * Serves the only request of `kick`, which has been seen in its ring, as a row. Returns what `SingleRing.giveBackOnly` does, or
   * NOT_SERVED where it goes on otherwise.
   */
  #serveRow(kick: UsualKick, turn: Turn): number {
    const { requests } = this
    const { queue, ring } = kick
    const device = this.#device
    const { changes } = device
    const { backing } = this.#executor
    const { splitRows } = ring
    if (splitRows !== undefined) splitRows.availIdx = (splitRows.lastAvail + 1) & 0xffff
    else if (!kick.expectsOnly) return NOT_SERVED
    requests.begin(queue, ring)
    this.#intake.take(ring, turn, 1)
    const { rowRing } = requests
    const isOnly = splitRows !== undefined || rowRing?.countWaiting() === 0
    // None at all: a driver on another thread may have taken back what it had made available.
    if (!requests.isWhole || requests.count !== 1 || !isOnly || device.changes !== changes || rowRing === undefined) {
      kick.expectsOnly = isOnly
      if (requests.count > 0 || this.walked.hasLeft) this.#fillBatch(queue, ring, turn)
      return NOT_SERVED
    }
    try {
      if (!transferFirst(backing, requests)) {
        this.#leave(queue, ring)
        return NOT_SERVED
      }
    } catch (error) {
      this.#failed(queue, ring, error)
      return NOT_SERVED
    }
    requests.next = 1
    if (device.changes !== changes || device.memory.generation !== requests.generation) {
      this.#leave(queue, ring)
      return NOT_SERVED
    }
    this.#prepare(kick)
    return this.#completion.completeOnly(rowRing, requests)
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
    return this.#intake.mayServeRows() && (this.isPlain() || this.#areAdmitted())
  }

  #areAdmitted(): boolean {
    if (this.#errors.stoppedBy !== undefined || this.#observation?.isDue() === true) return false
    return this.#throttled.admits(this.requests)
  }

  /** What has been taken, and what the intake has left, goes on in the batch. */
  #fillBatch(queue: Virtqueue, ring: Ring, turn: Turn): void {
    const { server } = this.#parts
    server.fillBatch(queue, ring, BATCH_REQUESTS, turn)
    server.finish(turn)
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
