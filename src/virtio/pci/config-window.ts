/**
 * ConfigWindow: the PCI configuration access capability ([VIRTIO] 4.1.4.9): a window in configuration space through which a driver accesses
 * BARs that it cannot map.
 */
import type { AccessWidth, BarDefinition } from "../../pci/function.ts"
import { WINDOW } from "./structures.ts"

/** An access to a BAR that the window asks for. */
export interface WindowAccess {
  /** The BAR's index. */
  readonly bar: number
  readonly offset: number
  readonly width: AccessWidth
}

export class ConfigWindow {
  /** Offset in configuration space of the data that the driver reads and writes. */
  readonly data: number = 0
  readonly #at: number = 0
  readonly #bars: readonly BarDefinition[]
  readonly #read: (offset: number, width: AccessWidth) => number

  /** `at`: offset of the capability. `read`: reads configuration space. */
  constructor(at: number, bars: readonly BarDefinition[], read: (offset: number, width: AccessWidth) => number) {
    this.#at = at
    this.data = at + WINDOW.data
    this.#bars = bars
    this.#read = read
  }

  /** The access to a BAR that an access to the window's data requests. Undefined for an access elsewhere, or an invalid request. */
  access(offset: number, width: AccessWidth): WindowAccess | undefined {
    if (offset >= this.data + 4 || offset + width <= this.data) return undefined
    const index = this.#read(this.#at + WINDOW.bar, 1)
    const target = this.#read(this.#at + WINDOW.offset, 4)
    const length = this.#read(this.#at + WINDOW.length, 4)
    const bar = this.#bars.find((candidate) => candidate.index === index)
    if (bar === undefined || (length !== 1 && length !== 2 && length !== 4)) return undefined
    return target % length === 0 && target + length <= bar.size ? { bar: index, offset: target, width: length } : undefined
  }
}
