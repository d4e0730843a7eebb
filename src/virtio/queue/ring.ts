/** Ring: what the device needs of a virtqueue's format, split or packed. */
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

/** Of a `T` to be filled. */
export type Changeable<T> = { -readonly [Key in keyof T]: T[Key] }

/** What a ring needs of a chain to give it back. `place` and `slots` are for packed rings; a split one leaves them alone. */
export interface TakenChain {
  /** What it is called in the ring: the index of its first descriptor in a split ring, its buffer id in a packed one. */
  readonly head: number
  /** Descriptors of the ring in front of it, since the ring was opened. `Ring.taken` sets it. */
  place: number
  /** Descriptors of the ring that it takes up. */
  readonly slots: number
}

/** A ring that takes chains as rows, from whoever reads their descriptors, and gives them back: all of them, in their order. */
export interface RowRing {
  readonly size: number
  /** As `Ring.pop`. */
  pop(chain: DescriptorChain): boolean
  /** As `Ring.addUsed`, of the chains of the first `count` rows: see chain-rows.ts. */
  addUsedRows(rows: Uint32Array, count: number): void
}

/** A ring the only chain of which may be read by itself. */
export interface SingleRing extends RowRing {
  /**
   * Looks for chains that have been made available. Returns how many there are, which may be more than a ring can have: see `look`. A
   * packed ring, which has no index, returns 1 for any number.
   */
  countWaiting(): number
  /**
   * `addUsed`, `publish` and `enableKicks` in one, for the only chain that was taken, which takes up `slots` descriptors of a packed ring.
   * Returns INTERRUPT_WANTED and MORE_WAIT as bits. Guest memory has no `written`.
   */
  giveBackOnly(head: number, length: number, slots: number): number
}

/** A split ring, to read chains from. */
export interface SplitChains {
  readonly size: number
  readonly table: DescriptorTable
  /** The available ring. */
  readonly avail: DataView
  /** Chains from `lastAvail` to before `availIdx` have been seen to wait. Free-running 16-bit indices ([VIRTIO] 2.7.6). */
  availIdx: number
  lastAvail: number
  /** Chains taken and not given back. */
  inFlight: number
}

/** A split ring whose chains may be rows, and the only chain of a kick may be read by itself. */
export interface SplitRows extends SingleRing, SplitChains {}

/** The driver wants an interrupt. */
export const INTERRUPT_WANTED = 1
/** Chains have come in meanwhile. */
export const MORE_WAIT = 2

/** A packed ring, to read chains from: none is in flight. */
export interface PackedChains {
  readonly size: number
  /** It keeps where the next chain begins. */
  readonly descriptors: PackedDescriptors
  /** Descriptors taken since the ring was opened. */
  availPlace: number
  /**
   * In shared RAM, where `look` has just seen the first chain: whatever is read from now on is read behind the flags of so many chains, of
   * `most` at most, if each takes up `PackedDescriptors.usualSlots` descriptors.
   */
  orderAhead(most: number): number
}

/** A packed ring whose chains may be rows, and the only chain of a kick may be read by itself. */
export interface PackedRows extends SingleRing, PackedChains {}

/** The device's side of one queue that the driver has enabled. */
export interface Ring {
  readonly size: number
  /** Makes what the device says of kicks sound, before the ring is used: drivers may have left anything there. */
  initialiseFlags(): void
  /** A legacy driver may negotiate while the ring is in use. */
  set features(features: RingFeatures)
  /** What to save of it. `inFlight`: chains that have been taken. Those of a saved ring that `pop` has not taken again yet go along. */
  save(inFlight: readonly TakenChain[]): SavedRing
  /** Finds the areas again when guest memory has been replaced. To be called before pops, before completions, and after interrupts. */
  refresh(): void
  /** The generation of guest memory for which the areas were found. */
  readonly generation: number
  /** Chains of a saved ring wait, which `pop` has not taken again yet. */
  readonly hasSaved: boolean
  /**
   * Looks for chains that have been made available. True when some wait, those of a saved ring among them. @throws VirtqueueError when that
   * cannot be
   */
  look(): boolean
  /**
   * Takes the next chain that `look` has seen into `chain`. Returns false when there is none. @throws VirtqueueError when ring or chain is
   * broken
   */
  pop(chain: DescriptorChain): boolean
  /**
   * Takes the next chain of a saved ring into `chain`, without a look at its descriptors: it is done with, and is only to be given back.
   * `hasSaved` is true.
   */
  passSaved(chain: Changeable<TakenChain>): void
  /** The ring itself where chains may be read as rows, if it is a split one. */
  readonly splitRows?: SplitRows | undefined
  /** The same, if it is a packed one. */
  readonly packedRows?: PackedRows | undefined
  /** A chain that was taken as a row, or by `RowRing.pop`, goes on as one that `pop` has taken. Left out where that is the same. */
  adopt?(chain: TakenChain): void
  /**
   * Gives a chain back that has been taken, and into which the device has written. `length`: bytes written, from its first writable byte
   * on.
   */
  addUsed(chain: TakenChain, length: number): void
  /** Shows the driver what `addUsed` has collected, if anything. Returns true when the driver wants an interrupt for it. */
  publish(): boolean
  /** Asks for a kick with the next chain. Returns true when one has come in meanwhile, for which the driver may not kick. */
  enableKicks(): boolean
}
