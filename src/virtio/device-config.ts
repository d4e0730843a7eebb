/** DeviceConfig: the device configuration space ([VIRTIO] 2.5) and its generation. Fields are little-endian. */

/** A field of more than one byte, in bytes. */
export interface ConfigField {
  readonly offset: number
  readonly width: 2 | 4 | 8
}

export class DeviceConfig {
  /** The fields. Whoever changes them, except for the driver, calls `changed`. */
  readonly fields: DataView
  #generation = 0
  /** The fields have changed since the driver last read the generation. */
  #isStale = false

  /** For a big-endian guest: the index in `fields` of each byte. */
  readonly #bigEndian: Uint16Array

  /** `size`: bytes. `wide`: the fields of more than one byte. */
  constructor(size: number, wide: readonly ConfigField[]) {
    this.fields = new DataView(new ArrayBuffer(size))
    this.#bigEndian = Uint16Array.from({ length: size }, (_, at) => at)
    for (const { offset, width } of wide) this.#bigEndian.subarray(offset, offset + width).reverse()
  }

  /** Bytes. */
  get size(): number {
    return this.fields.byteLength
  }

  changed(): void {
    this.#isStale = true
  }

  /**
   * config_generation ([VIRTIO] 4.1.4.3.1). It is incremented when it is read after a change, not by each change: 256 changes between two
   * reads would bring an 8-bit counter back to the same value.
   */
  readGeneration(): number {
    if (this.#isStale) {
      this.#isStale = false
      this.#generation = (this.#generation + 1) & 0xff
    }
    return this.#generation
  }

  restoreGeneration(value: number): void {
    this.#generation = value
  }

  /** An unsigned value of `width` bytes at any offset; 0 past the end. */
  read(offset: number, width: number): number {
    let value = 0
    for (let i = 0; i < width; i++) if (offset + i < this.size) value += this.fields.getUint8(offset + i) * 2 ** (8 * i)
    return value
  }

  /** The index of the byte that a big-endian legacy guest reads at `offset`. */
  bigEndianOffset(offset: number): number {
    return this.#bigEndian[offset] ?? offset
  }

  bytes(): number[] {
    return [...new Uint8Array(this.fields.buffer)]
  }
}
