/**
 * WalkedRequests takes requests whose descriptors are not usual: header and data in one buffer, empty buffers, meaningless flags. It reads
 * them by the general walk. Transfers become rows, as usual requests do; any other request stops it.
 *
 * It repeats checks of `parseRequest` and `transferRefusal`; test/fuzz/usual compares the results. RAM may change meanwhile, so the header
 * is read only once, and only the walk reads descriptors.
 */
import { HEAD as HEAD_AT, ROW as ROW_SIZE, SLOTS as SLOTS_AT, WRITTEN as WRITTEN_AT } from "../../queue/chain-rows.ts"
import { DescriptorChain, SegmentList } from "../../queue/descriptor-chain.ts"
import type { RowRing } from "../../queue/ring.ts"
import type { RequestLimits } from "../request.ts"
import { HEADER_SIZE, VIRTIO_BLK_T } from "../spec.ts"
import {
  ADDRESSES_WITH_ROWS, KIND as KIND_AT, LENGTH as LENGTH_AT, MOST_BYTES_OF_ONE, MOST_USUAL_BYTES, OFFSET as OFFSET_AT, SECTOR as SECTOR_AT,
  STATUS as STATUS_AT,
} from "./columns.ts"
import type { UsualRequests } from "./requests.ts"
import type { Stretches } from "./stretches.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const { IN, OUT } = VIRTIO_BLK_T
const [HEADER, ROW] = [HEADER_SIZE, ROW_SIZE] as const
const [HEAD, SLOTS, WRITTEN, KIND, SECTOR, OFFSET, LENGTH, STATUS] = [
  HEAD_AT, SLOTS_AT, WRITTEN_AT, KIND_AT, SECTOR_AT, OFFSET_AT, LENGTH_AT, STATUS_AT,
] as const
const [ADDRESSES, BATCH_BYTES, MOST_BYTES] = [ADDRESSES_WITH_ROWS, MOST_USUAL_BYTES, MOST_BYTES_OF_ONE] as const
/** After this many descriptors no more requests are taken, because nothing checks the clock meanwhile. */
const MOST_DESCRIPTORS = 8192

export class WalkedRequests {
  /** The segments of the chain that was taken last. */
  readonly #segments = new SegmentList()
  readonly #chain = new DescriptorChain(this.#segments)
  /** Descriptors read so far. */
  descriptors = 0
  /** `#chain` is a request that makes no row, for `takeLeft`. */
  #isLeft = false
  /** The error that taking the next chain has thrown. */
  #thrown: { readonly error: unknown } | undefined

  /** Adds requests from `ring` to `requests`, up to the first that makes no row, and `most` in all. */
  take(requests: UsualRequests, ring: RowRing, limits: RequestLimits, most: number): void {
    const chain = this.#chain
    const segments = this.#segments
    const { rows, stretches } = requests
    let { count, writes, writeBytes } = requests
    let bytes = requests.readBytes + writeBytes
    let neighbour = requests.neighbour < count ? requests.neighbour : -1
    this.descriptors = 0
    segments.keepOnly(requests.region)
    requests.isDrained = false
    try {
      for (; count < most && bytes < BATCH_BYTES && !stretches.isFull && this.descriptors < MOST_DESCRIPTORS; count++) {
        segments.clear()
        if (!ring.pop(chain)) {
          requests.isDrained = true
          break
        }
        this.descriptors += chain.descriptors
        if (!this.#makeRow(requests, ROW * count, limits)) {
          this.#isLeft = true
          break
        }
        if (neighbour < 0 && count > 0 && continues(rows, ROW * count)) neighbour = count - 1
        const length = rows[ROW * count + LENGTH] ?? 0
        bytes += length
        if (((rows[ROW * count + KIND] ?? 0) & 1) === IN) continue
        writes++
        writeBytes += length
      }
    } catch (error) {
      // `takeLeft` throws it, after the requests before it have been taken over.
      this.#thrown = { error }
    }
    requests.isWhole = !this.#isLeft && this.#thrown === undefined
    requests.neighbour = neighbour < 0 ? count : neighbour
    requests.took(count, bytes, writes, writeBytes)
  }

  /** Whether `takeLeft` has a request or an error. */
  get hasLeft(): boolean {
    return this.#isLeft || this.#thrown !== undefined
  }

  /** Copies the request that makes no row into `chain`. Returns false if there is none. @throws the error that taking it has thrown */
  takeLeft(chain: DescriptorChain): boolean {
    const thrown = this.#thrown
    this.#thrown = undefined
    if (thrown !== undefined) throw thrown.error
    if (!this.#isLeft) return false
    this.#isLeft = false
    chain.copy(this.#chain)
    return true
  }

  /** Fills `row` from the chain that was taken. Returns false if it makes no row. */
  #makeRow({ region, rows, stretches }: UsualRequests, row: number, limits: RequestLimits): boolean {
    const chain = this.#chain
    const { readableLength, writableLength } = chain
    if (!this.#segments.isAllIn(region) || region.end >= ADDRESSES) return false
    if (readableLength < HEADER || writableLength === 0 || chain.length(0) < HEADER) return false
    const { data } = region
    const header = chain.offset(0)
    const type = data.getUint32(header, true)
    const sector = data.getUint32((header + 8) >>> 0, true)
    if (data.getUint32((header + 12) >>> 0, true) !== 0) return false
    const isIn = type === IN
    // Rows are only for writes whose status byte is the first writable byte: after others, the used length would be 0.
    if (!isIn && (type !== OUT || limits.readOnly || writableLength !== 1)) return false
    const length = (isIn ? writableLength - 1 : readableLength - HEADER) >>> 0
    const { capacity } = limits
    if (length === 0 || length > MOST_BYTES || (length & 511) !== 0 || sector > capacity || length >>> 9 > capacity - sector) return false
    if (!this.#placeData(stretches, rows, row, type, length)) return false
    const last = chain.count - 1
    rows[row + HEAD] = chain.head
    rows[row + SLOTS] = chain.slots
    rows[row + WRITTEN] = isIn ? length + 1 : 1
    rows[row + SECTOR] = sector
    rows[row + LENGTH] = length
    rows[row + STATUS] = chain.offset(last) + chain.length(last) - 1
    return true
  }

  /** Finds the `length` bytes of data of a request of `type`. Returns false if they are in too many pieces. */
  #placeData(stretches: Stretches, rows: Uint32Array, row: number, type: number, length: number): boolean {
    const chain = this.#chain
    // The data begin with the first writable segment, or directly after the header.
    let segment = type === IN ? chain.readableCount : 0
    let passed = type === IN ? 0 : HEADER
    if (passed === chain.length(segment)) {
      segment++
      passed = 0
    }
    const offset = (chain.offset(segment) + passed) >>> 0
    let part = (chain.length(segment) - passed) >>> 0
    rows[row + KIND] = type
    rows[row + OFFSET] = offset
    if (part >= length) return true
    stretches.begin(offset, part)
    for (let left = length - part; left > 0; left -= part) {
      segment++
      part = Math.min(left, chain.length(segment))
      if (!stretches.append(chain.offset(segment), part)) return false
    }
    const count = stretches.end()
    if (count > 1) rows[row + KIND] = type | (count << 1)
    rows[row + OFFSET] = count === 1 ? stretches.offset : stretches.first
    return true
  }
}

/** Whether the request in `row` begins where the one in the row before ends. */
function continues(rows: Uint32Array, row: number): boolean {
  const end = (rows[row - ROW + SECTOR] ?? 0) + ((rows[row - ROW + LENGTH] ?? 0) >>> 9)
  return end === rows[row + SECTOR] && (((rows[row - ROW + KIND] ?? 0) ^ (rows[row + KIND] ?? 0)) & 1) === 0
}
