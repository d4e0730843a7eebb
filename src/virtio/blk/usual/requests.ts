/**
 * UsualRequests: the usual requests of one ring, as rows of numbers. A usual request is a valid IN or OUT with a header of 16 bytes, 1 to
 * 256 buffers of data and a status byte, all in the region of RAM that holds the descriptors.
 */
import { RamRegion } from "../../guest-memory.ts"
import { HEAD, ROW, SLOTS } from "../../queue/chain-rows.ts"
import type { Ring, SingleRing, TakenChain } from "../../queue/ring.ts"
import type { Virtqueue } from "../../virtqueue.ts"
import type { BlkRequest } from "../request.ts"
import { KIND, LENGTH, MOST_USUAL, OFFSET, SECTOR, STATUS } from "./columns.ts"
import type { SingleRequest } from "./single-request.ts"
import { Stretches } from "./stretches.ts"
import { VIRTIO_BLK_S, VIRTIO_BLK_T } from "../spec.ts"
import type { Tally } from "../throttling/limits.ts"

const NOWHERE = new RamRegion(0, new Uint8Array(0))

export class UsualRequests implements Tally {
  readonly rows: Uint32Array = new Uint32Array(ROW * MOST_USUAL)
  readonly stretches = new Stretches()
  queue: Virtqueue | undefined
  ring: Ring | undefined
  /** The same ring, as the one that gives rows back. */
  rowRing: SingleRing | undefined
  /** The region that holds all of their buffers. */
  region: RamRegion = NOWHERE
  /** The generation of the guest memory that holds them. */
  generation = -1
  /** Requests in `rows`; 0 once they have been completed or taken over. */
  count = 0
  /** Requests taken, completed ones included. */
  taken = 0
  /** The backing has been called for the requests before this index. */
  next = 0
  /** Index of the first request that may be merged with the one after it; `count` if there is none. */
  neighbour = 0
  /** The place of the first request in a packed ring. */
  place = 0
  // Totals:
  reads = 0
  readBytes = 0
  writes = 0
  writeBytes = 0

  /** No chain is left in the ring. */
  isDrained = false
  /** The rows are all that the ring has, or as many as a batch may have. */
  isWhole = false

  get unfinished(): boolean {
    return this.count > 0 && this.queue?.ring === this.ring
  }

  /** Starts over, for requests of `ring`. */
  begin(queue: Virtqueue, ring: Ring): void {
    // Storing an object costs several stores of a number.
    if (this.ring !== ring) {
      this.queue = queue
      this.ring = ring
    }
    this.generation = ring.generation
    this.next = 0
    this.isWhole = false
    // Clears the totals of the last batch: a reader of descriptors may give up before its first request.
    this.took(0, 0, 0, 0)
  }

  /** Starts without usual requests, for the general walk. The ring is in `region`, and its next chain is at `place`. */
  beginRows(region: RamRegion, place: number): void {
    this.region = region
    this.place = place
    this.stretches.clear(region)
    this.neighbour = 0
    this.took(0, 0, 0, 0)
  }

  /** Takes over a single request. */
  add({ head, place, slots, type, sector, offset, length, status, region }: SingleRequest, generation: number): void {
    this.region = region
    this.place = place
    this.generation = generation
    this.rows.set([head, slots, type === VIRTIO_BLK_T.IN ? length + 1 : 1, type, sector, offset, length, status])
    const [writes, writeBytes] = type === VIRTIO_BLK_T.IN ? [0, 0] : [1, length]
    this.took(1, length, writes, writeBytes)
  }

  /** The reader of descriptors has put `count` requests into `rows`. */
  took(count: number, bytes: number, writes: number, writeBytes: number): void {
    this.count = count
    this.taken = count
    this.reads = count - writes
    this.readBytes = bytes - writeBytes
    this.writes = writes
    this.writeBytes = writeBytes
  }

  /** The chains of `queue` that have not been completed. */
  chains(queue: Virtqueue): TakenChain[] {
    if (this.queue !== queue || this.queue.ring !== this.ring) return []
    const chains: TakenChain[] = []
    let { place } = this
    for (let at = 0; at < ROW * this.count; at += ROW) {
      const slots = this.rows[at + SLOTS] ?? 0
      chains.push({ head: this.rows[at + HEAD] ?? 0, place, slots })
      place += slots
    }
    return chains
  }

  /** Fills `request` with the request of row `index`. */
  copy(index: number, place: number, request: BlkRequest): void {
    const { rows, region } = this
    const at = ROW * index
    const { segments } = request
    const length = rows[at + LENGTH] ?? 0
    request.head = rows[at + HEAD] ?? 0
    request.place = place
    request.slots = rows[at + SLOTS] ?? 0
    request.outcome = VIRTIO_BLK_S.OK
    request.type = (rows[at + KIND] ?? 0) & 1
    request.sector = rows[at + SECTOR] ?? 0
    request.dataLength = length
    request.first = segments.count
    this.#copyStretches(at, request)
    request.statusRegion = region
    request.statusOffset = rows[at + STATUS] ?? 0
    request.writableBefore = request.type === VIRTIO_BLK_T.IN ? length : 0
    request.done = 0
    request.arrived = 0
    request.tail = undefined
  }

  #copyStretches(row: number, request: BlkRequest): void {
    const { rows, stretches: { words } } = this
    const { segments } = request
    const region = segments.indexOf(this.region)
    const place = rows[row + OFFSET] ?? 0
    const count = (rows[row + KIND] ?? 0) >>> 1
    request.count = count === 0 ? 1 : count
    if (count === 0) return segments.push(region, place, rows[row + LENGTH] ?? 0)
    for (let at = 2 * place; at < 2 * (place + count); at += 2) segments.push(region, words[at] ?? 0, words[at + 1] ?? 0)
  }

  /** The data of the request in `row`, which has several stretches, as views of RAM. */
  views(row: number): Uint8Array[] {
    const { rows, stretches: { words }, region } = this
    const first = 2 * (rows[row + OFFSET] ?? 0)
    const end = first + 2 * ((rows[row + KIND] ?? 0) >>> 1)
    const views: Uint8Array[] = []
    for (let at = first; at < end; at += 2) views.push(region.viewAt(words[at] ?? 0, words[at + 1] ?? 0))
    return views
  }
}
