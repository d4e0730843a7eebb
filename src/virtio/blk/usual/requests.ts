/**
 * UsualRequests: usual requests that have been taken from one ring, as rows of numbers. The usual request is an IN or OUT that the disk
 * can do: a header of 16 bytes, 1 to 256 buffers of data and a status byte, all in the region of RAM that holds the descriptors.
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
  /** The same, as what gives rows back. */
  rowRing: SingleRing | undefined
  /** The region of all of their buffers. */
  region: RamRegion = NOWHERE
  /** Of the guest memory in which they lie. */
  generation = -1
  /** Requests that are neither completed nor somebody else's. */
  count = 0
  /** As many have been taken. */
  taken = 0
  /** Those before this index have been acted upon. */
  next = 0
  /** The first that may be merged with the one behind it; `count` when there is none. */
  neighbour = 0
  /** The place of the first in a packed ring. */
  place = 0
  // What they come to:
  reads = 0
  readBytes = 0
  writes = 0
  writeBytes = 0

  /** No chain is left in the ring. */
  isDrained = false
  /** They are all that the ring has, or as many as a batch may have. */
  isWhole = false

  get unfinished(): boolean {
    return this.count > 0 && this.queue?.ring === this.ring
  }

  /** Begins anew, with requests of `ring`. */
  begin(queue: Virtqueue, ring: Ring): void {
    // A store of an object costs several of a number.
    if (this.ring !== ring) {
      this.queue = queue
      this.ring = ring
    }
    this.generation = ring.generation
    this.next = 0
    this.isWhole = false
    // Whoever reads descriptors may give up before the first: what others came to is not to be taken for these.
    this.took(0, 0, 0, 0)
  }

  /** None have been taken yet, of a ring in `region` whose next chain is at `place`. For who takes them otherwise than `takeSplit` does. */
  beginRows(region: RamRegion, place: number): void {
    this.region = region
    this.place = place
    this.stretches.clear(region)
    this.neighbour = 0
    this.took(0, 0, 0, 0)
  }

  /** Takes over the only one, which has been read by itself. */
  add({ head, place, slots, type, sector, offset, length, status, region }: SingleRequest, generation: number): void {
    this.region = region
    this.place = place
    this.generation = generation
    this.rows.set([head, slots, type === VIRTIO_BLK_T.IN ? length + 1 : 1, type, sector, offset, length, status])
    const [writes, writeBytes] = type === VIRTIO_BLK_T.IN ? [0, 0] : [1, length]
    this.took(1, length, writes, writeBytes)
  }

  /** Whoever reads descriptors has put so many requests into `rows`. */
  took(count: number, bytes: number, writes: number, writeBytes: number): void {
    this.count = count
    this.taken = count
    this.reads = count - writes
    this.readBytes = bytes - writeBytes
    this.writes = writes
    this.writeBytes = writeBytes
  }

  /** The chains of `queue` that are not completed. */
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

  /** Makes of request `index` what others understand. */
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

  /** The data of the request in `row`, which are in several stretches, as views of RAM. */
  views(row: number): Uint8Array[] {
    const { rows, stretches: { words }, region } = this
    const first = 2 * (rows[row + OFFSET] ?? 0)
    const end = first + 2 * ((rows[row + KIND] ?? 0) >>> 1)
    const views: Uint8Array[] = []
    for (let at = first; at < end; at += 2) views.push(region.viewAt(words[at] ?? 0, words[at + 1] ?? 0))
    return views
  }
}
