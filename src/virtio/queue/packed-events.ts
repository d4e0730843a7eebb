/** Event suppression of packed rings ([VIRTIO] 2.8.10): the structure that each side writes for the other, and what is compared with it. */
import type { GuestMemory } from "../guest-memory.ts"
import { PVIRTQ_EVENT, RING_EVENT_FLAGS } from "../spec.ts"
import { pieceOfRam } from "./ram-pieces.ts"
import { type RingWord, ringWordAt } from "./ring-word.ts"

// Copied to locals: V8 re-reads imported bindings on each use.
const { DISABLE, DESC, MASK } = RING_EVENT_FLAGS

/** A descriptor in a lap of the ring: the slot in bits 0 to 14, the wrap counter of the lap in bit 15. */
export function eventAt(slot: number, wrap: boolean): number {
  return wrap ? slot | 0x8000 : slot
}

/** How far one side has come. */
export interface RingProgress {
  /** Descriptors in the ring. */
  readonly size: number
  /** The next slot, and the wrap counter there. */
  readonly slot: number
  readonly wrap: boolean
  /** Descriptors passed since this was last asked. */
  readonly passed: number
}

/**
 * Whether `event` is among the descriptors passed. [VIRTIO] leaves the arithmetic to us: its slot is in this lap if the wrap counters are
 * equal, and in the lap before if they are not.
 */
export function passesEvent(event: number, { size, slot, wrap, passed }: RingProgress): boolean {
  const ago = slot - (event & 0x7fff) + ((event >= 0x8000) === wrap ? 0 : size)
  return ago > 0 && ago <= passed
}

/** One event suppression structure in guest RAM. */
export class EventSuppression {
  readonly #event: RingWord
  readonly #flags: RingWord

  /** @throws VirtqueueError, which says `name`, when it is not in RAM */
  constructor(memory: GuestMemory, name: string, address: number) {
    const region = pieceOfRam(memory, name, address, PVIRTQ_EVENT.SIZE)
    this.#event = ringWordAt(region, address + PVIRTQ_EVENT.desc)
    this.#flags = ringWordAt(region, address + PVIRTQ_EVENT.flags)
  }

  /** Whether whoever wrote it wants to hear of this progress. What is reserved counts as ENABLE: one event too many harms nobody. */
  wants(progress: RingProgress, eventIdx: boolean): boolean {
    const flags = this.#flags.load() & MASK
    if (flags === DISABLE) return false
    return flags !== DESC || !eventIdx || passesEvent(this.#event.load(), progress)
  }

  get flags(): number {
    return this.#flags.load()
  }

  set flags(flags: number) {
    this.#flags.store(flags)
  }

  /** To be stored before the flags that make it valid. */
  set event(event: number) {
    this.#event.store(event)
  }
}
