/**
 * GuestMemory: how a device reaches the RAM of its guest, and LinearMemory, the usual implementation.
 * Addresses are guest-physical, in bytes, as plain numbers: a 64-bit address above 2^53 loses low bits, but is still far outside
 * of any RAM, so the one range check that every access makes refuses it.
 */
import { checkBytes, checkCount, checkOptions, described, type Rules, tagOf } from "../options.ts"

const MAX_REGION_LENGTH = 2 ** 32

/** A stretch of guest-physical addresses that lie in one buffer, in order. */
export class RamRegion {
  /** First guest-physical address. */
  readonly start: number
  /** One past the last guest-physical address. */
  readonly end: number
  /** The RAM itself: `bytes[0]` is at `start`. */
  readonly bytes: Uint8Array
  /** The same bytes. */
  readonly data: DataView
  /** Other threads may access it: it is in a SharedArrayBuffer. */
  readonly shared: boolean
  // Copies of `bytes.buffer` and `bytes.byteOffset`: reading them from a typed array costs more than making a view (measured).
  readonly #buffer: ArrayBufferLike
  readonly #byteOffset: number

  /**
   * @throws RangeError when `start` is not an address, or `bytes` starts at an odd offset of its buffer (ring indices are 16-bit words of
   * it) or has more than 4 GiB
   */
  constructor(start: number, bytes: Uint8Array) {
    checkCount("RamRegion", "start", start, 0)
    checkBytes("RamRegion", "bytes", bytes)
    if (bytes.length > MAX_REGION_LENGTH) {
      throw new RangeError(`a region of RAM has at most 4 GiB, not ${bytes.length} bytes; give it as several`)
    }
    if (bytes.byteOffset % 2 !== 0) {
      throw new RangeError(`RAM starts at the odd offset ${bytes.byteOffset} of its buffer; ring indices need an even one`)
    }
    this.start = start
    this.end = start + bytes.length
    this.bytes = bytes
    this.data = this.numbers(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    // By its tag: pages that are not isolated have shared memory (of WebAssembly), and no global of that name.
    this.shared = tagOf(bytes.buffer) === "SharedArrayBuffer"
    this.#buffer = bytes.buffer
    this.#byteOffset = bytes.byteOffset
  }

  /** Whether the numbers in it are big-endian: those of a legacy guest may be. `data`, `part` and `numbers` see to that. */
  get isBigEndian(): boolean {
    return false
  }

  /** A view of any bytes that reads numbers as `data` does: of a copy of RAM. */
  numbers(buffer: ArrayBufferLike, byteOffset: number, length: number): DataView {
    return new DataView(buffer, byteOffset, length)
  }

  /**
   * The offset in `bytes` and `data` of guest-physical `address`, which the caller knows to be inside. A region has at most 2^32 bytes, so
   * `>>>` cuts nothing off. It tells V8 that the result is an integer, which saves 4 ns an access (measured).
   */
  offset(address: number): number {
    return (address - this.start) >>> 0
  }

  /** The `length` bytes at guest-physical `address`, which the caller knows to be inside, with offsets from there on. */
  part(address: number, length: number): DataView {
    return this.numbers(this.#buffer, this.#byteOffset + (address - this.start), length)
  }

  /** The `length` bytes at guest-physical `address`, which the caller knows to be inside. */
  view(address: number, length: number): Uint8Array {
    return new Uint8Array(this.#buffer, this.#byteOffset + (address - this.start), length)
  }

  /** The `length` bytes from byte `offset` of the region on, which the caller knows to be inside. */
  viewAt(offset: number, length: number): Uint8Array {
    return new Uint8Array(this.#buffer, this.#byteOffset + offset, length)
  }

  /** `count` 16-bit words at `address`, which must be even, in the host's byte order: for Atomics. */
  words(address: number, count: number): Uint16Array {
    return new Uint16Array(this.#buffer, this.#byteOffset + (address - this.start), count)
  }
}

/**
 * The RAM of a guest. Devices keep what `region` returned until `generation` changes; they compare it before each batch of requests,
 * after each wait, and after whatever they call: interrupts, observers, `onError`, a backing. Any of those may replace a buffer, a
 * backing once it is done with those that it was lent, and so may anybody while no device code is on the stack.
 */
export interface GuestMemory {
  /** Any other number than before once a buffer has been replaced (a WebAssembly memory that grew) or the layout has changed. */
  readonly generation: number
  /** The region that holds the byte at `address`, or undefined where there is no RAM. Neighbouring regions may be separate. */
  region(address: number): RamRegion | undefined
  /**
   * Called after the device stored into `length` bytes at `address`: drop compiled code there, mark pages dirty. Descriptor
   * data, status bytes and used rings are all announced. Leave it out where nobody needs to know. It must not replace the memory.
   */
  written?(address: number, length: number): void
}

/** Where there is no RAM at all. */
export const NO_MEMORY: GuestMemory = { generation: 0, region: () => undefined }

export const GUEST_MEMORY_RULES: Rules<GuestMemory> = { generation: "number", region: "function", written: "function?" }

/** A view of `length` bytes of guest RAM at `address`, or undefined unless all of them are in one region. */
export function guestBytes(memory: GuestMemory, address: number, length: number): Uint8Array | undefined {
  const region = memory.region(address)
  if (region === undefined || length > region.end - address) return undefined
  return region.view(address, length)
}

/** Options of `LinearMemory`. Addresses and lengths are in bytes. */
export interface LinearMemoryOptions {
  /** Guest-physical address of the first byte. Default 0. */
  readonly start?: number
  /** At most this many bytes are RAM, also after growth. Default: all there are. */
  readonly length?: number
  /** See `GuestMemory.written`. */
  readonly written?: (address: number, length: number) => void
}

const LINEAR_MEMORY_RULES: Rules<LinearMemoryOptions> = { start: "number?", length: "number?", written: "function?" }

/**
 * RAM in one buffer: an ArrayBuffer, a SharedArrayBuffer (other threads may run the guest), a view of either, or a
 * WebAssembly.Memory, which may grow at any time: growth is noticed by itself.
 */
export class LinearMemory implements GuestMemory {
  readonly written?: (address: number, length: number) => void
  readonly #wasm: { readonly buffer: ArrayBufferLike } | undefined
  readonly #start: number
  readonly #length: number
  #buffer: ArrayBufferLike
  #region: RamRegion
  #generation = 0

  /** @throws TypeError for RAM of another kind or wrong options, RangeError for a start or a length that cannot be */
  constructor(
    ram: ArrayBufferLike | Uint8Array | { readonly buffer: ArrayBufferLike; grow(pages: number): number },
    options: LinearMemoryOptions = {},
  ) {
    checkOptions("LinearMemory", options, LINEAR_MEMORY_RULES)
    checkRam("LinearMemory", "ram", ram)
    checkCount("LinearMemory", "start", options.start, 0)
    checkCount("LinearMemory", "length", options.length, 0)
    this.#start = options.start ?? 0
    this.#length = options.length ?? Infinity
    if (options.written !== undefined) this.written = options.written
    if (ArrayBuffer.isView(ram)) {
      this.#buffer = ram.buffer
      this.#region = new RamRegion(this.#start, ram.subarray(0, this.#length))
      return
    }
    this.#wasm = "buffer" in ram ? ram : undefined
    this.#buffer = "buffer" in ram ? ram.buffer : ram
    this.#region = new RamRegion(this.#start, new Uint8Array(this.#buffer).subarray(0, this.#length))
  }

  get generation(): number {
    if (this.#wasm !== undefined) this.refresh()
    return this.#generation
  }

  /** Takes the new buffer of a WebAssembly.Memory that has grown. */
  refresh(): void {
    if (this.#wasm === undefined || this.#wasm.buffer === this.#buffer) return
    this.#buffer = this.#wasm.buffer
    this.#region = new RamRegion(this.#start, new Uint8Array(this.#buffer).subarray(0, this.#length))
    this.#generation++
  }

  region(address: number): RamRegion | undefined {
    const region = this.#region
    return address >= region.start && address < region.end ? region : undefined
  }
}

/** @throws TypeError unless `ram` is something that a guest's RAM may be in. Other typed arrays would count in units of several bytes. */
export function checkRam(who: string, name: string, ram: unknown): void {
  const isBuffer = (value: unknown): boolean => tagOf(value) === "ArrayBuffer" || tagOf(value) === "SharedArrayBuffer"
  if (isBuffer(ram) || tagOf(ram) === "Uint8Array") return
  const isWasm = typeof ram === "object" && ram !== null && !ArrayBuffer.isView(ram) && isBuffer(Reflect.get(ram, "buffer"))
  const wanted = "an ArrayBuffer, a SharedArrayBuffer, a Uint8Array or a WebAssembly.Memory"
  if (!isWasm) throw new TypeError(`${who}: ${name} must be ${wanted}, not ${described(ram)}`)
}
