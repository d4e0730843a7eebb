/** Completion: the only writer of status bytes and used entries. Each request passes here once. */
import type { GuestMemory } from "../guest-memory.ts"
import { HEAD as HEAD_AT, ROW as ROW_SIZE, SLOTS as SLOTS_AT, WRITTEN as WRITTEN_AT } from "../queue/chain-rows.ts"
import type { Ring, SingleRing } from "../queue/ring.ts"
import { type BlkRequest, isAnswered, storeBytes, storeData } from "./request.ts"
import { type BlkStatus, ID_SIZE, VIRTIO_BLK_S, VIRTIO_BLK_T } from "./spec.ts"
import { type BlkStatistics, countsOf, type RequestCounts } from "./statistics.ts"
import { LENGTH as LENGTH_AT, STATUS as STATUS_AT } from "./usual/columns.ts"
import type { SingleRequest } from "./usual/single-request.ts"
import type { UsualRequests } from "./usual/requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const [ROW, HEAD, SLOTS, WRITTEN, LENGTH, STATUS] = [ROW_SIZE, HEAD_AT, SLOTS_AT, WRITTEN_AT, LENGTH_AT, STATUS_AT] as const
const { OK } = VIRTIO_BLK_S
const { IN, OUT, GET_ID, ZONE_APPEND } = VIRTIO_BLK_T

export class Completion {
  readonly #statistics: BlkStatistics
  // Parts of the statistics, for fast access:
  readonly #read: RequestCounts
  readonly #write: RequestCounts
  /** The answer to GET_ID. */
  readonly #id = new Uint8Array(ID_SIZE)

  constructor(statistics: BlkStatistics, serial: Uint8Array) {
    this.#statistics = statistics
    this.#read = statistics.read
    this.#write = statistics.write
    this.#id.set(serial)
  }

  /** Completes all of `requests`, which have succeeded. */
  completeUsual(requests: UsualRequests): void {
    const { rows, count, region: { data } } = requests
    for (let at = STATUS; at < ROW * count; at += ROW) data.setUint8(rows[at] ?? 0, OK)
    requests.rowRing?.addUsedRows(rows, count)
    requests.count = 0
    if (requests.reads > 0) {
      this.#read.requests += requests.reads
      this.#read.bytes += requests.readBytes
    }
    if (requests.writes > 0) {
      this.#write.requests += requests.writes
      this.#write.bytes += requests.writeBytes
    }
  }

  /** Completes the single request of a kick, which is the only row of `requests`. Returns the result of `SingleRing.giveBackOnly`. */
  completeOnly(ring: SingleRing, requests: UsualRequests): number {
    const { rows, reads, region } = requests
    region.data.setUint8(rows[STATUS] ?? 0, OK)
    requests.count = 0
    const counts = reads > 0 ? this.#read : this.#write
    counts.requests++
    counts.bytes += rows[LENGTH] ?? 0
    return ring.giveBackOnly(rows[HEAD] ?? 0, rows[WRITTEN] ?? 0, rows[SLOTS] ?? 0)
  }

  /** The same for a `SingleRequest`. */
  completeSingle(ring: SingleRing, { type, length, head, slots, region, status }: SingleRequest): number {
    region.data.setUint8(status, OK)
    const counts = type === IN ? this.#read : this.#write
    counts.requests++
    counts.bytes += length
    return ring.giveBackOnly(head, type === IN ? length + 1 : 1, slots)
  }

  /**
   * Stores the status byte and the used entry. The used length counts the bytes written from the first writable byte on, and the status
   * byte only if it follows them directly, so that it never counts an unwritten byte ([VIRTIO] 2.7.8.2).
   */
  complete(memory: GuestMemory, ring: Ring, request: BlkRequest, status: BlkStatus): void {
    let filled = 0
    if (status === OK && request.type === IN) filled = request.dataLength
    else if (status === OK && request.type !== OUT) filled = this.#answer(request)
    request.statusRegion.data.setUint8(request.statusOffset, status)
    ring.addUsed(request, filled === request.writableBefore ? filled + 1 : filled)
    const counts = countsOf(this.#statistics, request.type)
    counts.requests++
    if (status === OK) counts.bytes += request.type === IN || request.type === OUT || request.type === ZONE_APPEND ? request.dataLength : 0
    else counts.errors++
    if (memory.written !== undefined) announce(memory, request)
  }

  /** Stores the device's answer. Returns the number of bytes written, from the first writable byte on. */
  #answer(request: BlkRequest): number {
    const answer = request.type === GET_ID ? this.#id : request.answer
    if (answer === undefined) return 0
    if (request.tail === undefined) return storeData(request, answer)
    storeBytes(request.tail, answer, answer.length)
    return answer.length === request.writableBefore ? answer.length : 0
  }
}

/** Announces the bytes that the request may have stored, even for a failed read. */
function announce(memory: GuestMemory, request: BlkRequest): void {
  const filled = isAnswered(request.type) ? request : request.tail
  for (let segment = 0; filled !== undefined && segment < filled.count; segment++) {
    memory.written?.(filled.address(segment), filled.length(segment))
  }
  memory.written?.(request.statusRegion.start + request.statusOffset, 1)
}
