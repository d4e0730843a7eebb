/**
 * V86Memory: the RAM of a v86 machine as GuestMemory. RAM is a part of v86's WebAssembly memory, which may grow. When a device stores to
 * a page, v86 must drop the code that it has compiled from that page.
 */
import { type GuestMemory, RamRegion } from "../../virtio/guest-memory.ts"

/** The members of v86's CPU object that V86Memory uses. */
export interface V86Ram {
  readonly wasm_memory: { readonly buffer: ArrayBufferLike }
  /** Guest RAM. Read it once: v86 makes a new view at each property access. */
  readonly mem8: { readonly byteOffset: number; readonly length: number }
  /** Drops the code compiled from the pages in [start, end), which must not be empty. */
  jit_dirty_cache(start: number, end: number): void
}

/** The legacy video window. v86 passes accesses to it to its VGA, so devices cannot use it as RAM. */
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
