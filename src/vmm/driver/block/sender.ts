/**
 * BlockSender: turns block requests into chains (header, data and status in guest RAM, framed as asked) and checks what came back.
 */
import { checkBytes, checkOptions, type Rules } from "../../../options.ts"
import { BLK_HEADER, BLK_S, BLK_T, SECTOR_SIZE } from "./spec.ts"
import type { BlockEngine } from "./engine.ts"
import { type BlockFraming, checkFraming, type FramePlan, planFrame, segmentsOf } from "./framing.ts"
import type { TransferSlot } from "./transfer.ts"
import { type BlockErrorStatus, BlockRequestError, DriverError } from "../errors.ts"
import { includesFeature } from "../virtio/features.ts"
import type { GuestRam } from "../guest-ram.ts"
import type { RequestBuffer } from "./request-buffer.ts"
import type { IndirectTable, Segment } from "../virtio/rings/segments.ts"

/** Options of every request. */
export interface RequestOptions {
  /** Index of the queue. Default 0. */
  readonly queue?: number
  readonly framing?: BlockFraming
}

/** Any request at all. */
export interface BlockRequest extends RequestOptions {
  /** One of `BLK_T`, or any 32-bit number. */
  readonly type: number
  /** Default 0. A bigint where it is beyond 2^53. */
  readonly sector?: number | bigint
  /** The reserved field of the header, once ioprio. Default 0. */
  readonly reserved?: number
  /** Bytes for the device to read after the header. */
  readonly dataOut?: Uint8Array
  /** Bytes for the device to write before the status. Default 0. */
  readonly dataIn?: number
}

export const REQUEST_RULES: Rules<RequestOptions> = { queue: "number?", framing: "object?" }
const BLOCK_REQUEST_RULES: Rules<BlockRequest> = {
  ...REQUEST_RULES, type: "number", sector: "any?", reserved: "number?", dataOut: "object?", dataIn: "number?",
}

/** What most calls pass: there is nothing to check. */
export const NO_OPTIONS: RequestOptions = {}

/** @throws TypeError for a wrong option of a request */
export function checkRequest<O extends RequestOptions>(who: string, options: O, rules: Rules<O>): void {
  if (options === NO_OPTIONS) return
  checkOptions(who, options, rules)
  if (options.framing !== undefined) checkFraming(who, options.framing)
}

/** @throws TypeError for a request that is none */
export function checkBlockRequest(who: string, request: BlockRequest): void {
  checkRequest(who, request, BLOCK_REQUEST_RULES)
  if (request.dataOut !== undefined) checkBytes(who, "dataOut", request.dataOut)
}

/** What came back. */
export interface BlockReply {
  /** The status byte; 0xff when the device did not write it. */
  readonly status: number
  /** From the used ring. */
  readonly usedLength: number
  /** The `dataIn` bytes; those that the device did not write are zero. */
  readonly data: Uint8Array
}

export interface BlockSenderOptions {
  readonly framing?: BlockFraming
  readonly maxRequestBytes?: number
  readonly strictUsedLength?: boolean
}

/** Where the parts of a request are, and how long. */
interface Shape {
  readonly dataOut: number
  readonly dataIn: number
  readonly plan: FramePlan
  /** Descriptors in all: what an indirect table needs at most. */
  readonly descriptors: number
}

const STATUS_UNWRITTEN = 0xff
const FAILURES: ReadonlyMap<number, BlockErrorStatus> = new Map(
  (["IOERR", "UNSUPP", "ZONE_INVALID_CMD", "ZONE_UNALIGNED_WP", "ZONE_OPEN_RESOURCE", "ZONE_ACTIVE_RESOURCE"] as const).map(
    (name) => [BLK_S[name], name],
  ),
)
const DEFAULT_REQUEST_BYTES = 1 << 20
/** The largest multiple of 512 that the length field of a descriptor holds. */
const SEGMENT_MAX = 0xffff_fe00

/** Sends block requests through an engine. */
export class BlockSender {
  readonly #engine: BlockEngine
  readonly #ram: GuestRam
  readonly #options: BlockSenderOptions

  constructor(engine: BlockEngine, options: BlockSenderOptions) {
    this.#engine = engine
    this.#ram = engine.virtio.ram
    this.#options = options
  }

  /** Sends one request. Resolves with what came back, whatever the status. */
  async request(request: BlockRequest): Promise<BlockReply> {
    const { dataIn = 0 } = request
    if (!Number.isSafeInteger(dataIn) || dataIn < 0) throw new RangeError(`dataIn cannot be ${dataIn} bytes`)
    const shape = this.#shape(request, request.dataOut?.length ?? 0, dataIn)
    const { dataOut, descriptors } = shape
    const buffers = this.#engine.buffers
    const buffer = buffers.tryTake(dataOut + dataIn, descriptors) ?? (await buffers.take(dataOut + dataIn, descriptors))
    try {
      this.#ram.refresh()
      if (request.dataOut !== undefined) this.#ram.view(buffer.data, dataOut).set(request.dataOut)
      this.#ram.view(buffer.data + dataOut, dataIn).fill(0)
      const usedLength = await this.#send(request, shape, buffer)
      return {
        status: this.#ram.data.getUint8(buffer.data + dataOut + dataIn),
        usedLength,
        data: this.#ram.view(buffer.data + dataOut, dataIn).slice(),
      }
    } finally {
      buffers.release(buffer)
    }
  }

  /**
   * A request that must succeed. Resolves with its data, of which `least` bytes must have been written (default: all); rejects with
   * `BlockRequestError` or `DriverError` ("protocol").
   */
  async checked(name: keyof typeof BLK_T, request: Omit<BlockRequest, "type">, least = request.dataIn ?? 0): Promise<Uint8Array> {
    const reply = await this.request({ ...request, type: BLK_T[name] })
    this.#check(name, request.sector ?? 0, reply.status, reply.usedLength, least)
    return reply.data
  }

  /** The size of the largest read or write that the caller, the device and the memory allow. Bytes. */
  largestRequest(options: RequestOptions): number {
    const framing = options.framing ?? this.#options.framing ?? {}
    const identity = this.#engine.identity
    const segments = Math.max(1, Math.min(identity.segMax ?? Number.POSITIVE_INFINITY, this.#engine.ringSize(options.queue ?? 0) - 2))
    const segmentSize = framing.segmentSize ?? identity.sizeMax ?? SEGMENT_MAX
    const bytes = Math.min(
      this.#options.maxRequestBytes ?? DEFAULT_REQUEST_BYTES,
      segments * segmentSize,
      this.#engine.virtio.memory.capacity / 4,
    )
    return Math.max(SECTOR_SIZE, bytes - (bytes % SECTOR_SIZE))
  }

  /** Up to `count` slots for reads or writes of up to `bytes` each: as many as there is memory for, at least one. */
  openSlots(
    name: "IN" | "OUT", bytes: number, count: number, options: RequestOptions,
  ): readonly TransferSlot[] | Promise<readonly TransferSlot[]> {
    const { descriptors } = this.#shape(options, name === "OUT" ? bytes : 0, name === "IN" ? bytes : 0)
    const slots: TransferSlot[] = []
    while (slots.length < count) {
      const buffer = this.#engine.buffers.tryTake(bytes, descriptors)
      if (buffer === undefined) break
      slots.push(this.#slot(name, buffer, options))
    }
    return slots.length > 0 ? slots : this.#engine.buffers.take(bytes, descriptors).then((buffer) => [this.#slot(name, buffer, options)])
  }

  #slot(name: "IN" | "OUT", buffer: RequestBuffer, options: RequestOptions): TransferSlot {
    const ram = this.#ram
    return {
      data: (length) => {
        ram.refresh()
        return ram.view(buffer.data, length)
      },
      send: async (sector, length) => {
        const shape = this.#shape(options, name === "OUT" ? length : 0, name === "IN" ? length : 0)
        const usedLength = await this.#send({ ...options, type: BLK_T[name], sector }, shape, buffer)
        this.#check(name, sector, ram.data.getUint8(buffer.data + length), usedLength, shape.dataIn)
      },
      release: () => this.#engine.buffers.release(buffer),
    }
  }

  #shape(options: RequestOptions, dataOut: number, dataIn: number): Shape {
    const segmentSize = Math.min(this.#engine.identity.sizeMax ?? SEGMENT_MAX, SEGMENT_MAX)
    const limits = { segmentSize, descriptors: this.#engine.ringSize(options.queue ?? 0) }
    const plan = planFrame({ dataOut, dataIn, ...limits }, options.framing ?? this.#options.framing)
    return { dataOut, dataIn, plan, descriptors: plan.readable.length + plan.writable.length }
  }

  /** Fills in header and status and sends the chain. Resolves with the used length; RAM has been refreshed then. */
  async #send(request: BlockRequest, shape: Shape, buffer: RequestBuffer): Promise<number> {
    const ram = this.#ram
    const framing = request.framing ?? this.#options.framing ?? {}
    ram.refresh()
    ram.data.setUint32(buffer.header + BLK_HEADER.TYPE, request.type, true)
    ram.data.setUint32(buffer.header + BLK_HEADER.RESERVED, request.reserved ?? 0, true)
    ram.setU64(buffer.header + BLK_HEADER.SECTOR, request.sector ?? 0)
    ram.data.setUint8(buffer.data + shape.dataOut + shape.dataIn, STATUS_UNWRITTEN)
    const staged = segmentsOf(shape.plan, buffer.header, buffer.data + shape.dataOut)
    const segments = framing.scattered === true ? this.#scatter(staged, buffer) : staged
    const table = this.#table(framing, segments.length, buffer)
    const usedLength = await this.#engine.submit({ queue: request.queue ?? 0, segments, table, buffer })
    ram.refresh()
    if (framing.scattered === true) this.#gather(segments, staged, buffer)
    return usedLength
  }

  #table(framing: BlockFraming, segments: number, buffer: RequestBuffer): IndirectTable | undefined {
    const wanted = framing.indirect ?? includesFeature(this.#engine.virtio.features, "INDIRECT_DESC")
    if (wanted === false) return undefined
    return { address: buffer.table, direct: wanted === true ? 0 : Math.min(wanted.direct, segments - 1) }
  }

  /** Moves each segment to memory of its own. */
  #scatter(staged: readonly Segment[], buffer: RequestBuffer): Segment[] {
    return staged.map((segment) => {
      const address = this.#engine.buffers.addPiece(buffer, segment.length)
      this.#ram.view(address, segment.length).set(this.#ram.view(segment.address, segment.length))
      return { ...segment, address }
    })
  }

  /** Copies what the device wrote back to where the request was staged. */
  #gather(segments: readonly Segment[], staged: readonly Segment[], buffer: RequestBuffer): void {
    segments.forEach(({ address, length, writable }, index) => {
      const home = staged[index]
      if (writable && home !== undefined) this.#ram.view(home.address, length).set(this.#ram.view(address, length))
    })
    this.#engine.buffers.dropPieces(buffer)
  }

  #check(name: keyof typeof BLK_T, sector: number | bigint, status: number, usedLength: number, dataIn: number): void {
    const failure = FAILURES.get(status)
    // Who has not accepted ZONED does not know the statuses of zones.
    if (failure !== undefined && (status <= BLK_S.UNSUPP || includesFeature(this.#engine.virtio.features, "ZONED"))) {
      throw new BlockRequestError(failure, name, sector)
    }
    if (status === STATUS_UNWRITTEN) throw new DriverError("protocol", `the device returned ${name} without writing its status`)
    if (status !== BLK_S.OK) throw new DriverError("protocol", `the device answered ${name} with the unknown status ${status}`)
    const isStrict = this.#options.strictUsedLength ?? this.#engine.virtio.transport.kind === "modern"
    // [VIRTIO] 2.7.8.3: a driver must not make assumptions about data beyond the used length.
    if (isStrict && usedLength < dataIn) {
      throw new DriverError("protocol", `the used length ${usedLength} of ${name} does not cover its ${dataIn} bytes of data`)
    }
  }
}
