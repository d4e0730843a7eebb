/** GuestHeap: hands out the RAM of a machine, and copies bytes in and out. */
import type { Machine } from "../../src/vmm/machine.ts"

export class GuestHeap {
  readonly machine: Machine
  #top = 0x1000

  constructor(machine: Machine) {
    this.machine = machine
  }

  /** Allocates `length` bytes, with a gap after the last allocation. */
  alloc(length: number, alignment = 1): number {
    const address = Math.ceil(this.#top / alignment) * alignment
    this.#top = address + length + 3
    if (this.#top > this.machine.ram.length) throw new Error("the guest has no RAM left")
    return address
  }

  /** The next address for `alloc`. Lowering it frees later allocations. */
  get top(): number {
    return this.#top
  }

  set top(address: number) {
    this.#top = address
  }

  bytes(address: number, length: number): Uint8Array {
    return this.machine.ram.slice(address, address + length)
  }

  store(address: number, bytes: Uint8Array): void {
    this.machine.ram.set(bytes, address)
  }

  fill(address: number, length: number, value: number): void {
    this.machine.ram.fill(value, address, address + length)
  }
}
