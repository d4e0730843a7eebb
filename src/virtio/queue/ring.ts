/** Ring: what the device needs of a virtqueue's format, split or packed. */
import type { DescriptorChain } from "./descriptor-chain.ts"
import type { DescriptorTable } from "./descriptor-table.ts"

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
}

/** Where a ring stands: the index of the next chain to take, and of the next to give back. */
export interface RingPosition {
  readonly avail: number
  readonly used: number
}

/** Where a ring begins: at 0, or where it stood when its state was saved, with the chains that had been taken and not given back. */
export interface RingStart extends RingPosition {
  readonly heads: readonly number[]
}

export const FIRST_START: RingStart = { avail: 0, used: 0, heads: [] }

/** What a ring needs of a chain to give it back. */
export interface TakenChain {
  /** The index of its first descriptor. */
  readonly head: number
}

/** The device's side of one queue that the driver has enabled. */
export interface Ring {
  readonly size: number
  /** A legacy driver may negotiate while the ring is in use. */
  set features(features: RingFeatures)
  /** Chains taken and not yet given back. */
  readonly inFlight: number
  readonly position: RingPosition
  /** Heads of the chains that `RingStart` named and `pop` has not taken again yet. */
  readonly headsToTake: readonly number[]
  /** Finds the areas again when guest memory has been replaced. To be called before pops and before completions. */
  refresh(): void
  /** The generation of guest memory for which the areas were found. */
  readonly generation: number
  /** Looks for chains that have been made available. True when some wait. @throws VirtqueueError when that cannot be */
  look(): boolean
  /**
   * Takes the next chain that `look` has seen into `chain`. Returns false when there is none. @throws VirtqueueError when ring or chain is
   * broken
   */
  pop(chain: DescriptorChain): boolean
  /** Where descriptors are read from, for whoever reads simple chains straight from there; only little-endian split rings have one. */
  readonly table?: DescriptorTable | undefined
  /** The head of the chain that `pop` would take next; undefined when there is none, or it is for `pop` alone. @throws as `pop` */
  nextHead(): number | undefined
  /** The chain of `nextHead` has been taken. */
  taken(): void
  /** Gives a chain back that has been taken. `length`: bytes that the device has written into it, from its first writable byte on. */
  addUsed(chain: TakenChain, length: number): void
  /** Shows the driver what `addUsed` has collected, if anything. Returns true when the driver wants an interrupt for it. */
  publish(): boolean
  /**
   * Asks for a kick with the next chain; refreshes before that. Returns true when one has come in meanwhile, for which the driver may not
   * kick.
   */
  enableKicks(): boolean
}
