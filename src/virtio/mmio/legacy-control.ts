/**
 * LegacyControl: the registers that only version 1 of virtio over MMIO has ([VIRTIO] 4.2.4): feature bits 0 to 31, a status without
 * FEATURES_OK, and rings by page number.
 */
import { LEGACY_ALIGN, startLegacyQueue } from "../legacy/legacy-ring.ts"
import { DEVICE_STATUS } from "../spec.ts"
import type { TransportedDevice } from "../transport.ts"
import type { ControlHost, Selects } from "./control-registers.ts"
import { VIRTIO_MMIO } from "./spec.ts"
import type { WordRegister } from "./word-registers.ts"

export class LegacyControl {
  readonly #device: TransportedDevice
  readonly #selects: Selects
  /** Bytes; 0 until the driver writes it. A reset by the driver keeps it: Linux writes it before it resets the device. */
  #pageSize = 0
  /** Alignment in bytes of each queue's used ring. */
  readonly #aligns: Uint32Array

  constructor(device: TransportedDevice, { selects }: ControlHost) {
    this.#device = device
    this.#selects = selects
    this.#aligns = new Uint32Array(device.queueCount).fill(LEGACY_ALIGN)
  }

  get registers(): WordRegister[] {
    const device = this.#device
    const selects = this.#selects
    return [
      {
        offset: VIRTIO_MMIO.DeviceFeatures,
        read: () => (selects.deviceFeatures === 0 ? device.negotiation.legacyDeviceFeatures : 0),
      },
      { offset: VIRTIO_MMIO.DriverFeatures, write: (value) => selects.driverFeatures === 0 && device.setDriverFeatures(0, value) },
      { offset: VIRTIO_MMIO.GuestPageSize, write: (value) => isPowerOfTwo(value) && (this.#pageSize = value) },
      { offset: VIRTIO_MMIO.QueueAlign, write: (value) => this.#setAlign(value) },
      { offset: VIRTIO_MMIO.QueuePFN, read: () => this.#pageNumber(), write: (value) => this.#setPageNumber(value) },
      { offset: VIRTIO_MMIO.Status, read: () => device.status, write: (value) => this.#writeStatus(value) },
    ]
  }

  /** The page size and the alignments, to save and to restore. */
  get layout(): readonly number[] {
    return [this.#pageSize, ...this.#aligns]
  }

  set layout([pageSize = 0, ...aligns]: readonly number[]) {
    this.#pageSize = isPowerOfTwo(pageSize) ? pageSize : 0
    for (const [queue, align] of aligns.entries()) this.#aligns[queue] = isPowerOfTwo(align) ? align : LEGACY_ALIGN
  }

  /** The driver has reset the device. */
  deviceReset(): void {
    this.#aligns.fill(LEGACY_ALIGN)
  }

  /** As after power-on. */
  reset(): void {
    this.#pageSize = 0
    this.deviceReset()
  }

  #setAlign(value: number): void {
    const { queue } = this.#selects
    if (queue < this.#aligns.length && isPowerOfTwo(value)) this.#aligns[queue] = value
  }

  #pageNumber(): number {
    const queue = this.#device.queue(this.#selects.queue)
    return queue?.enabled === true && this.#pageSize !== 0 ? Math.floor(queue.descriptorTable / this.#pageSize) % 2 ** 32 : 0
  }

  /**
   * Starts the queue; page 0 stops it. A page is ignored if there is no page size yet, or if the queue is in use: the driver breaks the
   * rules, and a ring at a guessed address would be worse than none.
   */
  #setPageNumber(page: number): void {
    const { queue: index } = this.#selects
    const device = this.#device
    if (page === 0) device.resetQueue(index)
    else if (this.#pageSize !== 0 && device.queue(index)?.enabled === false) {
      startLegacyQueue(device, index, { base: page * this.#pageSize, align: this.#aligns[index] ?? LEGACY_ALIGN })
    }
  }

  /** Ignores FEATURES_OK, which legacy drivers do not have. A status that is 0 without it must not count as a reset. */
  #writeStatus(value: number): void {
    const known = value & ~DEVICE_STATUS.FEATURES_OK
    if (known !== 0 || value === 0) this.#device.writeStatus(known)
  }
}

function isPowerOfTwo(value: number): boolean {
  return value !== 0 && Number.isInteger(Math.log2(value))
}
