/** Negotiation: the device status field ([VIRTIO] 2.1), the feature bits (2.2), and their consequences. */
import type { VirtioDeviceOptions } from "./device-options.ts"
import type { RingFeatures } from "./queue/ring.ts"
import { DEVICE_STATUS, featureMask, hasBit, LEGACY_ONLY_FEATURES, VIRTIO_F } from "./spec.ts"

/** The status bits that a driver can set, beside SUSPEND. The other bits have no meaning. */
const DRIVER_STATUS =
  DEVICE_STATUS.ACKNOWLEDGE | DEVICE_STATUS.DRIVER | DEVICE_STATUS.DRIVER_OK | DEVICE_STATUS.FEATURES_OK | DEVICE_STATUS.FAILED
const BROKEN = DEVICE_STATUS.DEVICE_NEEDS_RESET | DEVICE_STATUS.FAILED
const UP = DEVICE_STATUS.DRIVER_OK | DEVICE_STATUS.FEATURES_OK
const VERSION_1 = featureMask([VIRTIO_F.VERSION_1])
/** The ring features that every device offers. */
const RING_FEATURES =
  featureMask([VIRTIO_F.NOTIFY_ON_EMPTY, VIRTIO_F.ANY_LAYOUT, VIRTIO_F.INDIRECT_DESC, VIRTIO_F.EVENT_IDX, VIRTIO_F.RING_RESET]) | VERSION_1

/** The effects of a new status. */
export interface StatusChange {
  /** Negotiation is complete: FEATURES_OK was set, or DRIVER_OK by a legacy driver, which has no FEATURES_OK. */
  readonly settled: boolean
  /** The queues are to be served: DRIVER_OK was set, or SUSPEND was cleared. */
  readonly started: boolean
}

const NO_CHANGE: StatusChange = { settled: false, started: false }

/** The features of a device type. */
export type OfferedFeatures = Pick<VirtioDeviceOptions, "features" | "withoutFeatures" | "requiredFeatures" | "modernFeatures">

export class Negotiation {
  /** Every feature bit that the device offers through some interface. */
  offered: bigint
  /** From the next reset on. */
  #offeredNext: bigint
  /** Features that a driver must accept: now, and from the next reset on. */
  #required: bigint
  #requiredNext: bigint
  /** Never offered. */
  #without: bigint
  readonly #modernOnly: bigint
  /** The transport has a legacy interface too: then a driver on the modern one may leave VERSION_1 out, as with QEMU. */
  transitional = false
  #status = 0
  #driverFeatures = 0n
  /** The driver has set feature bits above 63, which nobody offers. */
  #hasDriverFeaturesAbove = false
  /** From FEATURES_OK to reset ([VIRTIO] 3.1.1). */
  #isFrozen = false
  /** The driver has set SUSPEND, and the device is not suspended yet. */
  #isSuspending = false

  /**
   * `features`: those of the device type, and further ones of the ring beside `RING_FEATURES`. `withoutFeatures`: those not to offer
   * (except VERSION_1).
   */
  constructor({ features, withoutFeatures, requiredFeatures = 0n, modernFeatures = 0n }: OfferedFeatures) {
    this.#without = withoutFeatures & ~VERSION_1
    this.offered = (features | RING_FEATURES) & ~this.#without
    this.#offeredNext = this.offered
    this.#required = requiredFeatures
    this.#requiredNext = requiredFeatures
    this.#modernOnly = modernFeatures
  }

  /** Never offers `features`, which have no meaning on this transport. Call it before a driver starts. */
  leaveOut(features: bigint): void {
    this.#without |= features
    this.offered &= ~features
    this.#offeredNext &= ~features
  }

  /** Replaces the feature bits of the device type, from the next reset on; at once, if no driver has begun. */
  replaceFeatures(features: bigint, required: bigint): void {
    this.#offeredNext = (features | RING_FEATURES) & ~this.#without
    this.#requiredNext = required
    if (this.#status === 0) this.#takeNext()
  }

  get status(): number {
    return this.#status
  }

  /** The status, with both SUSPEND and DRIVER_OK while the device is about to be suspended. */
  get savedStatus(): number {
    return this.#status | (this.#isSuspending ? DEVICE_STATUS.SUSPEND : 0)
  }

  get isSuspending(): boolean {
    return this.#isSuspending
  }

  get isSuspended(): boolean {
    return (this.#status & DEVICE_STATUS.SUSPEND) !== 0
  }

  /** DRIVER_OK is set. */
  get running(): boolean {
    return (this.#status & DEVICE_STATUS.DRIVER_OK) !== 0
  }

  /** Whether a queue may be served. Legacy queues may before DRIVER_OK. */
  allowsService(legacy: boolean): boolean {
    return (this.#status & (BROKEN | DEVICE_STATUS.SUSPEND)) === 0 && !this.#isSuspending && (legacy || (this.#status & UP) === UP)
  }

  /** The device is suspended ([VIRTIO] 3.4). */
  suspend(): void {
    this.#isSuspending = false
    this.#status = (this.#status | DEVICE_STATUS.SUSPEND) & ~DEVICE_STATUS.DRIVER_OK
  }

  /**
   * Writes a status other than 0. Only the device sets DEVICE_NEEDS_RESET, FAILED stays until a reset, and FEATURES_OK stays only if the
   * device accepts the features. SUSPEND needs a running device, and DRIVER_OK resumes it.
   */
  writeStatus(value: number): StatusChange {
    const bits = value & DRIVER_STATUS
    const suspends = (value & DEVICE_STATUS.SUSPEND) !== 0 && this.#maySuspend
    if (suspends && !this.isSuspended) {
      // Until the device is suspended, DRIVER_OK stays set, whatever the driver writes.
      this.#status |= bits
      this.#isSuspending = true
      return NO_CHANGE
    }
    // Without any bit the status would read 0, as after a reset.
    if (bits === 0) return NO_CHANGE
    const wasSuspending = this.#isSuspending
    this.#isSuspending = false
    const stays = this.isSuspended && (bits & DEVICE_STATUS.DRIVER_OK) === 0 ? DEVICE_STATUS.SUSPEND : 0
    let next = bits | (this.#status & BROKEN) | stays
    if (!this.#isFrozen && (next & DEVICE_STATUS.FEATURES_OK) !== 0 && !this.#isAcceptable()) next &= ~DEVICE_STATUS.FEATURES_OK
    const rising = next & ~this.#status
    this.#status = next
    if ((rising & DEVICE_STATUS.FEATURES_OK) !== 0) this.#isFrozen = true
    const settles = (next & DEVICE_STATUS.FEATURES_OK) !== 0 ? DEVICE_STATUS.FEATURES_OK : DEVICE_STATUS.DRIVER_OK
    return { settled: (rising & settles) !== 0, started: wasSuspending || (rising & DEVICE_STATUS.DRIVER_OK) !== 0 }
  }

  /** The device is running, and its driver has accepted SUSPEND. */
  get #maySuspend(): boolean {
    return this.isNegotiated(VIRTIO_F.SUSPEND) && (this.#status & (UP | BROKEN)) === UP
  }

  /** Sets DEVICE_NEEDS_RESET. */
  breakDown(): void {
    this.#status |= DEVICE_STATUS.DEVICE_NEEDS_RESET
  }

  reset(): void {
    this.#takeNext()
    this.#status = 0
    this.#driverFeatures = 0n
    this.#hasDriverFeaturesAbove = false
    this.#isFrozen = false
    this.#isSuspending = false
  }

  #takeNext(): void {
    this.offered = this.#offeredNext
    this.#required = this.#requiredNext
  }

  /** 32 feature bits offered to a modern driver: bits 32*select and up ([VIRTIO] 4.1.4.3). */
  deviceFeatures(select: number): number {
    return featureWord(this.offered & ~LEGACY_ONLY_FEATURES, select)
  }

  /** Bits 0 to 31 as a legacy driver sees them. Without VERSION_1 there are no others. */
  get legacyDeviceFeatures(): number {
    return featureWord(this.offered & ~this.#modernOnly, 0)
  }

  /** The bits that the driver has written, including those that nobody offers. */
  driverFeatures(select: number): number {
    return featureWord(this.#driverFeatures, select)
  }

  /** Returns false if the features are frozen already. */
  setDriverFeatures(select: number, value: number): boolean {
    if (this.#isFrozen) return false
    if (select > 1) {
      if (value !== 0) this.#hasDriverFeaturesAbove = true
      return true
    }
    const shift = BigInt(32 * select)
    this.#driverFeatures = (this.#driverFeatures & ~(0xffff_ffffn << shift)) | (BigInt(value >>> 0) << shift)
    return true
  }

  /** The offered features that the driver has accepted. */
  get accepted(): bigint {
    return this.#driverFeatures & this.offered
  }

  /** The features that the driver may rely on: the accepted ones, or all offered ones while negotiation is not complete. */
  get reliedOn(): bigint {
    if (this.#status === 0) return 0n
    const isSettled = this.#isFrozen || (this.#status & DEVICE_STATUS.DRIVER_OK) !== 0
    return isSettled ? this.accepted : this.offered
  }

  /** True when the driver has accepted feature `bit` and may rely on it. Without VERSION_1 there are no bits from 32 on ([VIRTIO] 6.1). */
  isNegotiated(bit: number): boolean {
    const accepted = this.#driverFeatures & this.offered
    return hasBit(accepted, bit) && (bit < 32 || (accepted & VERSION_1) !== 0n)
  }

  get ringFeatures(): RingFeatures {
    return {
      indirect: this.isNegotiated(VIRTIO_F.INDIRECT_DESC),
      eventIdx: this.isNegotiated(VIRTIO_F.EVENT_IDX),
      notifyOnEmpty: this.isNegotiated(VIRTIO_F.NOTIFY_ON_EMPTY),
      packed: this.isNegotiated(VIRTIO_F.RING_PACKED),
      inOrder: this.isNegotiated(VIRTIO_F.IN_ORDER),
    }
  }

  /**
   * Drivers that set FEATURES_OK are of virtio 1.0 or later, and must accept VERSION_1 ([VIRTIO] 6.1). A transitional device does not
   * insist on it.
   */
  #isAcceptable(): boolean {
    if (this.#hasDriverFeaturesAbove || (this.#driverFeatures & ~(this.offered & ~LEGACY_ONLY_FEATURES)) !== 0n) return false
    if ((this.#required & ~this.#driverFeatures) !== 0n) return false
    return this.transitional || (this.#driverFeatures & VERSION_1) !== 0n
  }
}

/** Bits 32*select to 32*select+31 as an unsigned number; nothing is defined above bit 63. */
function featureWord(features: bigint, select: number): number {
  return select > 1 ? 0 : Number((features >> BigInt(32 * select)) & 0xffff_ffffn)
}
