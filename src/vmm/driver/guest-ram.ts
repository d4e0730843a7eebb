/**
 * GuestRam: the driver's accesses to the memory that it shares with the device.
 * Ring indices, flags and event words go through Atomics, which are sequentially consistent. So the driver also works over a
 * SharedArrayBuffer with the device on another thread: whoever loads an index sees the plain stores before its store.
 */
import type { Platform } from "./platform.ts"

/** Little-endian access to guest RAM. Addresses are guest-physical bytes; an access outside of RAM throws `RangeError`. */
export class GuestRam {
  /** All of RAM. Good until the next `refresh`. */
  bytes: Uint8Array
  /** The same as a DataView. */
  data: DataView
  readonly #platform: Platform
  /** For Atomics. It has the host's byte order, which is little-endian on all platforms of Node and browsers except s390x. */
  #words: Uint16Array

  constructor(platform: Platform) {
    this.#platform = platform
    this.bytes = platform.ram
    this.data = dataOf(this.bytes)
    this.#words = wordsOf(this.bytes)
  }

  /** Notices that RAM was replaced (a WebAssembly memory that has grown). Call it at the start of each operation. */
  refresh(): void {
    const ram = this.#platform.ram
    if (ram === this.bytes) return
    if (ram.buffer !== this.bytes.buffer || ram.byteOffset !== this.bytes.byteOffset || ram.length !== this.bytes.length) {
      this.data = dataOf(ram)
      this.#words = wordsOf(ram)
    }
    this.bytes = ram
  }

  /** Atomically loads the 16-bit word at an even address. */
  loadWord(address: number): number {
    return Atomics.load(this.#words, address / 2)
  }

  /** Atomically stores the low 16 bits of `value` at an even address. */
  storeWord(address: number, value: number): void {
    Atomics.store(this.#words, address / 2, value & 0xffff)
  }

  /** Stores 64 bits. A number must be a non-negative integer; from 2^53 on only a bigint is exact. */
  setU64(address: number, value: number | bigint): void {
    if (typeof value === "bigint") {
      this.data.setBigUint64(address, value, true)
      return
    }
    this.data.setUint32(address, value % 2 ** 32, true)
    this.data.setUint32(address + 4, Math.floor(value / 2 ** 32), true)
  }

  /** Loads 64 bits; exact up to 2^53. */
  u64(address: number): number {
    return this.data.getUint32(address, true) + this.data.getUint32(address + 4, true) * 2 ** 32
  }

  /** A view of `length` bytes at `address`. Good until RAM is replaced. */
  view(address: number, length: number): Uint8Array {
    if (address < 0 || length > this.bytes.length - address) throw new RangeError(`guest RAM ends before ${address} + ${length}`)
    return new Uint8Array(this.bytes.buffer, this.bytes.byteOffset + address, length)
  }
}

function dataOf(ram: Uint8Array): DataView {
  return new DataView(ram.buffer, ram.byteOffset, ram.byteLength)
}

function wordsOf(ram: Uint8Array): Uint16Array {
  if (ram.byteOffset % 2 !== 0) {
    throw new RangeError(`guest RAM starts at the odd offset ${ram.byteOffset} of its buffer; ring indices need an even one`)
  }
  return new Uint16Array(ram.buffer, ram.byteOffset, Math.floor(ram.byteLength / 2))
}
