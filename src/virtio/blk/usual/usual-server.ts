/**
 * UsualServer serves batches of usual requests in half the time of a `Batch`: requests are rows of numbers, and one loop takes them,
 * another makes the calls, and a third completes them. If anything unusual happens in between, the requests go on as a `Batch`.
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
import type { Executor } from "../executor.ts"
import { stamp } from "../observation/observation.ts"
import type { RequestLimits } from "../request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import type { ThrottledRequests } from "../throttling/throttled-requests.ts"
import { REQUEST_WEIGHT } from "../weights.ts"
import type { BlkWiring } from "../wiring.ts"
import { KIND as KIND_AT, LENGTH as LENGTH_AT, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT } from "./columns.ts"
import { Gate } from "./gate.ts"
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

// Results of `serve`:

/** The requests have been completed; the caller has to call `Ring.publish`. */
export const DONE = 0
/** No call has been made: the requests are in `requests`, and others may wait after them in the ring. */
export const LEFT = 1
/** Some calls have been made: the batch has taken over all requests. */
export const BEGUN = 2

/** The server of batches. */
export interface BatchServer {
  /** Fills the batch with the usual requests taken so far, and with others, `room` in all at most. Returns whether the ring is empty. */
  fillBatch(queue: Virtqueue, ring: Ring, room: number, turn: Turn): boolean
  /** Works through the batch. Returns true if there is more to do in the next turn. */
  finish(turn: Turn): boolean
}

/** The parts of the device that a `UsualServer` uses. */
export interface UsualServerParts {
  readonly wiring: BlkWiring
  readonly disk: RequestLimits
  readonly throttled: ThrottledRequests
  /** Takes over requests that this server cannot finish. */
  readonly batch: Batch
  readonly errors: BatchErrors
  readonly server: BatchServer
}

export class UsualServer {
  readonly requests: UsualRequests
  /** See `Intake`. */
  readonly walked: WalkedRequests
  readonly gate: Gate
  readonly #intake: Intake
  /** The call of the usual kick that is being served. */
  readonly call = new UsualCall()
  readonly #parts: UsualServerParts
  // Copied from the parts for faster access:
  readonly #device: VirtioDevice
  readonly #executor: Executor
  readonly #cacheMode: CacheMode
  readonly #completion: Completion
  readonly #kicks = new WeakMap<Ring, UsualKick>()
  readonly #kickParts: UsualKickParts

  constructor(parts: UsualServerParts) {
    this.#parts = parts
    const { device, executor, cacheMode, completion } = parts.wiring
    this.#intake = new Intake(parts.wiring, parts.disk)
    this.requests = this.#intake.requests
    this.walked = this.#intake.walked
    this.gate = new Gate(parts.wiring, parts.throttled)
    const { disk } = parts
    const { habit } = this.#intake
    const { gate } = this
    const takeOver = this.#takeOver.bind(this)
    const serveRow = this.#serveRow.bind(this)
    this.#kickParts = { device, executor, completion, disk, habit, gate, call: this.call, takeOver, serveRow }
    this.#device = device
    this.#executor = executor
    this.#cacheMode = cacheMode
    this.#completion = completion
  }

  /**
   * Serves the requests that `ring.look` has seen, `most` at most, if all of them are usual. The loop of calls ends early at the first
   * request that may be merged with another, when the turn is over, and when a call has changed the device's state or moved RAM. After the
   * loop nothing changes any more, because no foreign code is called: guest memory has no `written`.
   *
   * The generation of a `LinearMemory` is not checked before each call, which would cost half of a request for a WebAssembly.Memory
   * (measured): after growth, the old buffer is either detached, so that a call with it fails, or still RAM.
   *
   * Keep this one function of more than 460 bytecodes: V8 would inline a smaller one into its caller, but no longer inline its callees
   * (40 ns).
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
    const isWhole = index === count && device.changes === changes && memory.generation === requests.generation
    if (!isWhole || (requests.writes > 0 && this.#cacheMode.writeThrough)) return this.#leave(queue, ring)
    this.gate.endTiming(requests.reads, requests.writes)
    this.#completion.completeUsual(requests)
    return DONE
  }

  /** `queue` has been served and waits for a kick. If nothing about it is special, the next kick gets the shortcut for usual kicks. */
  awaitKick(queue: Virtqueue, ring: Ring): void {
    const { backing } = this.#executor
    if (this.#intake.habit.way === APART) {
      // The shortcut would be tried in vain.
      if (queue.shortcut !== undefined) queue.shortcut = undefined
      return
    }
    if ((ring.splitRows ?? ring.packedRows) === undefined || queue.liveAt !== this.#device.changes) return
    if (!this.gate.isPlain() && !this.gate.mayOpen()) return
    if (backing.asynchronous === true || this.#cacheMode.writeThrough) return
    const kick = this.#kicks.get(ring) ?? new UsualKick(this.#kickParts, queue, ring)
    kick.arm(backing, isDirect(backing) ? backing : undefined)
    this.#prepare(kick)
    kick.expectsOnly = this.requests.taken === 1
    if (queue.shortcut === kick) return
    this.#kicks.set(ring, kick)
    queue.shortcut = kick
  }

  /** Prepares `kick` for the next request, which is probably like the last one. */
  #prepare(kick: UsualKick): void {
    const { habit, requests } = this.#intake
    kick.expectsSingle = habit.way === USUAL && (requests.rows[KIND] ?? 0) <= OUT
    kick.endsHabit = habit.repeats > 0
  }

  /**
   * Serves the only request of `kick`, which has been seen in its ring, as a row. Returns the result of `SingleRing.giveBackOnly`, or
   * NOT_SERVED if the request, if any, was handed to the batch.
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
    // There may be no request at all: a driver on another thread may have taken it back.
    if (!requests.isWhole || requests.count !== 1 || !isOnly || device.changes !== changes || rowRing === undefined || !this.#mayServe()) {
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
    this.gate.endTiming(requests.reads, requests.writes)
    return this.#completion.completeOnly(rowRing, requests)
  }

  /** Takes over the request of a usual kick after its call. `failure`: what the call threw. */
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

  /** Whether the disk answers at once, and no observer or throttle is in the way. Times the requests if need be. */
  #mayServe(): boolean {
    return this.#intake.mayServeRows() && (this.gate.isPlain() || this.gate.letsAllPass(this.requests))
  }

  /** Moves the requests taken so far, and the one that the intake left, to the batch. */
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
    // An earlier call has replaced the memory: the batch repeats this call with valid buffers.
    if (this.#device.memory.generation !== this.requests.generation) return BEGUN
    if (errors.failed(next, next + 1, error)) batch.next = next + 1
    return BEGUN
  }

  /** Leaves the requests to the batch. */
  #leave(queue: Virtqueue, ring: Ring): typeof BEGUN {
    const { batch } = this.#parts
    batch.begin(queue, ring)
    // A call may have replaced the memory, and made the device refresh the ring.
    batch.generation = this.requests.generation
    batch.hasWritten = this.requests.writes > 0
    batch.adopt(this.requests)
    const arrived = this.gate.takeArrival()
    batch.isObserved = arrived !== 0
    if (batch.isObserved) stamp(batch.requests, batch.taken, arrived)
    return BEGUN
  }
}
