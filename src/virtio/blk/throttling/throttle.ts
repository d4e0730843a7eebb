/**
 * Throttle: limits for one disk, or for several together: bytes and requests a second, of reads, of writes, or of both. Requests beyond the
 * limits wait; queues take turns, and so do reads and writes. The clock is a parameter.
 */
import { checkMembers, checkOptions, type Rules } from "../../../options.ts"
import { savedList, savedObject, shown } from "../../../saved-state.ts"
import { Allowance, type NamedBucket } from "./allowance.ts"
import { type Direction, fillWith, type Lane, laneOf, roomOf, type ThrottledRequest } from "./lane.ts"
import {
  amountOf, bucketsFor, checkLimits, LIMIT_NAMES, type LimitBuckets, type LimitName, type Tally, type ThrottleLimits,
} from "./limits.ts"

/** A clock and its alarm. */
export interface ThrottleClock {
  /** Milliseconds since some moment. */
  now(): number
  /** Calls `task` once, in `ms` milliseconds. Returns a function that cancels it. */
  after(ms: number, task: () => void): () => void
}

/** Options of `Throttle`. */
export interface ThrottleOptions {
  /** Default: `performance.now` and `setTimeout`. */
  readonly clock?: ThrottleClock
}

/** The levels of a `Throttle`'s buckets, as JSON values: see `Throttle.saveState`. */
export type ThrottleState = Readonly<Record<string, readonly number[]>>

const THROTTLE_RULES: Rules<ThrottleOptions> = { clock: "object?" }
const CLOCK_RULES: Rules<ThrottleClock> = { now: "function", after: "function" }

/** Maximum of requests that one alarm releases, because each is work for the host's thread. */
const MOST_AT_ONCE = 256

/** Milliseconds; timers allow at most 2^31. */
const MAX_DELAY = 3_600_000
/** In capacities: far more than the longest request, so that no level becomes infinite. */
const MAX_FILL = Number.MAX_SAFE_INTEGER

const HOST_CLOCK: ThrottleClock = {
  now: () => performance.now(),
  after(ms, task) {
    const timer = setTimeout(task, ms)
    return () => clearTimeout(timer)
  },
}

/** Limits for one disk, or for several that share them: the option `throttle` of each. They may be changed at any time. */
export class Throttle {
  #limits: ThrottleLimits
  #buckets: LimitBuckets
  #lanes: Readonly<Record<Direction, Lane>>
  #all: readonly NamedBucket[]
  readonly #clock: ThrottleClock
  /** Empty while a request waits (`#setAlarm` ensures that), so that later requests cannot overtake it. */
  readonly allowance = new Allowance()
  /** The direction that is next if both are ready. */
  #turn: Direction = "read"
  #waiting = 0
  #cancel: (() => void) | undefined
  /** Whether a request was passed over because its disk does not serve requests now. */
  #hasPassedOver = false

  /** @throws TypeError and RangeError for wrong limits */
  constructor(limits: ThrottleLimits, options: ThrottleOptions = {}) {
    checkOptions("Throttle", options, THROTTLE_RULES)
    const { clock = HOST_CLOCK } = options
    checkMembers("Throttle", "clock", clock, CLOCK_RULES, "ThrottleClock")
    this.#clock = clock
    this.#limits = limits
    checkLimits("Throttle", limits)
    this.#buckets = bucketsFor(limits, clock.now())
    this.#all = listed(this.#buckets)
    this.#lanes = { read: laneOf("read", this.#buckets, new Map()), write: laneOf("write", this.#buckets, new Map()) }
  }

  get limits(): ThrottleLimits {
    return this.#limits
  }

  /** Changes the limits, also for waiting requests. A limit that stays keeps its level. */
  setLimits(limits: ThrottleLimits): void {
    checkLimits("Throttle.setLimits", limits)
    this.#settle()
    const buckets = bucketsFor(limits, this.#clock.now())
    continueFrom(this.#buckets, buckets, this.#clock.now())
    this.#limits = limits
    this.#buckets = buckets
    this.#all = listed(buckets)
    const { read, write } = this.#lanes
    this.#lanes = { read: laneOf("read", buckets, read.waiting), write: laneOf("write", buckets, write.waiting) }
    this.#setAlarm()
  }

  /** Number of waiting requests of all disks. */
  get waiting(): number {
    return this.#waiting
  }

  /** The levels of the buckets, to save with a machine. Waiting requests are saved with their disk. */
  saveState(): ThrottleState {
    this.#settle()
    const now = this.#clock.now()
    return Object.fromEntries([...this.#buckets].map(([name, list]) => [name, list.map((bucket) => (bucket.wait(now), bucket.fill))]))
  }

  /** Restores the levels of the limits that still exist. @throws Error for anything but a result of `saveState` */
  restoreState(saved: unknown): void {
    this.readyToRestore(saved)()
  }

  /** Checks a result of `saveState`. Returns a function that restores it. @throws Error for anything else */
  readyToRestore(saved: unknown): () => void {
    const state = savedObject(saved, "throttle")
    const fills = new Map([...this.#buckets.keys()].map((name) => {
      return [name, savedList(state[name] ?? [], `levels of ${name}`, (fill) => savedFill(name, fill))]
    }))
    return () => {
      this.#settle()
      for (const [name, list] of this.#buckets) {
        for (const [index, bucket] of list.entries()) bucket.fill = fills.get(name)?.[index] ?? 0
      }
      this.#setAlarm()
    }
  }

  // --- For disks ---

  /** Counts a request that may go at once. Returns false if it has to wait: then call `wait`. */
  admit(direction: Direction, bytes: number): boolean {
    this.#settle()
    const lane = this.#lanes[direction]
    // Waiting requests are not overtaken: neither in the same lane, nor in the other one if its limits have room.
    if (this.#waiting > 0) {
      if (Object.values(this.#lanes).some((each) => each.waiting.size > 0 && this.#isReady(each))) this.#letGo()
      if (lane.waiting.size > 0) return false
    }
    if (!this.#isReady(lane)) return false
    fillWith(lane, bytes)
    return true
  }

  /** Counts all requests of a batch, if they may go at once. Returns false, and counts nothing, if each has to be admitted separately. */
  admitAll(tally: Tally): boolean {
    return this.allowance.take(tally) || this.#admitSlowly(tally)
  }

  #admitSlowly(tally: Tally): boolean {
    if (this.#waiting > 0) return false
    this.#settle()
    for (const { name, bucket } of this.#all) if (!bucket.isReady(this.#clock) || bucket.room < amountOf(name, tally)) return false
    for (const { name, bucket } of this.#all) bucket.take(amountOf(name, tally))
    this.allowance.refill(this.#all)
    return true
  }

  #settle(): void {
    this.allowance.settle(this.#all)
  }

  /** Whether no request waits, and `requests` more are far from every limit of requests. */
  isFar(requests: number): boolean {
    return this.allowance.hasRoom(requests)
  }

  /** Keeps a request until it may go. */
  wait(request: ThrottledRequest): void {
    const { waiting } = this.#lanes[request.direction]
    // The present alarm may be for the other lane, and too late for this one.
    const hasAlarm = this.#cancel !== undefined && this.#hasNext(waiting)
    const ofQueue = waiting.get(request.queue)
    if (ofQueue === undefined) waiting.set(request.queue, new Set([request]))
    else ofQueue.add(request)
    this.#waiting++
    if (!hasAlarm) this.#setAlarm()
  }

  /** Removes a waiting request. */
  forget(request: ThrottledRequest): void {
    const { waiting } = this.#lanes[request.direction]
    const ofQueue = waiting.get(request.queue)
    if (ofQueue?.delete(request) !== true) return
    this.#waiting--
    if (ofQueue.size === 0) waiting.delete(request.queue)
    if (this.#waiting === 0) this.#setAlarm()
  }

  /** Number of waiting requests of `queue`. */
  waitingOf(queue: object): number {
    const { read, write } = this.#lanes
    return this.#waiting === 0 ? 0 : (read.waiting.get(queue)?.size ?? 0) + (write.waiting.get(queue)?.size ?? 0)
  }

  /** A lower bound of the requests that may go before one has to wait; infinite if only bytes are limited. */
  get room(): number {
    this.#settle()
    return Math.max(roomOf(this.#lanes.read), roomOf(this.#lanes.write))
  }

  /** A disk may serve requests again. */
  poke(): void {
    if (this.#hasPassedOver && this.#waiting > 0) this.#letGo()
  }

  // --- Inside ---

  #isReady({ requestBuckets, byteBuckets }: Lane): boolean {
    this.#settle()
    for (const bucket of requestBuckets) if (!bucket.isReady(this.#clock)) return false
    for (const bucket of byteBuckets) if (!bucket.isReady(this.#clock)) return false
    return true
  }

  /** Releases requests that may go, reads and writes in turn. */
  #letGo(): void {
    this.#hasPassedOver = false
    for (let left = MOST_AT_ONCE, failed = 0; left > 0 && failed < 2; ) {
      const lane = this.#lanes[this.#turn]
      this.#turn = this.#turn === "read" ? "write" : "read"
      const next = lane.waiting.size > 0 && this.#isReady(lane) ? this.#takeNext(lane.waiting) : undefined
      failed = next === undefined ? failed + 1 : 0
      if (next === undefined) continue
      left--
      this.#waiting--
      fillWith(lane, next.bytes)
      next.go()
    }
    this.#setAlarm()
  }

  /** Sets the alarm for the first waiting request, if there is one. */
  #setAlarm(): void {
    this.#settle()
    this.#cancel?.()
    this.#cancel = undefined
    const now = this.#clock.now()
    const delays = Object.values(this.#lanes).filter(({ waiting }) => this.#hasNext(waiting)).map(({ requestBuckets, byteBuckets }) =>
      Math.max(...[...requestBuckets, ...byteBuckets].map((bucket) => bucket.wait(now)), 0))
    if (delays.length === 0) return
    this.#cancel = this.#clock.after(Math.min(Math.max(Math.ceil(Math.min(...delays)), 1), MAX_DELAY), () => {
      this.#cancel = undefined
      this.#letGo()
    })
  }

  /** Takes the oldest request of the first queue that may go, and moves that queue to the end. */
  #takeNext(waiting: Map<object, Set<ThrottledRequest>>): ThrottledRequest | undefined {
    for (const [queue, requests] of waiting) {
      const [first] = requests
      if (first === undefined || !this.#mayGo(first)) continue
      requests.delete(first)
      waiting.delete(queue)
      if (requests.size > 0) waiting.set(queue, requests)
      return first
    }
    return undefined
  }

  #hasNext(waiting: ReadonlyMap<object, ReadonlySet<ThrottledRequest>>): boolean {
    for (const [first] of waiting.values()) if (first !== undefined && this.#mayGo(first)) return true
    return false
  }

  #mayGo({ mayGo }: ThrottledRequest): boolean {
    if (!mayGo) this.#hasPassedOver = true
    return mayGo
  }
}

/**
 * The throttle for the option `throttle` of `who`.
 * @throws TypeError and RangeError for wrong limits
 */
export function throttleOf(who: string, throttle: Throttle | ThrottleLimits | undefined): Throttle | undefined {
  if (throttle === undefined || throttle instanceof Throttle) return throttle
  checkLimits(who, throttle)
  return new Throttle(throttle)
}

function listed(buckets: LimitBuckets): NamedBucket[] {
  return [...buckets].flatMap(([name, list]) => list.map((bucket) => ({ name, bucket })))
}

function continueFrom(from: LimitBuckets, to: LimitBuckets, now: number): void {
  for (const name of LIMIT_NAMES) {
    for (const [index, bucket] of to.get(name)?.entries() ?? []) {
      const old = from.get(name)?.[index]
      if (old !== undefined) bucket.continue(old, now)
    }
  }
}

function savedFill(name: LimitName, fill: unknown): number {
  if (typeof fill !== "number" || !(fill >= 0 && fill <= MAX_FILL)) {
    throw new Error(`saved state: a level of ${name} is ${shown(fill)}, which is not a number from 0 to ${MAX_FILL}`)
  }
  return fill
}
