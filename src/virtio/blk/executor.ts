/**
 * Executor: calls the backing for requests, a slice at a time. A group of requests (one, or several that are adjacent on the disk) is given
 * by a list, the index of its first request and the index past its last. Its first request, the leader, has the progress of the group.
 */
import type { VirtioBacking } from "../../backing/backing.ts"
import type { RamRegion } from "../guest-memory.ts"
import { isThenable, notNow, refusePromise } from "./answers.ts"
import { Commands } from "./commands.ts"
import type { BlkRequest } from "./request.ts"
import { SECTOR_SIZE, VIRTIO_BLK_T } from "./spec.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN, OUT, FLUSH, DISCARD, WRITE_ZEROES, SECURE_ERASE } = VIRTIO_BLK_T
const SECTOR = SECTOR_SIZE
const refuse = refusePromise

/** Maximum of bytes that one call moves: larger calls are not faster, and hold the host's thread. */
export const SLICE_BYTES = 1 << 20
/** Maximum of bytes that one call discards or zeroes, unless the backing says otherwise. */
const DEFAULT_ZEROES_AT_ONCE = 16 << 20

/** The result of a method of the backing. It is checked, because JavaScript callers have no compiler: some return counts, or thenables. */
type Answer = void | PromiseLike<void>

export class Executor {
  /** Replaced only while no request is being executed, see `VirtioDevice.takeAgain`. */
  backing: VirtioBacking
  readonly #commands: Commands
  // The place of the data of the present slice, see `#gather`.
  #start = 0
  #views: Uint8Array[] = []

  constructor(backing: VirtioBacking) {
    this.backing = backing
    this.#commands = new Commands(this)
  }

  /** Whether a small call of the backing may take long. */
  get slow(): boolean {
    return this.backing.slow === true
  }

  /** Whether the backing can flush, even if FLUSH is not offered. */
  get canFlush(): boolean {
    return this.backing.flush !== undefined
  }

  /**
   * Makes one call, for the next slice of the group. Returns a promise if the backing answers later. Call `advance` after the answer,
   * unless the call has reset the queue or switched bus mastering off.
   * @throws errors of the backing, and TypeError if it returns a promise though it is not `asynchronous`
   */
  step(requests: readonly BlkRequest[], first: number, end: number): PromiseLike<void> | undefined {
    const leader = requests[first]
    if (leader === undefined) return undefined
    const { type } = leader
    if (type !== IN && type !== OUT) return this.#other(leader)
    const backing = this.backing
    const left = leader.total - leader.done
    const length = left > SLICE_BYTES ? SLICE_BYTES : left
    leader.slice = length
    const offset = leader.sector * SECTOR + leader.done
    if (left > SLICE_BYTES) this.#checkZones(leader)
    if (backing.asynchronous === true) return this.#transferLater(leader, requests, first, end, offset)
    // The usual request, whose data are in one descriptor, is found without a loop.
    const isUsual = end - first === 1 && leader.done === 0 && leader.length(0) >= length
    const region = isUsual ? leader.region(0) : this.#gather(requests, first, end)
    if (region === undefined) return this.#transferViews(leader, offset)
    const start = isUsual ? leader.offset(0) : this.#start
    if (type === IN) {
      if (backing.preadInto !== undefined) refuse(backing.preadInto(region.bytes, start, length, offset), "preadInto")
      else refuse(backing.pread(region.viewAt(start, length), offset), "pread")
    } else if (backing.pwriteFrom !== undefined) {
      refuse(backing.pwriteFrom(region.bytes, start, length, offset), "pwriteFrom")
    } else {
      refuse(backing.pwrite(region.viewAt(start, length), offset), "pwrite")
    }
    return undefined
  }

  /** After a successful call for the present slice: copies data from the device's own buffer to the guest. */
  advance(requests: readonly BlkRequest[], first: number, end: number): void {
    const leader = requests[first]
    if (leader === undefined) return
    if (leader.own !== undefined) this.#deliver(leader, leader.own, requests, first, end)
    leader.done += leader.slice
  }

  /** Makes all earlier writes durable when it has been answered. */
  flush(): PromiseLike<void> | undefined {
    const { backing } = this
    return answerOf(backing, backing.flush?.(), "flush")
  }

  // --- IN and OUT ---

  #deliver(leader: BlkRequest, own: Uint8Array, requests: readonly BlkRequest[], first: number, end: number): void {
    if (leader.type === IN) this.#copy(requests, first, end, own, { toGuest: true })
    leader.own = undefined
  }

  /** The data are in several stretches of RAM. */
  #transferViews(leader: BlkRequest, offset: number): undefined {
    const backing = this.backing
    const views = this.#views
    const isIn = leader.type === IN
    const [view] = views
    if (isIn && backing.preadv !== undefined) {
      refuse(backing.preadv(views, offset), "preadv")
    } else if (!isIn && backing.pwritev !== undefined) {
      refuse(backing.pwritev(views, offset), "pwritev")
    } else if (view !== undefined) {
      // A single call, because it may reset the queue, and a second one would still touch the guest's RAM.
      this.#checkZones(leader)
      leader.slice = view.length
      if (isIn) refuse(backing.pread(view, offset), "pread")
      else refuse(backing.pwrite(view, offset), "pwrite")
    }
  }

  /** For an asynchronous backing: data that it cannot transfer at once go through the device's own buffer. */
  #transferLater(
    leader: BlkRequest, requests: readonly BlkRequest[], first: number, end: number, offset: number,
  ): PromiseLike<void> | undefined {
    const backing = this.backing
    const isIn = leader.type === IN
    const now = isIn ? backing.preadNow : backing.pwriteNow
    if (now !== undefined) {
      const region = this.#gather(requests, first, end)
      const views = region === undefined ? this.#views : [region.viewAt(this.#start, leader.slice)]
      const answer: unknown = now.call(backing, views, offset)
      if (typeof answer !== "boolean") throw notNow(isIn ? "preadNow" : "pwriteNow", answer)
      if (answer) return undefined
    }
    const own = new Uint8Array(leader.slice)
    leader.own = own
    if (!isIn) this.#copy(requests, first, end, own, { toGuest: false })
    return isIn ? answerOf(backing, backing.pread(own, offset), "pread") : answerOf(backing, backing.pwrite(own, offset), "pwrite")
  }

  /**
   * Finds the data of the group's present slice. If they are one stretch of RAM, returns its region and sets `#start`. Otherwise fills
   * `#views`, with adjacent stretches joined.
   */
  #gather(requests: readonly BlkRequest[], first: number, end: number): RamRegion | undefined {
    const views: Uint8Array[] = []
    let last: RamRegion | undefined
    let from = 0
    let to = 0
    let skip = requests[first]?.done ?? 0
    let left = requests[first]?.slice ?? 0
    for (let index = first; index < end && left > 0; index++) {
      const request = requests[index]
      if (request === undefined) continue
      const { count } = request
      for (let segment = 0; segment < count && left > 0; segment++) {
        const passed = Math.min(skip, request.length(segment))
        const part = Math.min(request.length(segment) - passed, left)
        skip -= passed
        if (part === 0) continue
        left -= part
        const region = request.region(segment)
        const start = request.offset(segment) + passed
        if (region !== last || start !== to) {
          if (last !== undefined) views.push(last.viewAt(from, to - from))
          last = region
          from = start
        }
        to = start + part
      }
    }
    this.#start = from
    if (views.length === 0) return last
    if (last !== undefined) views.push(last.viewAt(from, to - from))
    this.#views = views
    return undefined
  }

  /** Copies between `own` and the guest's buffers, for the group's present slice. */
  #copy(requests: readonly BlkRequest[], first: number, end: number, own: Uint8Array, { toGuest }: { readonly toGuest: boolean }): void {
    let skip = requests[first]?.done ?? 0
    let done = 0
    for (let index = first; index < end && done < own.length; index++) {
      const request = requests[index]
      if (request === undefined) continue
      for (let segment = 0; segment < request.count && done < own.length; segment++) {
        const passed = Math.min(skip, request.length(segment))
        const part = Math.min(request.length(segment) - passed, own.length - done)
        skip -= passed
        const ram = request.region(segment).viewAt(request.offset(segment) + passed, part)
        if (toGuest) ram.set(own.subarray(done, done + part))
        else own.set(ram, done)
        done += part
      }
    }
  }

  /** Zones judge a request as a whole, before the first of its slices. */
  #checkZones({ type, sector, total, done }: BlkRequest): void {
    if (done === 0) this.backing.zones?.check(type === IN ? "read" : "write", sector * SECTOR, total)
  }

  // --- All others ---

  #other(leader: BlkRequest): PromiseLike<void> | undefined {
    switch (leader.type) {
      case FLUSH:
        return this.flush()
      case DISCARD:
      case WRITE_ZEROES:
      case SECURE_ERASE:
        return this.#range(leader)
      default:
        return this.#commands.run(leader)
    }
  }

  #range(leader: BlkRequest): PromiseLike<void> | undefined {
    const backing = this.backing
    let skip = leader.done
    const range = leader.ranges.find(({ length }) => skip < length || ((skip -= length), false))
    if (range === undefined) return undefined
    const from = range.offset + skip
    const end = range.offset + range.length
    switch (leader.type) {
      case DISCARD:
        leader.slice = this.#rangeSlice(from, end, this.#atOnce(true), backing.discardGranularity)
        return answerOf(backing, backing.discard?.(from, leader.slice), "discard")
      case SECURE_ERASE:
        leader.slice = this.#eraseSlice(from, end)
        return answerOf(backing, backing.secureErase?.(from, leader.slice), "secureErase")
      default:
        leader.slice = this.#rangeSlice(from, end, this.#atOnce(range.mayUnmap), backing.discardGranularity)
        return answerOf(backing, backing.writeZeroes?.(from, leader.slice, range.mayUnmap), "writeZeroes")
    }
  }

  /** Bytes of the next call that erases: whole units, of which one may be more than the backing zeroes at once. */
  #eraseSlice(from: number, end: number): number {
    const unit = this.backing.secureEraseAlignment ?? SECTOR
    return this.#rangeSlice(from, end, Math.max(this.#atOnce(false), unit), unit)
  }

  /** Bytes that the backing discards, or zeroes, in one call. */
  #atOnce(unmaps: boolean): number {
    const { zeroesAtOnce, unmapsAtOnce } = this.backing
    const bytes: unknown = (unmaps ? unmapsAtOnce : undefined) ?? zeroesAtOnce
    // A JavaScript backing may have a string here, which would turn sums of offsets into text.
    return typeof bytes === "number" && bytes >= SECTOR ? bytes : DEFAULT_ZEROES_AT_ONCE
  }

  /** Bytes of the next call, of at most `most`, for a range from `from` to `end`. Cut at a multiple of `unit`, if there is one. */
  #rangeSlice(from: number, end: number, most: number, unit = SECTOR): number {
    if (end - from <= most) return end - from
    const aligned = Math.floor((from + most) / unit) * unit
    return aligned > from ? aligned - from : Math.floor(most / SECTOR) * SECTOR
  }
}

/** The promise to await, if the backing's `method` returned one. (The device may have another backing since the call.) */
function answerOf(backing: VirtioBacking, answer: Answer, method: string): PromiseLike<void> | undefined {
  if (!isThenable(answer)) return undefined
  if (backing.asynchronous !== true) refuse(answer, method)
  return answer
}
