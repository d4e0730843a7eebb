/** DeviceHandler: what a device type (virtio-blk) does, as the device that it is behind asks it to. */
import type { Ring, TakenChain } from "./queue/ring.ts"
import type { RestoreOptions } from "./state.ts"
import type { Turn } from "./turn.ts"
import type { Virtqueue } from "./virtqueue.ts"

/** What a device type does with what comes from the guest. `VirtioDevice` calls it. */
export interface DeviceHandler {
  /** Requests have been taken from a queue, whose life has not ended, and wait for the next turn. */
  readonly unfinished: boolean
  /** Goes on with what is unfinished. Returns false when it still is unfinished, but waits for memory rather than for the next turn. */
  finish(turn: Turn): boolean
  /**
   * Serves `queue`, whose ring is `ring`; nothing is unfinished. Returns true when there is more to do. @throws VirtqueueError when the
   * driver has broken the ring
   */
  serve(queue: Virtqueue, ring: Ring, turn: Turn): boolean
  /** What kept the device from its work may be over: requests that have been taken, and wait for that alone, may go on. */
  mayGoOn?(): void
  /** The chains of `queue` that are unfinished. */
  chains(queue: Virtqueue): readonly TakenChain[]
  /** The end of a turn for which `Work.awaitEnd` has asked. May throw what is somebody's bug rather than the guest's affair. */
  turnEnded(): void
  /** The driver has written a byte of the configuration space, inside of it. */
  writeConfigByte(offset: number, value: number): void
  /** The features are settled: FEATURES_OK has been set, or DRIVER_OK by a legacy driver, which knows no FEATURES_OK. */
  negotiated(): void
  /** The device has been reset. */
  wasReset(): void
  /** The state of the device type's own, as JSON values; left out: there is none but in the configuration. */
  saveState?(): unknown
  /**
   * Checks what `saveState` has returned (undefined: nothing), before anything is restored. Returns what takes it over once the driver's
   * part is back. @throws Error for what cannot be restored here
   */
  restoreState?(saved: unknown, options: RestoreOptions): () => void
  /** The state of a device with this configuration has been restored: take over what the driver can write, tell it what has changed. */
  restoreConfig(config: Uint8Array): void
}
