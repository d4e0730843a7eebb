/**
 * GuestRam: the driver's accesses to the memory that it shares with the device.
 * Ring indices, flags and event words go through Atomics, which are sequentially consistent. So the driver also works over a
 * SharedArrayBuffer with the device on another thread: whoever loads an index sees the plain stores before its store.
 */
import type { Platform } from "./platform.ts"

/** Byte order of a guest. */
export type Endian = "little" | "big"

/** Access to numbers in guest RAM. Addresses are guest-physical bytes; an access outside of RAM throws `RangeError`. */
export class GuestRam {
  /** All of RAM. Good until the next `refresh`. */
  bytes: Uint8Array
  /** The same as a DataView: what is asked for as little-endian is in the guest's order. */
  data: DataView
  /** Numbers are big-endian: those of a legacy driver in a big-endian guest are. */
  readonly isBigEndian: boolean
  readonly #platform: Platform
  /** For Atomics. It has the host's byte order, which is little-endian on all platforms of Node and browsers except s390x. */
  #words: Uint16Array

  constructor(platform: Platform, options: { readonly endian: Endian } = { endian: "little" }) {
    this.#platform = platform
    this.isBigEndian = options.endian === "big"
    this.bytes = platform.ram
    this.data = this.numbers(this.bytes)
    this.#words = wordsOf(this.bytes)
  }

  /** Notices that RAM was replaced (a WebAssembly memory that has grown). Call it at the start of each operation. */
  refresh(): void {
    const ram = this.#platform.ram
    if (ram === this.bytes) return
    if (ram.buffer !== this.bytes.buffer || ram.byteOffset !== this.bytes.byteOffset || ram.length !== this.bytes.length) {
      this.data = this.numbers(ram)
      this.#words = wordsOf(ram)
    }
    this.bytes = ram
  }

  /** `bytes` as a DataView: what is asked for as little-endian is in the guest's order. */
  numbers(bytes: Uint8Array): DataView {
    const { buffer, byteOffset, byteLength } = bytes
    return this.isBigEndian ? new SwappedView(buffer, byteOffset, byteLength) : new DataView(buffer, byteOffset, byteLength)
  }

  /** Atomically loads the 16-bit word at an even address. */
  loadWord(address: number): number {
    const word = Atomics.load(this.#words, address / 2)
    return this.isBigEndian ? swapped(word) : word
  }

  /** Atomically stores the low 16 bits of `value` at an even address. */
  storeWord(address: number, value: number): void {
    Atomics.store(this.#words, address / 2, this.isBigEndian ? swapped(value) : value & 0xffff)
  }

  /** Stores 64 bits. A number must be a non-negative integer; from 2^53 on only a bigint is exact. */
  setU64(address: number, value: number | bigint): void {
    if (typeof value === "bigint") {
      this.data.setBigUint64(address, value, true)
      return
    }
    const low = this.isBigEndian ? 4 : 0
    // A remainder of doubles takes 20 ns.
    const high = value < 2 ** 32 ? 0 : Math.floor(value / 2 ** 32)
    this.data.setUint32(address + low, value - high * 2 ** 32, true)
    this.data.setUint32(address + 4 - low, high, true)
  }

  /** Loads 64 bits; exact up to 2^53. */
  u64(address: number): number {
    const [low, high] = this.isBigEndian ? [4, 0] : [0, 4]
    return this.data.getUint32(address + low, true) + this.data.getUint32(address + high, true) * 2 ** 32
  }

  /** A view of `length` bytes at `address`. Good until RAM is replaced. */
  view(address: number, length: number): Uint8Array {
    if (address < 0 || length > this.bytes.length - address) throw new RangeError(`guest RAM ends before ${address} + ${length}`)
    return new Uint8Array(this.bytes.buffer, this.bytes.byteOffset + address, length)
  }
}

/** A DataView whose little-endian numbers are big-endian. */
class SwappedView extends DataView<ArrayBufferLike> {
  override getUint16(offset: number, isLittle = false): number {
    return super.getUint16(offset, !isLittle)
  }

  override setUint16(offset: number, value: number, isLittle = false): void {
    super.setUint16(offset, value, !isLittle)
  }

  override getUint32(offset: number, isLittle = false): number {
    return super.getUint32(offset, !isLittle)
  }

  override setUint32(offset: number, value: number, isLittle = false): void {
    super.setUint32(offset, value, !isLittle)
  }

  override setBigUint64(offset: number, value: bigint, isLittle = false): void {
    super.setBigUint64(offset, value, !isLittle)
  }
}

/** The low 16 bits of `word`, their bytes swapped. */
function swapped(word: number): number {
  return ((word & 0xff) << 8) | ((word >> 8) & 0xff)
}

function wordsOf(ram: Uint8Array): Uint16Array {
  if (ram.byteOffset % 2 !== 0) {
    throw new RangeError(`guest RAM starts at the odd offset ${ram.byteOffset} of its buffer; ring indices need an even one`)
  }
  return new Uint16Array(ram.buffer, ram.byteOffset, Math.floor(ram.byteLength / 2))
}
