/** HiddenChains: chains that a packed ring holds, except for AVAIL and USED of their first descriptors: no device takes them yet. */
import type { GuestRam } from "../../guest-ram.ts"
import { PACKED_DESCRIPTOR } from "../spec.ts"

export class HiddenChains {
  count = 0
  readonly #slots: Uint16Array
  /** With the marks. */
  readonly #flags: Uint16Array
  /** They may have come in another order than that of the ring. */
  #isMixed = false

  /** `size`: descriptors of the ring. */
  constructor(size: number) {
    this.#slots = new Uint16Array(size)
    this.#flags = new Uint16Array(size)
  }

  /** Adds the chain that begins in `slot`, behind all others. */
  push(slot: number, flags: number): void {
    this.#slots[this.count] = slot
    this.#flags[this.count] = flags
    this.count++
  }

  /** Adds a chain that a caller writes, anywhere, or its flags again. */
  set(slot: number, flags: number): void {
    const at = this.#find(slot)
    this.#isMixed = true
    if (at < 0) this.push(slot, flags)
    else this.#flags[at] = flags
  }

  has(slot: number): boolean {
    return this.#find(slot) >= 0
  }

  clear(): void {
    this.count = 0
    this.#isMixed = false
  }

  /**
   * Stores the flags into the ring at guest-physical `table`, those of the first chain last: a device looks at one place only, and finds
   * all of them there. So one store alone has to come behind all others.
   */
  show(ram: GuestRam, table: number): void {
    for (let at = this.count - 1; at >= 0; at--) {
      const address = table + PACKED_DESCRIPTOR.SIZE * (this.#slots[at] ?? 0) + PACKED_DESCRIPTOR.FLAGS
      if (at === 0 || this.#isMixed) ram.storeWord(address, this.#flags[at] ?? 0)
      else ram.data.setUint16(address, this.#flags[at] ?? 0, true)
    }
    this.clear()
  }

  #find(slot: number): number {
    return this.#slots.subarray(0, this.count).indexOf(slot)
  }
}
