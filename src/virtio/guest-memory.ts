/**
 * GuestMemory: how a device reaches the RAM of its guest, and LinearMemory, the usual implementation.
 * Addresses are guest-physical, in bytes, as plain numbers: a 64-bit address above 2^53 loses low bits, but is still far outside
 * any RAM, so the range check of each access refuses it.
 */
import { checkBytes, checkCount, checkOptions, described, type Rules, tagOf } from "../options.ts"

const MAX_REGION_LENGTH = 2 ** 32

/** A stretch of guest-physical addresses that lie in one buffer, in order. */
export class RamRegion {
  /** First guest-physical address. */
  readonly start: number = 0
  /** One past the last guest-physical address. */
  readonly end: number = 0
  /** The RAM itself: `bytes[0]` is at `start`. */
  readonly bytes: Uint8Array
  /** The same bytes. */
  readonly data: DataView
  /** Whether other threads may access it: it is in a SharedArrayBuffer. */
  readonly shared: boolean
  // Copies of `bytes.buffer` and `bytes.byteOffset`: reading them from a typed array is slower than making a view (measured).
  readonly #buffer: ArrayBufferLike
  readonly #byteOffset: number = 0

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
    // Checked by its tag: a page that is not isolated can have shared WebAssembly memory, but has no global SharedArrayBuffer.
    this.shared = tagOf(bytes.buffer) === "SharedArrayBuffer"
    this.#buffer = bytes.buffer
    this.#byteOffset = bytes.byteOffset
  }

  /** Whether `data`, `part` and `numbers` read big-endian numbers, for a legacy guest. */
  get isBigEndian(): boolean {
    return false
  }

  /** A view of other bytes, such as a copy of RAM, that reads numbers as `data` does. */
  numbers(buffer: ArrayBufferLike, byteOffset: number, length: number): DataView {
    return new DataView(buffer, byteOffset, length)
  }

  /**
   * The offset in `bytes` and `data` of guest-physical `address`, which the caller knows to be inside. `>>>` tells V8 that the result is an
   * integer, which saves 4 ns an access (measured); it is exact, because a region has at most 2^32 bytes.
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
 * The RAM of a guest. Devices keep the result of `region` until `generation` changes. They compare it before each batch of requests, after
 * each wait, and after each call of an interrupt, an observer, `onError` or a backing. All of these may replace a buffer, though a backing
 * must not while it uses borrowed ones. So may anybody while no device code is on the stack. `region` and `written` must not.
 */
export interface GuestMemory {
  /** Changes whenever a buffer was replaced (a WebAssembly memory has grown) or the layout has changed. */
  readonly generation: number
  /** The region with the byte at `address`; undefined if there is no RAM. Adjacent regions may be separate. */
  region(address: number): RamRegion | undefined
  /**
   * Called after the device stored into `length` bytes at `address`: drop compiled code there, mark pages dirty. Descriptor
   * data, status bytes and used rings are all announced. Leave it out if nobody needs to know.
   */
  written?(address: number, length: number): void
}

/** Things that lie in guest memory. */
export interface Movable {
  /** The generation of the memory in which they were found. */
  readonly generation: number
  /** Finds them in replaced memory. @throws VirtqueueError when they are not in RAM any more */
  refresh(memory: GuestMemory): void
}

/** A guest without RAM. */
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
  /** Maximum of bytes that are RAM, even after growth. Default: the whole buffer. */
  readonly length?: number
  /** See `GuestMemory.written`. */
  readonly written?: (address: number, length: number) => void
}

const LINEAR_MEMORY_RULES: Rules<LinearMemoryOptions> = { start: "number?", length: "number?", written: "function?" }

/**
 * RAM in one buffer: an ArrayBuffer, a SharedArrayBuffer (other threads may run the guest), a view of either, or a WebAssembly.Memory,
 * whose growth is detected automatically.
 */
export class LinearMemory implements GuestMemory {
  readonly written?: (address: number, length: number) => void
  readonly #wasm: { readonly buffer: ArrayBufferLike } | undefined
  readonly #start: number = 0
  readonly #length: number = 0
  #buffer: ArrayBufferLike
  #region: RamRegion
  #generation = 0

  /** @throws TypeError for RAM of another kind or wrong options, RangeError for a wrong start or length */
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

  /** Adopts the new buffer of a WebAssembly.Memory that has grown. */
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

/** @throws TypeError for a kind of RAM that is not supported. Other typed arrays would count in units of several bytes. */
export function checkRam(who: string, name: string, ram: unknown): void {
  const isBuffer = (value: unknown): boolean => tagOf(value) === "ArrayBuffer" || tagOf(value) === "SharedArrayBuffer"
  if (isBuffer(ram) || tagOf(ram) === "Uint8Array") return
  const isWasm = typeof ram === "object" && ram !== null && !ArrayBuffer.isView(ram) && isBuffer(Reflect.get(ram, "buffer"))
  const wanted = "an ArrayBuffer, a SharedArrayBuffer, a Uint8Array or a WebAssembly.Memory"
  if (!isWasm) throw new TypeError(`${who}: ${name} must be ${wanted}, not ${described(ram)}`)
}
