/**
 * VirtioBlk: the block device ([VIRTIO] 5.2). Takes a batch of requests from a queue, merges neighbours into one vectored call on
 * the backing, and completes each request exactly once, at once or when the backing's promise settles.
 */
import { BackingError, type BackingErrorCode, checkBacking, checkBackingSize, type VirtioBacking } from "../../backing/backing.ts"
import { VirtioDevice } from "../device.ts"
import { SegmentList } from "../queue/descriptor-chain.ts"
import { type SplitQueue, VirtqueueError } from "../queue/split-queue.ts"
import { DEVICE_STATUS, hasBit } from "../spec.ts"
import { inTurn, readBuffers, writeBuffers } from "./backing-calls.ts"
import { gatherBuffers } from "./gather.ts"
import { blkFeatures, type BlkParameters, blkParameters, type VirtioBlkOptions, writeCapacity, writeStaticConfig } from "./config.ts"
import { rangeListRefusal, rangeRefusal, transferRefusal } from "./refusal.ts"
import { BlkRequest, checkStillRam, parseRequest, readRangeSegments, storeData, WAITING as STILL_WAITING } from "./request.ts"
import { type BlkStatus, ID_SIZE, SECTOR_SIZE, VIRTIO_BLK_CONFIG, VIRTIO_BLK_CONFIG_SIZE, VIRTIO_BLK_F, VIRTIO_BLK_S, VIRTIO_BLK_T, VIRTIO_BLK_WRITE_ZEROES_F, VIRTIO_ID_BLOCK } from "./spec.ts"
import { type BlkStatistics, countsOf, emptyStatistics } from "./statistics.ts"

// What is imported is looked up again with each use; these are constants to the compiler (measured: 10 ns a request).
const { OK, IOERR, UNSUPP } = VIRTIO_BLK_S
const { IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES } = VIRTIO_BLK_T
const SECTOR = SECTOR_SIZE
const WAITING = STILL_WAITING

/** Requests taken from a queue before any of them is acted upon. */
const BATCH_REQUESTS = 256
/** The batch is closed once it has this many segments, so that its memory stays bounded whatever chains look like. */
const BATCH_SEGMENTS = 8192
/** Bytes and buffers that one merged call moves at most: larger calls gain nothing. */
const MERGE_BYTES = 1 << 20
const MERGE_BUFFERS = 1024

/** What a failure of the backing tells the guest. Total, so that a new code does not compile until somebody has thought about it. */
const STATUS_BY_CODE: Readonly<Record<BackingErrorCode, BlkStatus>> = {
  io: IOERR,
  "no-space": IOERR,
  "out-of-bounds": IOERR,
  "read-only": IOERR,
  corrupt: IOERR,
  "invalid-format": IOERR,
  unsupported: UNSUPP,
  "not-found": IOERR,
  exists: IOERR,
  permission: IOERR,
  busy: IOERR,
  closed: IOERR,
  "invalid-argument": IOERR,
}

/**
 * A virtio block device over a backing, to be put behind a transport, such as VirtioPciFunction. The backing stays its owner's: closing
 * it is theirs to do, after the device is unplugged and `whenIdle`.
 */
export class VirtioBlk extends VirtioDevice {
  readonly deviceType = VIRTIO_ID_BLOCK
  readonly backing: VirtioBacking
  readonly statistics: BlkStatistics = emptyStatistics()
  /** The last failure of the backing, for people: the guest hears of it as a status only. */
  lastError: unknown
  readonly #parameters: BlkParameters
  readonly #batch: BlkRequest[] = []
  /** Number of requests in the batch. */
  #taken = 0
  readonly #segments = new SegmentList()
  /** In sectors. */
  #capacity = 0
  /** Thrown by a backing, but no BackingError: somebody's bug, thrown on once the guest has its answers. */
  #bugs: unknown[] = []

  /**
   * @throws TypeError when `backing` is not a `VirtioBacking`, or for an option that does not exist or has the wrong type
   * @throws RangeError for an option that is out of range
   */
  constructor(backing: VirtioBacking, options: VirtioBlkOptions = {}) {
    checkBacking("VirtioBlk", backing)
    const parameters = blkParameters(options)
    super({ ...parameters, configSize: VIRTIO_BLK_CONFIG_SIZE, features: blkFeatures(backing, parameters) })
    this.backing = backing
    this.#parameters = parameters
    writeStaticConfig(this.config, backing, parameters, this.offeredFeatures)
    this.#readCapacity()
    this.wasReset()
  }

  /** Size of the disk as the guest sees it, in sectors of 512 bytes. A tail of the backing that is no whole sector is left out. */
  get capacity(): number {
    return this.#capacity
  }

  get readOnly(): boolean {
    return this.backing.readOnly
  }

  /**
   * To be called after the backing's size has changed: tells the guest. Requests that are under way were judged by the old size.
   * @throws TypeError when the backing's size is not a number of bytes
   */
  capacityChanged(): void {
    checkBackingSize("VirtioBlk", this.backing.size)
    const before = this.#capacity
    this.#readCapacity()
    if (this.#capacity !== before) this.configChanged()
  }

  #readCapacity(): void {
    this.#capacity = Math.floor(this.backing.size / SECTOR)
    writeCapacity(this.config, this.#capacity)
  }

  // --- Cache mode ([VIRTIO] 5.2.5.1, 5.2.6.2) ------------------------------------------------------------------------------

  /** The mode after a reset is write-back, if there is anything to write back. */
  protected override wasReset(): void {
    this.config.setUint8(VIRTIO_BLK_CONFIG.writeback, this.#offersFlush ? 1 : 0)
  }

  protected override negotiated(): void {
    if (!this.#offersFlush) return
    const flush = this.hasFeature(VIRTIO_BLK_F.FLUSH)
    // A driver that cannot choose expects write-back if it can flush, and write-through if not. One that can choose and cannot flush
    // begins with write-through; but DRIVER_OK of a legacy driver that can choose changes nothing ([VIRTIO] 5.2.5.2, 5.2.5.3).
    const legacy = (this.status & DEVICE_STATUS.FEATURES_OK) === 0
    if (!this.hasFeature(VIRTIO_BLK_F.CONFIG_WCE)) this.config.setUint8(VIRTIO_BLK_CONFIG.writeback, flush ? 1 : 0)
    else if (!flush && !legacy) this.config.setUint8(VIRTIO_BLK_CONFIG.writeback, 0)
  }

  protected override writeConfigByte(offset: number, value: number): void {
    if (offset !== VIRTIO_BLK_CONFIG.writeback || !this.#offersWce) return
    const frozen = (this.status & (DEVICE_STATUS.FEATURES_OK | DEVICE_STATUS.DRIVER_OK)) !== 0
    // Legacy drivers may touch the field before they have accepted anything.
    if (frozen && !this.hasFeature(VIRTIO_BLK_F.CONFIG_WCE)) return
    this.config.setUint8(VIRTIO_BLK_CONFIG.writeback, value !== 0 ? 1 : 0)
  }

  /** The cache mode is the driver's; a capacity that is another now is news to it. */
  protected override restoreConfig(config: Uint8Array): void {
    if (this.#offersWce) this.config.setUint8(VIRTIO_BLK_CONFIG.writeback, config[VIRTIO_BLK_CONFIG.writeback] === 0 ? 0 : 1)
    for (let offset = 0; offset < 8; offset++) if (config[VIRTIO_BLK_CONFIG.capacity + offset] !== this.config.getUint8(VIRTIO_BLK_CONFIG.capacity + offset)) return this.configChanged()
  }

  get #offersFlush(): boolean {
    return hasBit(this.offeredFeatures, VIRTIO_BLK_F.FLUSH)
  }

  get #offersWce(): boolean {
    return hasBit(this.offeredFeatures, VIRTIO_BLK_F.CONFIG_WCE)
  }

  /** A write must be on stable storage before it completes. So must those of a legacy driver that has not said yet what it can do. */
  get #writeThrough(): boolean {
    return this.backing.flush !== undefined && (this.config.getUint8(VIRTIO_BLK_CONFIG.writeback) === 0 || (this.status & DEVICE_STATUS.DRIVER_OK) === 0)
  }

  // --- Taking requests -----------------------------------------------------------------------------------------------------

  protected override serve(ring: SplitQueue, queue: number): boolean {
    let broken: VirtqueueError | undefined
    // Two rounds through the ring are all that a driver can ask for while we hold its thread.
    for (let budget = 2 * ring.size; budget > 0; ) {
      let drained = false
      try {
        drained = this.#take(ring, queue)
      } catch (error) {
        if (!(error instanceof VirtqueueError)) throw error
        broken = error
      }
      // One thing after the other for all of them: what runs in between calls of the host runs cold (measured: 100 ns a request).
      this.#plan(this.#taken)
      this.#actOnAll(ring, queue, this.#taken)
      this.#settle(ring, queue, this.#batch, this.#taken)
      // Before the interrupt, in which another queue may be served: the batch is then that one's.
      budget -= this.#taken
      this.publish(ring, queue)
      // Interrupting may have run the driver. If it has reset us, nothing of this ring matters any more; if we are paused or kept from
      // memory since, whoever ends that serves the rest.
      if (broken !== undefined && this.isCurrent(ring, queue)) throw broken
      if (!this.mayServe(ring, queue)) return false
      // The guest's memory may have grown in there, too.
      ring.refresh()
      if (drained && !ring.enableKicks()) return false
    }
    return true
  }

  protected override served(): void {
    this.#throwBugs()
  }

  /** Fills the batch. Returns whether the ring was empty then. What was taken before an error is in the batch, and good. */
  #take(ring: SplitQueue, queue: number): boolean {
    const legacy = this.queue(queue)?.legacy === true
    const { memory } = this
    const segments = this.#segments
    segments.count = 0
    this.#taken = 0
    while (this.#taken < BATCH_REQUESTS && segments.count < BATCH_SEGMENTS) {
      const request = this.#slot(this.#taken)
      if (!ring.pop(request)) return true
      try {
        parseRequest(request, memory, legacy)
      } catch (error) {
        // It will never be given back, and a reset of the queue must not wait for it.
        ring.abandon()
        throw error
      }
      request.outcome = this.#refusal(request)
      this.#taken++
    }
    return false
  }

  #slot(index: number): BlkRequest {
    return (this.#batch[index] ??= new BlkRequest(this.#segments))
  }

  /** Decides which requests of the batch one call on the backing serves, and collects their data. */
  #plan(count: number): void {
    for (let first = 0; first < count; ) {
      const request = this.#slot(first)
      const isTransfer = request.outcome === OK && (request.type === IN || request.type === OUT)
      const end = isTransfer ? this.#mergeEnd(request, first, count) : first + 1
      request.groupEnd = end
      if (isTransfer) gatherBuffers(this.#batch, first, end, this.memory)
      first = end
    }
  }

  /** Acts on the first `count` requests of the batch, in order. */
  #actOnAll(ring: SplitQueue, queue: number, count: number): void {
    for (let first = 0; first < count; ) {
      const request = this.#slot(first)
      const end = request.groupEnd
      if (request.outcome === OK) this.#perform(ring, queue, this.#batch, first, end)
      first = end
    }
  }

  /** The status to refuse the request with, or OK. */
  #refusal(request: BlkRequest): BlkStatus {
    switch (request.type) {
      case IN:
      case OUT:
        return transferRefusal(request, this)
      case FLUSH:
      case GET_ID:
        return OK
      case DISCARD:
        return this.#rangeRefusal(request, VIRTIO_BLK_F.DISCARD)
      case WRITE_ZEROES:
        return this.#rangeRefusal(request, VIRTIO_BLK_F.WRITE_ZEROES)
      default:
        return UNSUPP
    }
  }

  #rangeRefusal(request: BlkRequest, feature: number): BlkStatus {
    if (!this.readOnly && !this.hasFeature(feature)) return UNSUPP
    const refusal = rangeListRefusal(request, this)
    if (refusal !== OK) return refusal
    request.ranges = readRangeSegments(request, this.memory)
    return rangeRefusal(request, this)
  }

  /** The end of the requests from `first` on that one call on the backing can serve: reads, or writes, of neighbouring sectors. */
  #mergeEnd(request: BlkRequest, first: number, count: number): number {
    let end = first + 1
    if (request.dataLength === 0) return end
    let bytes = request.dataLength
    let buffers = request.count
    for (; end < count; end++) {
      const next = this.#slot(end)
      if (next.type !== request.type || (next.sector - request.sector) * SECTOR !== bytes || next.outcome !== OK || next.dataLength === 0) break
      bytes += next.dataLength
      buffers += next.count
      if (bytes > MERGE_BYTES || buffers > MERGE_BUFFERS) break
      this.statistics.merged++
    }
    return end
  }

  // --- Acting ------------------------------------------------------------------------------------------------------------------

  /** One call on the backing for the requests from `first` to before `end`. Their outcome is known afterwards, or WAITING. */
  #perform(ring: SplitQueue, queue: number, batch: readonly BlkRequest[], first: number, end: number): void {
    let answer: void | Promise<void>
    try {
      answer = this.#act(batch[first])
    } catch (error) {
      this.#failed(ring, queue, batch, first, end, error)
      return
    }
    if (answer !== undefined) this.#wait(ring, queue, this.#detach(batch, first, end), answer, "act")
  }

  /** `#perform` for requests whose buffers are no longer those that were collected. Throws VirtqueueError when the RAM that held them is gone. */
  #performAnew(ring: SplitQueue, queue: number, batch: readonly BlkRequest[], first: number, end: number): void {
    const type = batch[first]?.type
    if (type === IN || type === OUT) {
      for (let index = first; index < end; index++) checkStillRam(batch[index], this.memory)
      gatherBuffers(batch, first, end, this.memory)
    }
    this.#perform(ring, queue, batch, first, end)
  }

  /** Calls the backing for the group of requests that `request` begins. */
  #act(request: BlkRequest | undefined): void | Promise<void> {
    if (request === undefined) return
    switch (request.type) {
      case IN:
        return readBuffers(this.backing, request, request.sector * SECTOR)
      case OUT:
        return writeBuffers(this.backing, request, request.sector * SECTOR)
      case FLUSH:
        return this.backing.flush?.()
      case DISCARD:
        return eachRange(request, (offset, length) => this.backing.discard?.(offset, length))
      case WRITE_ZEROES:
        return eachRange(request, (offset, length, flags) => this.backing.writeZeroes?.(offset, length, (flags & VIRTIO_BLK_WRITE_ZEROES_F.UNMAP) !== 0))
    }
  }

  // --- Completing ----------------------------------------------------------------------------------------------------------------

  /** Completes those of the first `count` requests whose outcome is known. In write-through mode a write is not done until it is stable. */
  #settle(ring: SplitQueue, queue: number, batch: readonly BlkRequest[], count: number): void {
    let unstable: BlkRequest[] | undefined
    const isThrough = this.#writeThrough
    for (let index = 0; index < count; index++) {
      const request = batch[index]
      if (request === undefined || request.outcome === WAITING) continue
      const isWrite = request.type === OUT || request.type === WRITE_ZEROES
      if (isThrough && isWrite && request.outcome === OK) (unstable ??= []).push(request)
      else this.#complete(ring, request, request.outcome)
    }
    if (unstable !== undefined) this.#stabilise(ring, queue, unstable)
  }

  #id(): Uint8Array {
    const id = new Uint8Array(ID_SIZE)
    id.set(this.#parameters.serial)
    return id
  }

  /** The call failed. Where it was for several requests, each is tried alone: only those that fail by themselves shall hear of it. */
  #failed(ring: SplitQueue, queue: number, batch: readonly BlkRequest[], first: number, end: number, error: unknown): void {
    if (end - first > 1) {
      for (let index = first; index < end; index++) this.#performAnew(ring, queue, batch, index, index + 1)
      return
    }
    const request = batch[first]
    if (request !== undefined) request.outcome = this.#statusOf(error)
  }

  #statusOf(error: unknown): BlkStatus {
    this.lastError = error
    if (error instanceof BackingError) return STATUS_BY_CODE[error.code]
    this.#bugs.push(error)
    return IOERR
  }

  /**
   * The only writer of status bytes and used entries. The used length counts bytes written from the first writable byte on; the status
   * byte among them when it follows directly, so that no byte is counted that was not written ([VIRTIO] 2.7.8.2).
   */
  #complete(ring: SplitQueue, request: BlkRequest, status: BlkStatus): void {
    let filled = 0
    if (status === OK && request.type === IN) filled = request.dataLength
    else if (status === OK && request.type === GET_ID) filled = storeData(request, this.memory, this.#id())
    const { memory } = this
    const { statusAddress, writableLength } = request
    const region = memory.region(statusAddress)
    region?.data.setUint8(region.offset(statusAddress), status)
    ring.addUsed(request.head, filled === writableLength - 1 ? writableLength : filled)
    const counts = countsOf(this.statistics, request.type)
    counts.requests++
    if (status === OK) counts.bytes += request.type === IN || request.type === OUT ? request.dataLength : 0
    else counts.errors++
    if (memory.written !== undefined) this.#announce(request)
  }

  /** Tells the memory what the request may have stored: a failed read counts as well. */
  #announce(request: BlkRequest): void {
    const mayFill = request.type === IN || request.type === GET_ID
    if (mayFill) for (let segment = request.readableCount; segment < request.count; segment++) this.memory.written?.(request.address(segment), request.length(segment))
    else this.memory.written?.(request.statusAddress, 1)
  }

  /** Write-through: one flush makes all of these writes stable, then they complete. */
  #stabilise(ring: SplitQueue, queue: number, written: readonly BlkRequest[]): void {
    let status: BlkStatus = OK
    try {
      const answer = this.backing.flush?.()
      if (answer !== undefined) {
        // The requests outlive the batch, which is through.
        this.#batch.length = 0
        for (const request of written) request.detach()
        this.#wait(ring, queue, written, answer, "stabilise")
        return
      }
    } catch (error) {
      status = this.#statusOf(error)
    }
    for (const request of written) this.#complete(ring, request, status)
  }

  // --- Waiting: the one place that knows about promises -----------------------------------------------------------------------

  /** Requests that outlive the batch get objects of their own. */
  #detach(batch: readonly BlkRequest[], first: number, end: number): readonly BlkRequest[] {
    const requests = batch.slice(first, end)
    if (batch !== this.#batch) return requests
    for (let index = first; index < end; index++) this.#batch[index] = new BlkRequest(this.#segments)
    for (const request of requests) request.detach()
    return requests
  }

  /** Completes the requests when the backing has answered. `step`: what it was asked for, the requests' own action or the flush behind writes. */
  #wait(ring: SplitQueue, queue: number, requests: readonly BlkRequest[], answer: Promise<void>, step: "act" | "stabilise"): void {
    const { generation } = this.memory
    for (const request of requests) request.outcome = WAITING
    this.requestStarted()
    const answered = (act: () => void) =>
      this.whenReachable(ring, queue, () => {
        const isCurrent = this.isCurrent(ring, queue)
        if (isCurrent) this.guard(ring, queue, act)
        else this.#drop(ring, requests)
        // Before the interrupt: whoever handles it may reset the device, which then has nothing to wait for, or may throw.
        this.requestFinished(queue)
        if (isCurrent) this.publish(ring, queue)
        this.#throwBugs()
      })
    const settle = (fail: () => void) => {
      for (const request of requests) request.outcome = OK
      // The guest's memory has been replaced: the backing worked on a buffer that is gone. The new one holds what the old one did.
      if (step === "act" && this.memory.generation !== generation) this.#performAnew(ring, queue, requests, 0, requests.length)
      else fail()
      if (step === "act") this.#settle(ring, queue, requests, requests.length)
      else for (const request of requests) if (request.outcome !== WAITING) this.#complete(ring, request, request.outcome)
    }
    const failed = (error: unknown) => {
      if (step === "act") return this.#failed(ring, queue, requests, 0, requests.length, error)
      const status = this.#statusOf(error)
      for (const request of requests) request.outcome = status
    }
    Promise.resolve(answer).then(
      () => answered(() => settle(() => {})),
      (error: unknown) => answered(() => settle(() => failed(error))),
    )
  }

  /** Nobody waits for these requests any more. The backing may have stored data for them all the same. */
  #drop(ring: SplitQueue, requests: readonly BlkRequest[]): void {
    for (const request of requests) {
      if (this.memory.written !== undefined) this.#announce(request)
      ring.abandon()
    }
  }

  /** Throws on what a backing threw without being a BackingError; from the waiting place this ends up as an unhandled rejection. */
  #throwBugs(): void {
    if (this.#bugs.length > 0) throw this.#bugs.splice(0)[0]
  }
}

/** Calls `act` with each range of the request in turn, in bytes, and its flags. */
function eachRange(request: BlkRequest, act: (offset: number, length: number, flags: number) => void | Promise<void>): void | Promise<void> {
  const ranges = request.ranges.filter(({ sectors }) => sectors > 0)
  return inTurn(ranges.length, (index) => {
    const range = ranges[index]
    if (range !== undefined) return act(range.sector * SECTOR, range.sectors * SECTOR, range.flags)
  })
}
