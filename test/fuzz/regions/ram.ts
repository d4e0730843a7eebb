/** RAM of a guest of the regions fuzzer: several regions, in buffers that may be replaced, in which nothing may be stored at times. */
import { RamRegion } from "../../../src/virtio/guest-memory.ts"
import { type Life, SPACE } from "./life.ts"

/** A region; another buffer now and then. */
interface Space {
  readonly start: number
  ram: Uint8Array
}

export class SeveralRegions {
  readonly spaces: readonly Space[]
  readonly #isShared: boolean
  /** What it holds since nothing may be stored. */
  #frozen: readonly Uint8Array[] | undefined

  constructor({ starts, shared }: Life) {
    this.#isShared = shared
    this.spaces = starts.map((start) => ({ start, ram: this.#newRam() }))
  }

  #newRam(): Uint8Array {
    return new Uint8Array(this.#isShared ? new SharedArrayBuffer(SPACE) : new ArrayBuffer(SPACE))
  }

  /** Other buffers for all of it; the old ones are gone. Returns its regions. */
  replace(): RamRegion[] {
    for (const space of this.spaces) {
      const ram = this.#newRam()
      ram.set(space.ram)
      const { buffer } = space.ram
      if (buffer instanceof ArrayBuffer) structuredClone(buffer, { transfer: [buffer] })
      else space.ram.fill(0xcc)
      space.ram = ram
    }
    return this.spaces.map(({ start, ram }) => new RamRegion(start, ram))
  }

  store(address: number, bytes: Uint8Array): void {
    for (const { start, ram } of this.spaces) {
      const [from, to] = [Math.max(address, start), Math.min(address + bytes.length, start + SPACE)]
      if (from < to) ram.set(bytes.subarray(from - address, to - address), from - start)
    }
  }

  byteAt(address: number): number {
    const space = this.spaces.find(({ start }) => address >= start && address < start + SPACE)
    return space?.ram[address - space.start] ?? NaN
  }

  /** Nothing may be stored from now on. */
  freeze(): void {
    this.#frozen = this.spaces.map(({ ram }) => ram.slice())
  }

  /** Somebody who may has stored something. */
  freezeAgain(): void {
    if (this.#frozen !== undefined) this.freeze()
  }

  melt(): void {
    this.#frozen = undefined
  }

  /** The region in which something was stored that must not be; undefined for none. */
  get problem(): number | undefined {
    const at = this.#frozen?.findIndex((ram, index) => Buffer.compare(ram, this.spaces[index]?.ram ?? ram) !== 0) ?? -1
    return at < 0 ? undefined : at
  }
}
