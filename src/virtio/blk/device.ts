/** VirtioBlk: the block device ([VIRTIO] 5.2): a backing, its configuration space and features, and the parts that serve its requests. */
import { checkBacking, checkBackingSize, type VirtioBacking, type Zones } from "../../backing/backing.ts"
import { checkOptions, checkValue } from "../../options.ts"
import { VirtioDevice } from "../device.ts"
import type { VirtqueueError } from "../queue/virtqueue-error.ts"
import { CacheMode } from "./cache-mode.ts"
import { CHANGE_BACKING_RULES, type ChangeBackingOptions, changeLimits, checkResize, resizeBacking, type ResizeOptions } from "./changes.ts"
import { Completion } from "./completion.ts"
import {
  type BlkParameters, blkFeatures, blkParameters, requiredFeatures, type VirtioBlkOptions, writeCapacity, writeStaticConfig, ZONED_MASK,
} from "./config.ts"
import { ErrorPolicy } from "./errors/error-policy.ts"
import type { DiskStop } from "./errors/policies.ts"
import { Executor } from "./executor.ts"
import { Failures } from "./errors/failures.ts"
import type { RestoreOptions } from "../state.ts"
import { hasBit } from "../spec.ts"
import { checkAbilities, checkSameZones } from "./abilities.ts"
import { observationOf } from "./observation/observation.ts"
import { checkVersion, parseSavedDisk, type SavedDisk } from "./saved-disk.ts"
import { RequestServer, type ServedDisk } from "./server.ts"
import { SECTOR_SIZE, VIRTIO_BLK_CONFIG_FIELDS, VIRTIO_BLK_CONFIG_SIZE, VIRTIO_BLK_F, VIRTIO_ID_BLOCK } from "./spec.ts"
import { ThrottledRequests } from "./throttling/throttled-requests.ts"
import type { ThrottleLimits } from "./throttling/limits.ts"
import { type Throttle, throttleOf } from "./throttling/throttle.ts"
import { type BlkStatistics, emptyStatistics } from "./statistics.ts"
import { ZonedConfig } from "./zoned/config.ts"
import { checkNoneHalfDone } from "./zoned/half-done.ts"

/**
 * A virtio block device over a backing, for use with a transport such as VirtioPciFunction. The caller keeps owning the backing, and closes
 * it after unplugging the device and awaiting `whenIdle`.
 */
export class VirtioBlk implements ServedDisk {
  readonly statistics: BlkStatistics
  /** The device as its transport sees it: status, features, queues, configuration space. */
  readonly virtio: VirtioDevice
  readonly #failures: Failures
  readonly #parameters: BlkParameters
  readonly #executor: Executor
  readonly #throttled: ThrottledRequests
  #cacheMode: CacheMode | undefined
  #zoned: ZonedConfig | undefined
  #errors: ErrorPolicy | undefined
  /** In sectors. */
  #capacity = 0
  /** Whether the option `readOnly` or `setReadOnly` has made the disk read-only. */
  #isMadeReadOnly: boolean
  #isReadOnly: boolean
  /** Whether the next reset shows the driver changed features. */
  #isNewAtReset = false
  /** Ends the wait of an earlier call of `changeBacking`, which the next call replaces. */
  #supersede = (): void => undefined

  /**
   * @throws TypeError when `backing` is not a `VirtioBacking`, or for an option that does not exist or has the wrong type
   * @throws RangeError for an option out of range
   */
  constructor(backing: VirtioBacking, options: VirtioBlkOptions = {}) {
    checkBacking("VirtioBlk", backing)
    this.#parameters = blkParameters(options)
    const { serial, readOnly } = this.#parameters
    this.#isMadeReadOnly = readOnly
    this.#isReadOnly = backing.readOnly || readOnly
    this.#failures = new Failures(options.onError, () => this.#zoned?.isNegotiated === true)
    this.statistics = emptyStatistics({ latency: (options.latency ?? "off") !== "off" })
    this.#executor = new Executor(backing)
    this.#throttled = new ThrottledRequests(throttleOf("VirtioBlk", options.throttle))
    this.virtio = new VirtioDevice({
      ...this.#parameters, deviceType: VIRTIO_ID_BLOCK, configSize: VIRTIO_BLK_CONFIG_SIZE, configFields: VIRTIO_BLK_CONFIG_FIELDS,
      features: this.#featuresOf(backing), requiredFeatures: requiredFeatures(backing, this.#parameters), modernFeatures: ZONED_MASK,
    }, (device) => this.#server(device, serial, options))
    this.#abilitiesChanged()
    this.#readCapacity()
  }

  /** The present backing. */
  get backing(): VirtioBacking {
    return this.#executor.backing
  }

  /** Whether the disk is read-only: because of its backing, the option `readOnly` or `setReadOnly`. */
  get readOnly(): boolean {
    return this.#isReadOnly
  }

  /** Size of the disk as the guest sees it, in sectors of 512 bytes. A tail of the backing that is not a whole sector is left out. */
  get capacity(): number {
    return this.#capacity
  }

  /** The operations of a zoned disk; undefined for any other. */
  get zones(): Zones | undefined {
    return this.backing.zones
  }

  /** The last failure of the backing, of which the guest only saw a status. */
  get lastError(): unknown {
    return this.#failures.last
  }

  /** Why the disk has stopped (see `readErrors` and `writeErrors`); undefined if it has not. `resume` starts it again. */
  get stoppedBy(): DiskStop | undefined {
    return this.#errors?.stoppedBy
  }

  /** Why the device has set DEVICE_NEEDS_RESET; undefined if it has not. */
  get brokenBy(): VirtqueueError | undefined {
    return this.virtio.brokenBy
  }

  /** The throttle of its requests, if there is one. */
  get throttle(): Throttle | undefined {
    return this.#throttled.throttle
  }

  /**
   * Sets the limits of the disk, or a throttle that it shares with others; undefined removes the limits.
   * @throws TypeError and RangeError for wrong limits
   */
  setThrottle(throttle: Throttle | ThrottleLimits | undefined): void {
    this.#throttled.throttle = throttleOf("VirtioBlk.setThrottle", throttle)
    this.virtio.changes++
  }

  /**
   * Call this after the backing's size has changed: it tells the guest. Requests in flight were checked by the old size.
   * @throws TypeError when the backing's size is not a number of bytes
   */
  capacityChanged(): void {
    this.#sizeMayHaveChanged({ isNews: false })
  }

  /**
   * Resizes the disk to `size` bytes while the guest runs, and tells the guest. @throws BackingError (as a rejection) as `resizeBacking`
   */
  async resize(size: number, options: ResizeOptions = {}): Promise<void> {
    checkResize(size, options)
    await this.changeContent(() => resizeBacking(this.backing, size, options))
  }

  /**
   * Calls `work`, which changes the backing (its content, for instance by applying a snapshot, or its size), while no request is in flight.
   * Then it tells the guest, which has to drop its caches without further help.
   * @throws Error (as a rejection) while a write to a zone is half done
   */
  async changeContent(work: () => void | Promise<void>): Promise<void> {
    await this.virtio.pauses.whileIdle(async () => {
      checkNoneHalfDone(this.virtio, this.zones)
      await work()
      changeLimits(this.virtio, this.zones, () => this.#sizeMayHaveChanged({ isNews: true }))
    })
  }

  /**
   * Replaces the backing while the guest runs. The guest gets a configuration change notification, reads the new capacity, and otherwise
   * takes it for the same disk: if it has a file system mounted, the content must be the same. Other differences (read-only, features) show
   * after its next reset.
   *
   * Resolves when nothing uses the old disk any more, so that its owner may close it. A later call replaces one that still waits.
   * @throws TypeError, Error (as rejections, with nothing changed) for anything but a `VirtioBacking`, and for one without a feature that
   * the driver relies on; errors of flushing the old disk; Error if a later call took effect first
   */
  async changeBacking(backing: VirtioBacking, options: ChangeBackingOptions = {}): Promise<void> {
    checkBacking("VirtioBlk.changeBacking", backing)
    checkOptions("VirtioBlk.changeBacking", options, CHANGE_BACKING_RULES)
    this.#checkAbilities(backing)
    this.#supersede()
    if (options.atOnce === true) return this.virtio.takeAgain(() => this.#replace(backing), { anew: true })
    let isSuperseded = false
    const superseded = new Promise<void>((resolve) => {
      this.#supersede = () => resolve(void (isSuperseded = true))
    })
    await this.virtio.pauses.whileIdle(async () => {
      // The old disk may never answer, and then a later call must not wait for it.
      if (!isSuperseded) await Promise.race([this.backing.flush?.(), superseded])
      if (isSuperseded) throw new Error("changeBacking was called again before this call had taken effect")
      // The guest may have negotiated meanwhile.
      this.#checkAbilities(backing)
      checkNoneHalfDone(this.virtio, this.zones)
      void this.virtio.takeAgain(() => this.#replace(backing), { anew: false })
    })
  }

  /**
   * Makes the disk read-only, or writable if its backing is, while the guest runs. Resolves when requests in flight have ended: the next
   * write to a read-only disk fails with IOERR. Drivers check VIRTIO_BLK_F_RO only after a reset of the device.
   * @throws TypeError (as a rejection) for anything but true or false, Error while a write to a zone is half done
   */
  async setReadOnly(readOnly: boolean): Promise<void> {
    checkValue("VirtioBlk.setReadOnly", "readOnly", readOnly, "boolean")
    await this.virtio.pauses.whileIdle(() => changeLimits(this.virtio, this.zones, () => this.#abilitiesChanged(readOnly)))
  }

  /** Takes no more requests; resolves when none is in flight. Requests that the driver makes available meanwhile wait for `resume`. */
  pause(): Promise<void> {
    return this.virtio.pauses.pause()
  }

  /**
   * Ends `pause`, and serves the requests that have come in. Starts a stopped disk again, with the requests that it has kept first,
   * including the failed ones.
   */
  resume(): void {
    this.#errors?.goOn()
    this.virtio.pauses.resume()
  }

  /** Resolves when nothing uses the backing: no request is in flight, not even one from before a reset. */
  whenIdle(): Promise<void> {
    return this.virtio.pauses.whenIdle()
  }

  wasReset(): void {
    if (!this.#isNewAtReset) return
    this.#isNewAtReset = false
    this.#abilitiesChanged()
  }

  saveState(): SavedDisk {
    checkNoneHalfDone(this.virtio, this.zones)
    const offersReadOnly = hasBit(this.virtio.negotiation.offered, VIRTIO_BLK_F.RO)
    return { version: this.backing.version?.(), readOnly: this.#isMadeReadOnly, offersReadOnly, throttle: this.throttle?.saveState() }
  }

  restoreState(saved: unknown, { image = "same" }: RestoreOptions): () => void {
    const state = parseSavedDisk(saved)
    if (image === "same") checkVersion(state.version, this.backing)
    const restoreThrottle = state.throttle === undefined ? undefined : this.throttle?.readyToRestore(state.throttle)
    // Restores the RO bit that the driver was offered. If the state is refused, the final reset undoes this.
    this.#isNewAtReset = true
    const parameters = { ...this.#parameters, readOnly: this.#parameters.readOnly || (state.offersReadOnly ?? this.backing.readOnly) }
    this.virtio.negotiation.replaceFeatures(blkFeatures(this.backing, parameters), requiredFeatures(this.backing, parameters))
    return () => {
      restoreThrottle?.()
      this.#abilitiesChanged(this.#parameters.readOnly || state.readOnly)
    }
  }

  /** `isNews`: tells the guest even if the size is the same. */
  #sizeMayHaveChanged({ isNews }: { readonly isNews: boolean }): void {
    checkBackingSize("VirtioBlk", this.backing.size)
    this.virtio.suspension.change(() => {
      const before = this.#capacity
      this.#readCapacity()
      if (isNews || this.#capacity !== before) this.virtio.configChanged()
    })
  }

  #readCapacity(): void {
    this.#capacity = Math.floor(this.backing.size / SECTOR_SIZE)
    writeCapacity(this.virtio.config.fields, this.#capacity)
  }

  #featuresOf(backing: VirtioBacking): bigint {
    return blkFeatures(backing, { ...this.#parameters, readOnly: backing.readOnly || this.#isMadeReadOnly })
  }

  #checkAbilities(backing: VirtioBacking): void {
    const { reliedOn } = this.virtio.negotiation
    checkAbilities(reliedOn, this.#featuresOf(backing))
    if (reliedOn !== 0n) checkSameZones(this.backing, backing)
  }

  #replace(backing: VirtioBacking): void {
    this.#executor.backing = backing
    this.virtio.suspension.change(() => {
      this.#abilitiesChanged()
      this.#readCapacity()
      this.virtio.configChanged()
    })
  }

  /** Adopts the backing's features, as far as that is possible before the driver resets the device. */
  #abilitiesChanged(isMadeReadOnly = this.#isMadeReadOnly): void {
    const { negotiation, config } = this.virtio
    this.#isMadeReadOnly = isMadeReadOnly
    negotiation.replaceFeatures(this.#featuresOf(this.backing), requiredFeatures(this.backing, this.#parameters))
    this.#isNewAtReset = negotiation.status !== 0
    this.#isReadOnly = this.backing.readOnly || this.#isMadeReadOnly || (this.#isNewAtReset && negotiation.isNegotiated(VIRTIO_BLK_F.RO))
    writeStaticConfig(config.fields, this.backing, this.#parameters, negotiation.offered)
    if (this.#isNewAtReset) return
    this.#cacheMode?.reset()
    this.#zoned?.reset()
  }

  #server(device: VirtioDevice, serial: Uint8Array, options: VirtioBlkOptions): RequestServer {
    const { statistics } = this
    const completion = new Completion(statistics, serial)
    const cacheMode = (this.#cacheMode = new CacheMode(device, this.#executor))
    const zoned = (this.#zoned = new ZonedConfig(device, this.#executor))
    const failures = this.#failures
    const { readErrors = "report", writeErrors = "report", onStop } = options
    const errors = new ErrorPolicy({ readErrors, writeErrors, onStop, failures, device })
    this.#errors = errors
    const observation = observationOf(options, { statistics, failures })
    const parts = { device, executor: this.#executor, completion, cacheMode, zoned, failures, errors, statistics, observation }
    return new RequestServer(parts, this, this.#throttled)
  }
}
