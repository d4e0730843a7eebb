/** CacheMode: write-back or write-through, as the driver has negotiated and chosen ([VIRTIO] 5.2.5.1 to 5.2.5.3, 5.2.6.2). */
import type { Negotiation } from "../negotiation.ts"
import { DEVICE_STATUS, hasBit } from "../spec.ts"
import { VIRTIO_BLK_CONFIG, VIRTIO_BLK_F } from "./spec.ts"

/** The device, as far as the mode depends on it. */
export interface CacheModeDevice {
  readonly config: { readonly fields: DataView }
  readonly negotiation: Pick<Negotiation, "offered" | "status" | "isNegotiated">
}

export class CacheMode {
  readonly #fields: DataView
  readonly #negotiation: CacheModeDevice["negotiation"]
  readonly #executor: { readonly canFlush: boolean }

  constructor(device: CacheModeDevice, executor: { readonly canFlush: boolean }) {
    this.#fields = device.config.fields
    this.#negotiation = device.negotiation
    this.#executor = executor
    this.reset()
  }

  /** Whether writes must be durable before they complete. True also for a legacy driver that has not negotiated yet. */
  get writeThrough(): boolean {
    return this.#executor.canFlush && (!this.#isWriteback() || (this.#negotiation.status & DEVICE_STATUS.DRIVER_OK) === 0)
  }

  /** After a reset the mode is write-back, if the backing can flush. */
  reset(): void {
    this.#setWriteback(this.#offers(VIRTIO_BLK_F.FLUSH))
  }

  /**
   * Negotiation is complete. A driver without CONFIG_WCE expects write-back if it has FLUSH, and write-through if not. One with CONFIG_WCE
   * and without FLUSH begins with write-through; but DRIVER_OK of a legacy driver with CONFIG_WCE changes nothing.
   */
  negotiated(): void {
    if (!this.#offers(VIRTIO_BLK_F.FLUSH)) return
    const canFlush = this.#negotiation.isNegotiated(VIRTIO_BLK_F.FLUSH)
    const legacy = (this.#negotiation.status & DEVICE_STATUS.FEATURES_OK) === 0
    if (!this.#negotiation.isNegotiated(VIRTIO_BLK_F.CONFIG_WCE)) this.#setWriteback(canFlush)
    else if (!canFlush && !legacy) this.#setWriteback(false)
  }

  /** The driver writes the field. */
  choose(writeback: boolean): void {
    if (!this.#offers(VIRTIO_BLK_F.CONFIG_WCE)) return
    // Legacy drivers may touch the field before they have accepted anything.
    const settled = (this.#negotiation.status & (DEVICE_STATUS.FEATURES_OK | DEVICE_STATUS.DRIVER_OK)) !== 0
    if (!settled || this.#negotiation.isNegotiated(VIRTIO_BLK_F.CONFIG_WCE)) this.#setWriteback(writeback)
  }

  restore(writeback: boolean): void {
    if (this.#offers(VIRTIO_BLK_F.CONFIG_WCE)) this.#setWriteback(writeback)
  }

  // Not private accessors: V8 calls its runtime for them (30 ns, measured).

  #isWriteback(): boolean {
    return this.#fields.getUint8(VIRTIO_BLK_CONFIG.writeback) !== 0
  }

  #setWriteback(on: boolean): void {
    this.#fields.setUint8(VIRTIO_BLK_CONFIG.writeback, on ? 1 : 0)
  }

  #offers(bit: number): boolean {
    return hasBit(this.#negotiation.offered, bit)
  }
}
