/**
 * The drivers of the benchmark's guest, of a split and of a packed ring: as lean as they can be, and alike in all but the format. One
 * function each writes a batch: V8 inlines short ones or not, as it happens, which made 30 ns a kick in one process and not in the next.
 */

/** Guest-physical addresses: of the descriptors, of a split ring's other parts or a packed ring's event suppression, and of buffers. */
export const LAYOUT = {
  DESC: 0x1000, AVAIL: 0x3000, USED: 0x4000, HEADERS: 0x6000, STATUSES: 0x8000, TABLES: 0x10_0000, DATA: 0x20_0000,
} as const

/** Descriptors of a split ring. A packed one has as many as its requests fill. */
export const QUEUE_SIZE = 256

const { DESC, AVAIL, USED, HEADERS, STATUSES, TABLES, DATA } = LAYOUT
const [NEXT, WRITE, INDIRECT] = [1, 2, 4] as const
/** Both marks of a packed ring's descriptors, and the first one. */
const [MARKS, AVAILABLE] = [0x8080, 0x0080] as const

export interface GuestRequests {
  /** RAM, from address 0 on. */
  readonly data: DataView
  /** Requests of a kick. */
  readonly batch: number
  /** Buffers of data of a request, bytes of each, and from the start of one to that of the next. */
  readonly segments: number
  readonly part: number
  readonly stride: number
  readonly isRead: boolean
  readonly isIndirect: boolean
  /** A flag that means nothing is set, which the reader of usual requests does not know. */
  readonly isGeneral: boolean
  /** Descriptors of a split ring are written for each request. */
  readonly rewrites: boolean
}

export interface GuestDriver {
  /** Descriptors of the ring. */
  readonly ringSize: number
  /** Makes a batch available: the guest's share of a kick. */
  prepare(offsets: Float64Array, first: number): void
  /** Every request of the last batch has been answered. */
  isBack(): boolean
}

export class SplitGuest implements GuestDriver {
  readonly ringSize = QUEUE_SIZE
  readonly #requests: GuestRequests
  readonly #data: DataView
  readonly #slots: number
  /** The descriptors are to be written. */
  #isUnwritten = true
  #idx = 0

  constructor(requests: GuestRequests) {
    this.#requests = requests
    this.#data = requests.data
    this.#slots = slotsOf(requests)
  }

  prepare(offsets: Float64Array, first: number): void {
    const { data, batch, segments, part, stride, isRead, isIndirect, isGeneral, rewrites } = this.#requests
    const slots = this.#slots
    const length = 16 * (segments + 2)
    const headFlags = isGeneral ? NEXT | 8 : NEXT
    const dataFlags = isRead ? NEXT | WRITE : NEXT
    const isUnwritten = this.#isUnwritten
    let idx = this.#idx
    let buffer = DATA
    let head = 0
    for (let request = 0; request < batch; request++) {
      if (isUnwritten) {
        const table = isIndirect ? TABLES + length * request : DESC + 16 * head
        let index = isIndirect ? 1 : head + 1
        let at = table
        describe(data, at, HEADERS + 16 * request, 16, headFlags, index)
        for (let segment = 0; segment < segments; segment++) {
          at += 16
          index++
          describe(data, at, buffer, part, dataFlags, index)
          buffer += stride
        }
        describe(data, at + 16, STATUSES + request, 1, WRITE, 0)
        if (isIndirect) describe(data, DESC + 16 * head, table, length, INDIRECT, 0)
      }
      data.setUint32(HEADERS + 16 * request + 8, (offsets[first + request] ?? 0) / 512, true)
      data.setUint16(AVAIL + 4 + 2 * (idx & (QUEUE_SIZE - 1)), head, true)
      idx++
      head += slots
    }
    this.#idx = idx & 0xffff
    this.#isUnwritten = rewrites
    data.setUint16(AVAIL + 2, this.#idx, true)
  }

  isBack(): boolean {
    return this.#data.getUint16(USED + 2, true) === this.#idx
  }
}

/**
 * Buffers belong to the request of the batch, as in a split ring and as a real driver's do; the place in the ring moves on. Descriptors are
 * written for each request: the device writes into them, and their flags are of the lap before.
 */
export class PackedGuest implements GuestDriver {
  readonly ringSize: number
  readonly #requests: GuestRequests
  readonly #data: DataView
  readonly #ringEnd: number
  /** Where the next request goes, and the marks of an available descriptor there. */
  #nextAt: number = DESC
  #marks: number = AVAILABLE
  /** The last descriptor of the last batch that will be used, and its marks then. */
  #lastAt: number = DESC
  #lastMarks = 0

  constructor(requests: GuestRequests) {
    this.#requests = requests
    this.#data = requests.data
    const slots = slotsOf(requests)
    this.ringSize = slots * Math.floor(QUEUE_SIZE / slots)
    this.#ringEnd = DESC + 16 * this.ringSize
  }

  prepare(offsets: Float64Array, first: number): void {
    const { data, batch, segments, part, stride, isRead, isIndirect, isGeneral } = this.#requests
    const length = 16 * (segments + 2)
    const headFlags = isGeneral ? NEXT | 8 : NEXT
    const dataFlags = isRead ? NEXT | WRITE : NEXT
    const ringEnd = this.#ringEnd
    let at = this.#nextAt
    let marks = this.#marks
    let last = at
    let buffer = DATA
    for (let request = 0; request < batch; request++) {
      last = at
      const own = isIndirect ? 0 : marks
      const table = isIndirect ? TABLES + length * request : at
      let next = table
      for (let segment = 0; segment < segments; segment++) {
        next += 16
        describe(data, next, buffer, part, request, dataFlags | own)
        buffer += stride
      }
      describe(data, next + 16, STATUSES + request, 1, request, WRITE | own)
      data.setUint32(HEADERS + 16 * request + 8, (offsets[first + request] ?? 0) / 512, true)
      // The first of the ring comes last.
      describe(data, table, HEADERS + 16 * request, 16, request, headFlags | own)
      if (isIndirect) describe(data, at, table, length, request, INDIRECT | marks)
      at += isIndirect ? 16 : length
      if (at !== ringEnd) continue
      at = DESC
      marks ^= MARKS
    }
    this.#lastAt = last
    // Both set where the driver's counter is 1, none where it is 0. The last one of a lap leaves the counter of the next.
    this.#lastMarks = (marks === AVAILABLE) === (at !== DESC) ? MARKS : 0
    this.#nextAt = at
    this.#marks = marks
  }

  isBack(): boolean {
    return (this.#data.getUint16(this.#lastAt + 14, true) & MARKS) === this.#lastMarks
  }
}

/** Descriptors of the ring that a request takes up. */
function slotsOf({ segments, isIndirect }: GuestRequests): number {
  return isIndirect ? 1 : segments + 2
}

function describe(data: DataView, at: number, address: number, length: number, third: number, fourth: number): void {
  data.setUint32(at, address, true)
  data.setUint32(at + 8, length, true)
  data.setUint16(at + 12, third, true)
  data.setUint16(at + 14, fourth, true)
}
