/** VirtioBlk: the block device ([VIRTIO] 5.2): a backing, its configuration space and features, and the parts that serve its requests. */
import { checkBacking, checkBackingSize, type VirtioBacking } from "../../backing/backing.ts"
import { VirtioDevice } from "../device.ts"
import type { VirtqueueError } from "../queue/virtqueue-error.ts"
import { CacheMode } from "./cache-mode.ts"
import { Completion } from "./completion.ts"
import { blkFeatures, blkParameters, type VirtioBlkOptions, writeCapacity, writeStaticConfig } from "./config.ts"
import { Executor } from "./executor.ts"
import { Failures } from "./failures.ts"
import type { RequestLimits } from "./refusal.ts"
import { RequestServer } from "./server.ts"
import { SECTOR_SIZE, VIRTIO_BLK_CONFIG_FIELDS, VIRTIO_BLK_CONFIG_SIZE, VIRTIO_ID_BLOCK } from "./spec.ts"
import { type BlkStatistics, emptyStatistics } from "./statistics.ts"

/**
 * A virtio block device over a backing, to be put behind a transport, such as VirtioPciFunction. The backing stays its owner's: closing
 * it is theirs to do, after the device is unplugged and `whenIdle`.
 */
export class VirtioBlk implements RequestLimits {
  readonly backing: VirtioBacking
  /** Nothing is ever written: the backing is read-only, or the option says so. */
  readonly readOnly: boolean
  readonly statistics: BlkStatistics = emptyStatistics()
  /** The device as its transport sees it: status, features, queues, configuration space. */
  readonly virtio: VirtioDevice
  readonly #failures: Failures
  /** In sectors. */
  #capacity = 0

  /**
   * @throws TypeError when `backing` is not a `VirtioBacking`, or for an option that does not exist or has the wrong type
   * @throws RangeError for an option that is out of range
   */
  constructor(backing: VirtioBacking, options: VirtioBlkOptions = {}) {
    checkBacking("VirtioBlk", backing)
    const parameters = blkParameters(options)
    this.backing = backing
    this.readOnly = backing.readOnly || parameters.readOnly
    const features = blkFeatures(backing, { ...parameters, readOnly: this.readOnly })
    this.#failures = new Failures(options.onError)
    const deviceOptions = {
      ...parameters, deviceType: VIRTIO_ID_BLOCK, configSize: VIRTIO_BLK_CONFIG_SIZE, configFields: VIRTIO_BLK_CONFIG_FIELDS, features,
    }
    this.virtio = new VirtioDevice(deviceOptions, (device) => this.#server(device, parameters.serial))
    writeStaticConfig(this.virtio.config.fields, backing, parameters, this.virtio.negotiation.offered)
    this.#readCapacity()
  }

  /** Size of the disk as the guest sees it, in sectors of 512 bytes. A tail of the backing that is not a whole sector is left out. */
  get capacity(): number {
    return this.#capacity
  }

  /** The last failure of the backing, for people: the guest hears of it as a status only. */
  get lastError(): unknown {
    return this.#failures.last
  }

  /** Why the device has set DEVICE_NEEDS_RESET, for people; undefined while it has not. */
  get brokenBy(): VirtqueueError | undefined {
    return this.virtio.brokenBy
  }

  /**
   * To be called after the backing's size has changed: tells the guest. Requests that are under way were judged by the old size.
   * @throws TypeError when the backing's size is not a number of bytes
   */
  capacityChanged(): void {
    checkBackingSize("VirtioBlk", this.backing.size)
    const before = this.#capacity
    this.#readCapacity()
    if (this.#capacity !== before) this.virtio.configChanged()
  }

  /** Takes no more requests; resolves when none is in flight. Those that the driver makes available meanwhile wait for `resume`. */
  pause(): Promise<void> {
    return this.virtio.pause()
  }

  /** Ends `pause`, and serves what has come in. */
  resume(): void {
    this.virtio.resume()
  }

  /** Resolves when nothing uses the backing: no request is in flight, of this life of the device or of one that a reset has ended. */
  whenIdle(): Promise<void> {
    return this.virtio.whenIdle()
  }

  #readCapacity(): void {
    this.#capacity = Math.floor(this.backing.size / SECTOR_SIZE)
    writeCapacity(this.virtio.config.fields, this.#capacity)
  }

  #server(device: VirtioDevice, serial: Uint8Array): RequestServer {
    const { backing, statistics } = this
    const cacheMode = new CacheMode(device, backing.flush !== undefined)
    const completion = new Completion(statistics, serial)
    return new RequestServer({ device, executor: new Executor(backing), completion, cacheMode, failures: this.#failures, statistics }, this)
  }
}
