/**
 * ConfigSpace: the 256 bytes of configuration space of a PCI function, as storage: every bit is read-only, writable, or cleared by
 * writing 1. function.ts gives registers their meaning; nothing here has a side effect.
 *
 * test/spec/README.md names the revisions of [PCI] and [PCIe].
 */
import type { AccessWidth } from "./access.ts"

/** Bytes in the configuration space of a conventional PCI function. */
export const CONFIG_SPACE_SIZE = 256

/** Offsets in a type 0 header, [PCI] figure 6-1. */
export const PCI_CONFIG = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION_ID: 0x08,
  /** Programming interface, sub-class and base class, one byte each. */
  CLASS_CODE: 0x09,
  CACHE_LINE_SIZE: 0x0c,
  LATENCY_TIMER: 0x0d,
  HEADER_TYPE: 0x0e,
  BASE_ADDRESS_0: 0x10,
  SUBSYSTEM_VENDOR_ID: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  EXPANSION_ROM: 0x30,
  CAPABILITIES_POINTER: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
  /** The end of the header, and the beginning of the device's own registers. */
  HEADER_END: 0x40,
} as const

/** Bits of the Command register, [PCI] 6.2.2, as masks. */
export const PCI_COMMAND = {
  IO_SPACE: 0x0001,
  MEMORY_SPACE: 0x0002,
  BUS_MASTER: 0x0004,
  PARITY_ERROR_RESPONSE: 0x0040,
  SERR_ENABLE: 0x0100,
  INTERRUPT_DISABLE: 0x0400,
} as const

/** Bits of the Status register, [PCI] 6.2.3, as masks. */
export const PCI_STATUS = {
  INTERRUPT: 0x0008,
  CAPABILITIES_LIST: 0x0010,
  MASTER_DATA_PARITY_ERROR: 0x0100,
  SIGNALED_TARGET_ABORT: 0x0800,
  RECEIVED_TARGET_ABORT: 0x1000,
  RECEIVED_MASTER_ABORT: 0x2000,
  SIGNALED_SYSTEM_ERROR: 0x4000,
  DETECTED_PARITY_ERROR: 0x8000,
} as const

/** The bits of a register that software can change. All others are read-only. */
export interface RegisterAccess {
  /** Bits that take the value written. */
  readonly writable?: number
  /** Bits that are cleared by writing 1 and kept by writing 0. */
  readonly clearedByOne?: number
}

export class ConfigSpace {
  readonly #bytes = new Uint8Array(CONFIG_SPACE_SIZE)
  /** The values given by `define`, to which a reset returns. */
  readonly #initial = new Uint8Array(CONFIG_SPACE_SIZE)
  readonly #writable = new Uint8Array(CONFIG_SPACE_SIZE)
  readonly #clearedByOne = new Uint8Array(CONFIG_SPACE_SIZE)

  /** Sets a register's value after reset, and the bits that software may change. For the function that owns the space. */
  define(offset: number, width: AccessWidth, value: number, access: RegisterAccess = {}): void {
    for (let i = 0; i < width; i++) {
      const at = offset + i
      this.#bytes[at] = value >>> (8 * i)
      this.#initial[at] = value >>> (8 * i)
      this.#writable[at] = (access.writable ?? 0) >>> (8 * i)
      this.#clearedByOne[at] = (access.clearedByOne ?? 0) >>> (8 * i)
    }
  }

  /** Software's read: any offset, bytes past the end read 0. */
  read(offset: number, width: AccessWidth): number {
    let value = 0
    for (let i = 0; i < width; i++) value |= (this.#bytes[offset + i] ?? 0) << (8 * i)
    return value >>> 0
  }

  /** Software's write: changes only writable bits; bytes past the end are dropped. */
  write(offset: number, width: AccessWidth, value: number): void {
    for (let i = 0; i < width; i++) {
      const at = offset + i
      const old = this.#bytes[at]
      if (old === undefined) return
      const writable = this.#writable[at] ?? 0
      const written = (value >>> (8 * i)) & 0xff
      const cleared = written & (this.#clearedByOne[at] ?? 0)
      this.#bytes[at] = ((old & ~writable) | (written & writable)) & ~cleared
    }
  }

  /** The device's own change of a register, read-only bits included. */
  store(offset: number, width: AccessWidth, value: number): void {
    for (let i = 0; i < width; i++) this.#bytes[offset + i] = value >>> (8 * i)
  }

  /** The bits of `width` bytes at `offset` that software cannot change. */
  fixedBits(offset: number, width: AccessWidth): number {
    let bits = 0
    for (let i = 0; i < width; i++) {
      bits |= (0xff & ~((this.#writable[offset + i] ?? 0) | (this.#clearedByOne[offset + i] ?? 0))) << (8 * i)
    }
    return bits >>> 0
  }

  /** Resets every bit that software can change to the value given by `define`. */
  reset(): void {
    for (let at = 0; at < CONFIG_SPACE_SIZE; at++) {
      const software = (this.#writable[at] ?? 0) | (this.#clearedByOne[at] ?? 0)
      this.#bytes[at] = ((this.#bytes[at] ?? 0) & ~software) | ((this.#initial[at] ?? 0) & software)
    }
  }
}
