/**
 * V86Memory: the RAM of a v86 machine as GuestMemory. It lies inside v86's WebAssembly memory, which grows, and code that was
 * compiled from a page must be dropped when a device stores there.
 */
import { type GuestMemory, RamRegion } from "../../virtio/guest-memory.ts"

/** What is used of v86's CPU object here. */
export interface V86Ram {
  readonly wasm_memory: { readonly buffer: ArrayBufferLike }
  /** Guest RAM; v86 makes a new view at each property access, so it is looked at once and never indexed. */
  readonly mem8: { readonly byteOffset: number; readonly length: number }
  /** Drops compiled code of the pages in [start, end); never called with an empty range. */
  jit_dirty_cache(start: number, end: number): void
}

/** The legacy video window: v86 hands accesses there to its VGA, so it is no RAM that a device could reach. */
const VGA_WINDOW = { START: 0xa_0000, END: 0xc_0000 } as const

export class V86Memory implements GuestMemory {
  readonly #cpu: V86Ram
  readonly #offset: number
  readonly #size: number
  #buffer: ArrayBufferLike
  #low: RamRegion
  #high: RamRegion
  #generation = 0

  constructor(cpu: V86Ram) {
    this.#cpu = cpu
    this.#offset = cpu.mem8.byteOffset
    this.#size = cpu.mem8.length
    this.#buffer = cpu.wasm_memory.buffer
    this.#low = this.#regionOf(0, VGA_WINDOW.START)
    this.#high = this.#regionOf(VGA_WINDOW.END, this.#size)
  }

  get generation(): number {
    if (this.#cpu.wasm_memory.buffer !== this.#buffer) {
      this.#buffer = this.#cpu.wasm_memory.buffer
      this.#low = this.#regionOf(0, VGA_WINDOW.START)
      this.#high = this.#regionOf(VGA_WINDOW.END, this.#size)
      this.#generation++
    }
    return this.#generation
  }

  region(address: number): RamRegion | undefined {
    if (address >= VGA_WINDOW.END) return address < this.#size ? this.#high : undefined
    return address >= 0 && address < VGA_WINDOW.START ? this.#low : undefined
  }

  written(address: number, length: number): void {
    if (length > 0) this.#cpu.jit_dirty_cache(address, address + length)
  }

  #regionOf(start: number, end: number): RamRegion {
    return new RamRegion(start, new Uint8Array(this.#buffer, this.#offset + start, end - start))
  }
}
