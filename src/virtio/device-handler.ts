/** DeviceHandler: the part of a device that its type (virtio-blk) implements. */
import type { Ring, TakenChain } from "./queue/ring.ts"
import type { RestoreOptions } from "./state.ts"
import type { Turn } from "./turn.ts"
import type { Virtqueue } from "./virtqueue.ts"

/** Implemented by a device type; `VirtioDevice` calls it. */
export interface DeviceHandler {
  /** Whether requests have been taken from a queue, which was not reset since, and wait for the next turn. */
  readonly unfinished: boolean
  /** Continues unfinished requests. Returns false if they are still unfinished but wait for memory rather than for the next turn. */
  finish(turn: Turn): boolean
  /**
   * Serves `queue`, whose ring is `ring`. Called when nothing is unfinished. Returns true when there is more to do.
   * @throws VirtqueueError when the driver has broken the ring
   */
  serve(queue: Virtqueue, ring: Ring, turn: Turn): boolean
  /** An obstacle to the device's work may have gone: continues requests that wait for nothing else. */
  mayGoOn?(): void
  /** The chains of `queue` that are unfinished. */
  chains(queue: Virtqueue): readonly TakenChain[]
  /** Called at the end of a turn, if `Work.awaitEnd` has asked for it. May throw errors that are bugs of the host. */
  turnEnded(): void
  /** The driver has written a byte of the configuration space. */
  writeConfigByte(offset: number, value: number): void
  /** Negotiation is complete: FEATURES_OK has been set, or DRIVER_OK by a legacy driver, which has no FEATURES_OK. */
  negotiated(): void
  /** The device has been reset. */
  wasReset(): void
  /** The state of the device type, as JSON values. Left out if the configuration space contains all of it. */
  saveState?(): unknown
  /**
   * Checks a result of `saveState` (undefined if there was none) before anything is restored. Returns a function to call after the driver's
   * part is restored. @throws Error for a state that does not fit this device
   */
  restoreState?(saved: unknown, options: RestoreOptions): () => void
  /** A state with this configuration space has been restored: adopts the fields that the driver can write, and announces other changes. */
  restoreConfig(config: Uint8Array): void
}
