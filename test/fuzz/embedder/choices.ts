/** What an embedder chooses once: the machine, the ring, the kind of disk, and what becomes of errors. */
import type { AttachDiskOptions, MachineOptions } from "../../../src/vmm/machine.ts"
import { F } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { DISK_KINDS, type DiskKind } from "./calling-disk.ts"

/** The type is in the DOM's library only. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => GrowingMemory,
}

export interface GrowingMemory {
  readonly buffer: ArrayBuffer
  grow(pages: number): number
}

const PAGES = 8
export const MAX_PAGES = 16

export interface Choices {
  readonly isPacked: boolean
  readonly hasEventIdx: boolean
  readonly isInOrder: boolean
  readonly disk: DiskKind
  readonly queues: number
  readonly ringSize: number
  /** Memory that grows, and is replaced when it does; undefined where RAM is ours. */
  readonly memory: GrowingMemory | undefined
  /** The machine wants to hear what the device has stored. */
  readonly hasWritten: boolean
  readonly hasObserver: boolean
  readonly hasFlush: boolean
  readonly isThrottled: boolean
  /** Calls of the disk fail now and then. */
  readonly hasErrors: boolean
  readonly readErrors: NonNullable<AttachDiskOptions["readErrors"]>
  readonly writeErrors: NonNullable<AttachDiskOptions["writeErrors"]>
  readonly latency: NonNullable<AttachDiskOptions["latency"]>
  /** How often the embedder does something where it is called. */
  readonly share: number
}

export function drawChoices(rng: Rng): Choices {
  const isPacked = rng.chance(0.5)
  return {
    isPacked, hasEventIdx: rng.chance(0.5), isInOrder: rng.chance(0.3), disk: rng.chance(0.3) ? "into" : rng.pick(DISK_KINDS),
    queues: rng.pick([1, 2]),
    ringSize: isPacked ? rng.pick([13, 32]) : 32,
    memory: rng.chance(0.4) ? new WebAssembly.Memory({ initial: PAGES, maximum: MAX_PAGES }) : undefined,
    hasWritten: rng.chance(0.2), hasObserver: rng.chance(0.4), hasFlush: rng.chance(0.6), isThrottled: rng.chance(0.3),
    hasErrors: rng.chance(0.5), readErrors: rng.pick(["report", "ignore", "stop"] as const),
    writeErrors: rng.pick(["report", "ignore", "stop", "enospc"] as const), latency: rng.pick(["off", "sampled", "all"] as const),
    share: rng.pick([0.05, 0.3, 0.5]),
  }
}

export function ramOf({ memory }: Choices): MachineOptions {
  return memory === undefined ? { ramSize: PAGES << 16 } : { memory }
}

/** What the guest accepts. */
export function featuresOf({ hasFlush, hasEventIdx, isInOrder, queues }: Choices): number[] {
  return [
    F.INDIRECT_DESC, F.WRITE_ZEROES, F.DISCARD, F.RING_RESET, ...(hasFlush ? [F.FLUSH] : []), ...(hasEventIdx ? [F.EVENT_IDX] : []),
    ...(isInOrder ? [F.IN_ORDER] : []), ...(queues > 1 ? [F.MQ] : []),
  ]
}
