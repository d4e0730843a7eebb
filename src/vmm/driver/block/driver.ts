/**
 * BlockDriver: does what a guest kernel's virtio-blk driver does, to use or to test a virtio block device: reads, writes, flushes,
 * discards, and any request that a test makes up, over a modern or a legacy device. [VIRTIO] 5.2.
 */
import { type AsyncDisposing, closesWithBlock } from "../../../disposing.ts"
import { checkBytes, checkOptions, checkValue, pickOptions } from "../../../options.ts"
import { BLK_CONFIG, BLK_ID_SIZE, BLK_LIFETIME_SIZE, BLK_RANGE, SECTOR_SIZE } from "./spec.ts"
import type { BlockIdentity } from "./config.ts"
import { BlockEngine } from "./engine.ts"
import { type BlockDriverOptions, type BlockLifetime, checkDriverOptions, WRITE_ZEROES_RULES, type WriteZeroesOptions } from "./options.ts"
import { encodeRequests, type RangeLimits, type SectorRange } from "./ranges.ts"
import {
  type BlockReply, type BlockRequest, BlockSender, checkBlockRequest, checkRequest, NO_OPTIONS, REQUEST_RULES, type RequestOptions,
} from "./sender.ts"
import { runTransfer, type Transfer, type TransferPort } from "./transfer.ts"
import { BlockZones } from "./zones.ts"
import { DriverError } from "../errors.ts"
import { includesFeature } from "../virtio/features.ts"
import type { PciDevice } from "../pci/device.ts"
import type { IndirectTable, Segment } from "../virtio/rings/segments.ts"
import type { VirtioDriver } from "../virtio/driver.ts"
import type { VirtioBus } from "../virtio/bus.ts"

const DEFAULT_DEPTH = 8

export { findBlockDevices } from "./find.ts"

/** `await using` closes it. */
export interface BlockDriver extends AsyncDisposing {}

/**
 * A driver for one virtio block device. Methods send their request before they return. Their promises settle when the device returns the
 * request; they reject with `BlockRequestError` when the device reports a failure, and with `DriverError` when the device or the driver no
 * longer works, for example when the disk was unplugged ("gone"). Requests that find no free descriptor or no memory wait. Do not change an
 * array that is being written before its promise settles.
 */
export class BlockDriver {
  static { closesWithBlock(this, "later") }
  /** What zoned disks can do besides. */
  readonly zones: BlockZones
  readonly #engine: BlockEngine
  readonly #sender: BlockSender
  readonly #depth: number
  #resetting: Promise<void> | undefined

  private constructor(device: PciDevice | VirtioBus, options: BlockDriverOptions) {
    checkDriverOptions("BlockDriver.open", device, options)
    this.#engine = new BlockEngine(device, options)
    this.#sender = new BlockSender(this.#engine, options)
    this.#depth = options.depth ?? DEFAULT_DEPTH
    this.zones = new BlockZones(this.#engine, this.#sender)
  }

  /**
   * Resets the device, negotiates, sets up queues and interrupts, and makes it live.
   * @throws DriverError, as a rejection like all that follow
   * @throws TypeError for a device or an option that is none
   */
  static async open(device: PciDevice | VirtioBus, options: BlockDriverOptions = {}): Promise<BlockDriver> {
    const driver = new BlockDriver(device, options)
    await driver.#engine.start()
    return driver
  }

  /** The layer below: transport, rings, features, counters. */
  get virtio(): VirtioDriver {
    return this.#engine.virtio
  }

  /** Number of queues in use. */
  get queueCount(): number {
    return this.#engine.queueCount
  }

  /** Why the device is unusable, or undefined. */
  get failure(): DriverError | undefined {
    return this.#engine.failure
  }

  /** Capacity and all configuration fields that are valid, read from the device now. */
  identify(): BlockIdentity {
    return this.#engine.identify()
  }

  /** Reads `count` sectors. The device decides about a range beyond its capacity: it is not checked here. */
  async read(sector: number, count: number, options: RequestOptions = NO_OPTIONS): Promise<Uint8Array> {
    if (!Number.isSafeInteger(count) || count < 0) throw new RangeError(`cannot read ${count} sectors`)
    const target = new Uint8Array(count * SECTOR_SIZE)
    await this.readInto(sector, target, options)
    return target
  }

  /** Reads as many sectors as `target` holds. A long read has several requests in flight, see `depth`. */
  async readInto(sector: number, target: Uint8Array, options: RequestOptions = NO_OPTIONS): Promise<void> {
    checkBytes("BlockDriver.readInto", "target", target)
    const drain = (data: Uint8Array, offset: number): void => target.set(data, offset)
    await this.#transfer("IN", { sector, length: target.length, drain }, options)
  }

  /**
   * Reads `count` sectors and passes them to `consume` in order, piece by piece. A piece is a view of guest RAM, not a copy: it is valid
   * until `consume` returns, or until the promise that it returns has settled.
   */
  async readStream(
    sector: number,
    count: number,
    consume: (data: Uint8Array, sector: number) => void | Promise<void>,
    options: RequestOptions = NO_OPTIONS,
  ): Promise<void> {
    checkValue("BlockDriver.readStream", "consume", consume, "function")
    const drain = (data: Uint8Array, offset: number): void | Promise<void> => consume(data, sector + offset / SECTOR_SIZE)
    await this.#transfer("IN", { sector, length: count * SECTOR_SIZE, drain }, options)
  }

  /** Writes `data`, whole sectors. */
  async write(sector: number, data: Uint8Array, options: RequestOptions = NO_OPTIONS): Promise<void> {
    checkBytes("BlockDriver.write", "data", data)
    const fill = (target: Uint8Array, offset: number): void => target.set(data.subarray(offset, offset + target.length))
    await this.#transfer("OUT", { sector, length: data.length, fill }, options)
  }

  /** Resolves when everything written before is on stable storage. */
  async flush(options: RequestOptions = NO_OPTIONS): Promise<void> {
    checkRequest("BlockDriver.flush", options, REQUEST_RULES)
    await this.#sender.checked("FLUSH", options)
  }

  /**
   * Tells the device that it need not keep these sectors. Splits them to the device's limits. Rejects with `DriverError` ("unsupported")
   * without DISCARD.
   */
  async discard(ranges: readonly SectorRange[], options: RequestOptions = NO_OPTIONS): Promise<void> {
    checkRequest("BlockDriver.discard", options, REQUEST_RULES)
    await this.#ranges("DISCARD", ranges, 0, this.#engine.identity.discard, options)
  }

  /**
   * Makes these sectors read as zeroes. Splits them to the device's limits. Rejects with `DriverError` ("unsupported") without
   * WRITE_ZEROES.
   */
  async writeZeroes(ranges: readonly SectorRange[], options: WriteZeroesOptions = NO_OPTIONS): Promise<void> {
    checkRequest("BlockDriver.writeZeroes", options, WRITE_ZEROES_RULES)
    const flags = options.unmap === true ? BLK_RANGE.UNMAP : 0
    await this.#ranges("WRITE_ZEROES", ranges, flags, this.#engine.identity.writeZeroes, options)
  }

  /** Erases these sectors so that nobody can recover them. Rejects with `DriverError` ("unsupported") without SECURE_ERASE. */
  async secureErase(ranges: readonly SectorRange[], options: RequestOptions = NO_OPTIONS): Promise<void> {
    checkRequest("BlockDriver.secureErase", options, REQUEST_RULES)
    await this.#ranges("SECURE_ERASE", ranges, 0, this.#engine.identity.secureErase, options)
  }

  /** The device's id (serial number): up to 20 characters. */
  async getId(options: RequestOptions = NO_OPTIONS): Promise<string> {
    checkRequest("BlockDriver.getId", options, REQUEST_RULES)
    const data = await this.#sender.checked("GET_ID", { ...options, dataIn: BLK_ID_SIZE })
    const end = data.indexOf(0)
    return String.fromCharCode(...data.subarray(0, end < 0 ? BLK_ID_SIZE : end))
  }

  /** Reads the wear of the storage behind the device. Rejects with `DriverError` ("unsupported") without LIFETIME. */
  async getLifetime(options: RequestOptions = NO_OPTIONS): Promise<BlockLifetime> {
    checkRequest("BlockDriver.getLifetime", options, REQUEST_RULES)
    this.#need("LIFETIME")
    const data = await this.#sender.checked("GET_LIFETIME", { ...options, dataIn: BLK_LIFETIME_SIZE })
    const view = this.virtio.ram.numbers(data)
    return { preEolInfo: view.getUint16(0, true), typeA: view.getUint16(2, true), typeB: view.getUint16(4, true) }
  }

  /**
   * Switches between write-back (true) and write-through.
   * @throws DriverError ("unsupported") without CONFIG_WCE
   */
  setWriteback(writeback: boolean): void {
    this.#need("CONFIG_WCE")
    this.virtio.transport.writeConfig(BLK_CONFIG.WRITEBACK, 1, writeback ? 1 : 0)
  }

  /**
   * Sends any request, sensible or not, as one chain, and resolves with what came back. A status other than OK is not an error here.
   * Rejects with `RangeError` for a framing that does not fit the queue.
   */
  async request(request: BlockRequest): Promise<BlockReply> {
    checkBlockRequest("BlockDriver.request", request)
    return this.#sender.request(request)
  }

  /** Sends a chain of any segments. Resolves with the used length. The memory is the caller's. */
  async submit(segments: readonly Segment[], options: { readonly queue?: number; readonly table?: IndirectTable } = {}): Promise<number> {
    checkValue("BlockDriver.submit", "segments", segments, "array")
    checkOptions("BlockDriver.submit", options, { queue: "number?", table: "object?" })
    return this.#engine.submit({ queue: options.queue ?? 0, segments, table: options.table })
  }

  /** Resolves with the used length of a chain that was written by hand into descriptors from `SplitRing.reserve`. */
  async whenUsed(head: number, options: { readonly queue?: number } = {}): Promise<number> {
    checkOptions("BlockDriver.whenUsed", options, { queue: "number?" })
    return this.#engine.whenUsed(head, options.queue ?? 0)
  }

  /** Runs `submit`, then sends all the requests that it made with one kick for each queue. */
  batch<T>(submit: () => T): T {
    return this.#engine.batch(submit)
  }

  /** Looks for completions without waiting for an interrupt. Returns whether there were any. */
  poll(): boolean {
    return this.#engine.poll()
  }

  /**
   * Calls `listener` after each configuration change notification; `identify` then reads what is new. The listener must not throw. Returns
   * a function that ends the subscription.
   */
  onConfigurationChange(listener: () => void): () => void {
    return this.#engine.onConfigurationChange(listener)
  }

  /**
   * Resets the device and starts it again with the same options. Requests in flight, and requests made before the reset is done, reject
   * ("reset"). A second call meanwhile waits for the same reset. Rejects with `DriverError`.
   */
  reset(): Promise<void> {
    this.#resetting ??= this.#restart().finally(() => {
      this.#resetting = undefined
    })
    return this.#resetting
  }

  /**
   * Empties one queue (VIRTIO_F_RING_RESET). Its requests reject ("reset"); requests made before it is done wait. Rejects with
   * `DriverError`.
   */
  resetQueue(index: number): Promise<void> {
    return this.#engine.resetQueue(index)
  }

  /**
   * Suspends the device (VIRTIO_F_SUSPEND): requests in flight end, and then it touches nothing. Requests made meanwhile wait. Rejects with
   * `DriverError`: "unsupported" when the feature is not negotiated, "timeout".
   */
  suspend(): Promise<void> {
    return this.#engine.suspend()
  }

  /** Ends `suspend`. Rejects with `DriverError`. */
  resume(): Promise<void> {
    return this.#engine.resume()
  }

  /**
   * Leaves the device reset and releases all memory and interrupts. Requests in flight reject ("reset"). It is not an error when the device
   * is gone, or when another driver has taken it over.
   */
  async close(): Promise<void> {
    await this.#engine.close()
  }

  async #restart(): Promise<void> {
    await this.#engine.stop("the driver reset the device")
    await this.#engine.start()
  }

  #need(feature: "CONFIG_WCE" | "LIFETIME"): void {
    if (!includesFeature(this.virtio.features, feature)) throw new DriverError("unsupported", `${feature} is not negotiated`)
  }

  async #ranges(
    name: "DISCARD" | "WRITE_ZEROES" | "SECURE_ERASE",
    ranges: readonly SectorRange[],
    flags: number,
    limits: RangeLimits | undefined,
    options: RequestOptions,
  ): Promise<void> {
    checkValue("BlockDriver", "ranges", ranges, "array")
    if (limits === undefined) throw new DriverError("unsupported", `${name} is not negotiated`)
    const lists = encodeRequests(ranges, limits, flags, this.virtio.ram.isBigEndian ? "big" : "little")
    const chosen = pickOptions(options, REQUEST_RULES)
    const requests = this.batch(() => lists.map((dataOut) => this.#sender.checked(name, { ...chosen, dataOut })))
    // Wait for all of them: a caller that hears of a failure may rely on it that nothing is in flight any more.
    for (const settled of await Promise.allSettled(requests)) if (settled.status === "rejected") throw settled.reason
  }

  /** Async, so that wrong arguments reject, as all other failures do. */
  async #transfer(name: "IN" | "OUT", transfer: Omit<Transfer, "chunk">, options: RequestOptions): Promise<void> {
    const { sector, length } = transfer
    checkRequest(name === "IN" ? "BlockDriver.read" : "BlockDriver.write", options, REQUEST_RULES)
    if (!Number.isSafeInteger(sector) || sector < 0) throw new RangeError(`sector ${sector} is not a whole number from 0 up`)
    if (!Number.isSafeInteger(length) || length < 0 || length % SECTOR_SIZE !== 0) {
      throw new RangeError(`${length} bytes are not a whole number of sectors`)
    }
    const chunk = this.#sender.largestRequest(options)
    const bytes = Math.min(chunk, length)
    const port: TransferPort = {
      openSlots: (count) => this.#sender.openSlots(name, bytes, Math.min(count, this.#depth), options),
      batch: (submit) => this.batch(submit),
    }
    await runTransfer(port, { ...transfer, chunk })
  }
}
