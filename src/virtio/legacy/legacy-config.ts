/** LegacyConfig: the device configuration space as a legacy driver sees it: in its own byte order ([VIRTIO] 2.5.3). */
import type { TransportedDevice } from "../transport.ts"
import type { GuestEndian } from "./big-endian-memory.ts"

export class LegacyConfig {
  readonly #device: TransportedDevice
  readonly #isBigEndian: boolean

  constructor(device: TransportedDevice, endian: GuestEndian) {
    this.#device = device
    this.#isBigEndian = endian === "big"
  }

  /** The `width` bytes at `offset` as a little-endian number, whatever their order means to the guest; 0 past the end. */
  read(offset: number, width: number): number {
    const { config } = this.#device
    if (!this.#isBigEndian) return config.read(offset, width)
    let value = 0
    for (let i = 0; i < width; i++) value += config.read(config.bigEndianOffset(offset + i), 1) * 2 ** (8 * i)
    return value
  }

  write(offset: number, width: number, value: number): void {
    if (!this.#isBigEndian) {
      this.#device.writeConfig(offset, width, value)
      return
    }
    for (let i = 0; i < width; i++) {
      this.#device.writeConfig(this.#device.config.bigEndianOffset(offset + i), 1, Math.floor(value / 2 ** (8 * i)) & 0xff)
    }
  }
}
