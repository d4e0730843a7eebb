/** RingWord: a 16-bit word of a ring through which driver and device notify each other: flags, an index, or an event index. */
import { RamRegion } from "../guest-memory.ts"

const LITTLE_ENDIAN_HOST = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

export class RingWord {
  readonly #data: DataView
  readonly #at: number = 0
  /** The word for Atomics if RAM is shared. Without other threads Atomics only cost time (6 ns each, measured). */
  readonly #shared: Uint16Array | undefined

  /** The word at guest-physical `address`, which is even and inside `region`. */
  constructor(region: RamRegion, address: number) {
    this.#data = region.data
    this.#at = region.offset(address)
    if (!region.shared) return
    // Atomics know only the host's byte order.
    if (!LITTLE_ENDIAN_HOST) throw new Error("virtqueues in shared memory need a little-endian host")
    this.#shared = region.words(address, 1)
  }

  /** The word for Atomics, if RAM is shared and the word has the host's byte order. For callers that find `load` and `store` too slow. */
  get forAtomics(): Uint16Array | undefined {
    return this.#shared
  }

  /** Reads the word. In shared RAM this is an acquire: later reads come after it ([VIRTIO] 2.7.13.3). */
  load(): number {
    return this.#shared === undefined ? this.#data.getUint16(this.#at, true) : Atomics.load(this.#shared, 0)
  }

  /**
   * Stores the word. In shared RAM earlier stores become visible before it, and later reads come after it ([VIRTIO] 2.7.8.2, 2.7.7.2).
   */
  store(value: number): void {
    if (this.#shared === undefined) this.#data.setUint16(this.#at, value, true)
    else Atomics.store(this.#shared, 0, value)
  }
}

/** A word of a big-endian guest in shared RAM, whose bytes are swapped: Atomics know only the host's order. */
class SwappedRingWord extends RingWord {
  override get forAtomics(): undefined {
    return undefined
  }

  override load(): number {
    return swapped(super.load())
  }

  override store(value: number): void {
    super.store(swapped(value))
  }
}

function swapped(word: number): number {
  return ((word & 0xff) << 8) | (word >> 8)
}

/** A placeholder until the ring has been found in RAM. */
export const NO_WORD = new RingWord(new RamRegion(0, new Uint8Array(2)), 0)

/** The word at guest-physical `address`, which is even and inside `region`, in the guest's byte order. */
export function ringWordAt(region: RamRegion, address: number): RingWord {
  return region.shared && region.isBigEndian ? new SwappedRingWord(region, address) : new RingWord(region, address)
}

/**
 * [VIRTIO] 2.7.7.2, `virtq_need_event` in its appendix A: whether the index passed `event` on its way from `old` to `now`. It compares
 * distances, not indices, because all are modulo 2^16.
 */
export function needsEvent(event: number, now: number, old: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - old) & 0xffff)
}
