/** Ring: the device's interface to a virtqueue of either format, split or packed. */
import type { SavedRing } from "../state.ts"
import type { DescriptorChain } from "./descriptor-chain.ts"
import type { DescriptorTable } from "./descriptor-table.ts"
import type { PackedDescriptors } from "./packed-descriptors.ts"

/** Guest-physical addresses, in bytes, of the three areas of a queue ([VIRTIO] 2.6), and its number of descriptors. */
export interface QueueAreas {
  readonly size: number
  /** Descriptor Area. */
  readonly descriptorTable: number
  /** Driver Area. */
  readonly availRing: number
  /** Device Area. */
  readonly usedRing: number
}

/** Negotiated features that change how a ring works. */
export interface RingFeatures {
  readonly indirect: boolean
  readonly eventIdx: boolean
  readonly notifyOnEmpty: boolean
  /** The ring is a packed one. */
  readonly packed: boolean
  /** Chains go back in the order in which they came. */
  readonly inOrder: boolean
}

/** A `T` that may be filled. */
export type Changeable<T> = { -readonly [Key in keyof T]: T[Key] }

/** What a ring needs to give a chain back. `place` and `slots` are for packed rings; a split ring does not use them. */
export interface TakenChain {
  /** The index of the first descriptor in a split ring, the buffer id in a packed one. */
  readonly head: number
  /** Descriptors taken before this chain since the ring was opened. Taking the chain sets it. */
  place: number
  /** Descriptors of the ring that the chain takes up. */
  readonly slots: number
}

/** A ring whose chains a caller may take as rows, by reading the descriptors. They are given back all together, and in order. */
export interface RowRing {
  readonly size: number
  /** As `Ring.pop`. */
  pop(chain: DescriptorChain): boolean
  /** As `Ring.addUsed`, of the chains of the first `count` rows: see chain-rows.ts. */
  addUsedRows(rows: Uint32Array, count: number): void
}

/** A ring whose only waiting chain may be read as a single request. */
export interface SingleRing extends RowRing {
  /**
   * Returns how many chains are available. The driver may claim more than a ring can have: see `look`. A packed ring, which has no index,
   * returns 1 for any number.
   */
  countWaiting(): number
  /**
   * `addUsed`, `publish` and `enableKicks` in one, for the only chain in flight, which takes up `slots` descriptors of a packed ring.
   * Returns INTERRUPT_WANTED and MORE_WAIT as bits. Only for guest memory without `written`.
   */
  giveBackOnly(head: number, length: number, slots: number): number
}

/** A split ring, to read chains from. */
export interface SplitChains {
  readonly size: number
  readonly table: DescriptorTable
  /** The available ring. */
  readonly avail: DataView
  /** The known waiting chains go from `lastAvail` to before `availIdx`: free-running 16-bit indices ([VIRTIO] 2.7.6). */
  availIdx: number
  lastAvail: number
  /** Chains taken and not yet given back. */
  inFlight: number
}

/** A split ring whose chains may be taken as rows, or as a single request. */
export interface SplitRows extends SingleRing, SplitChains {}

/** The driver wants an interrupt. */
export const INTERRUPT_WANTED = 1
/** More chains have become available. */
export const MORE_WAIT = 2

/** A packed ring without chains in flight, to read chains from. */
export interface PackedChains {
  readonly size: number
  /** Also holds the position of the next chain. */
  readonly descriptors: PackedDescriptors
  /** Descriptors taken since the ring was opened. */
  availPlace: number
  /**
   * For shared RAM, after `look` has seen the first chain. Returns for how many chains, `most` at most, later reads come after the reads of
   * their flags, if each chain takes up `PackedDescriptors.usualSlots` descriptors.
   */
  orderAhead(most: number): number
}

/** A packed ring whose chains may be taken as rows, or as a single request. */
export interface PackedRows extends SingleRing, PackedChains {}

/** The device's side of one queue that the driver has enabled. */
export interface Ring {
  readonly size: number
  /** Initialises the device's flags, which ask for kicks, before the ring is used: drivers may have left anything there. */
  initialiseFlags(): void
  /** A legacy driver may negotiate while the ring is in use. */
  set features(features: RingFeatures)
  /** The state to save. `inFlight`: chains that have been taken. Chains of a saved ring that `pop` has not taken again yet are included. */
  save(inFlight: readonly TakenChain[]): SavedRing
  /** Finds the areas again if guest memory has been replaced. Call it before pops, before completions, and after interrupts. */
  refresh(): void
  /** The generation of guest memory for which the areas were found. */
  readonly generation: number
  /** Whether chains of a saved ring wait that `pop` has not taken again yet. */
  readonly hasSaved: boolean
  /**
   * Looks for available chains. Returns whether any wait, including those of a saved ring. @throws VirtqueueError when the driver's index
   * is impossible
   */
  look(): boolean
  /**
   * Takes the next chain that `look` has seen into `chain`. Returns false when there is none. @throws VirtqueueError when ring or chain is
   * broken
   */
  pop(chain: DescriptorChain): boolean
  /**
   * Takes the next chain of a saved ring into `chain` without reading its descriptors: for a finished chain, which only has to be given
   * back. Requires `hasSaved`.
   */
  passSaved(chain: Changeable<TakenChain>): void
  /** The split ring itself, while chains may be taken as rows. */
  readonly splitRows?: SplitRows | undefined
  /** The same for a packed ring. */
  readonly packedRows?: PackedRows | undefined
  /** Treats a chain that was taken as a row, or by `RowRing.pop`, as one taken by `pop`. Left out if there is no difference. */
  adopt?(chain: TakenChain): void
  /**
   * Gives a taken chain back. `length`: bytes that the device has written into it, from its first writable byte on.
   */
  addUsed(chain: TakenChain, length: number): void
  /** Shows the driver the chains that `addUsed` has collected. Returns true when the driver wants an interrupt for them. */
  publish(): boolean
  /** Asks for a kick with the next chain. Returns true if a chain became available before that, for which the driver need not kick. */
  enableKicks(): boolean
}
