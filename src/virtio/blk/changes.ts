/** Changes of a disk while its guest runs: options, and the change of its size. */
import { BackingError, checkNewSize, type VirtioBacking, type Zones } from "../../backing/backing.ts"
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import type { VirtioDevice } from "../device.ts"
import { checkNoneHalfDone } from "./zoned/half-done.ts"

/** Options of `VirtioBlk.changeBacking`. */
export interface ChangeBackingOptions {
  /**
   * True: the change takes effect before the call returns. Requests in flight are repeated on the new disk, without waiting for the old
   * one, which may be dead. Make sure that a late write of the old disk cannot reach the storage of the new one. On a zoned disk an append
   * may be done twice. Default false: requests in flight end on the old disk, which is then flushed.
   */
  readonly atOnce?: boolean
}

export const CHANGE_BACKING_RULES: Rules<ChangeBackingOptions> = { atOnce: "boolean?" }

/**
 * Calls `act`, which changes the limits that requests are checked by, while none is in flight. Requests that were taken and not begun
 * (because of a throttle, a stopped disk or bus mastering) are taken again and checked by the new limits.
 * @throws Error if a write to a zone is half done
 */
export function changeLimits(device: VirtioDevice, zones: Zones | undefined, act: () => void): void {
  checkNoneHalfDone(device, zones)
  if (device.queues.some((queue) => device.chains(queue).length > 0)) void device.takeAgain(act, { anew: false })
  else act()
}

/** Options of `VirtioBlk.resize`. */
export interface ResizeOptions {
  /** Allows a smaller size, which loses data. Default false. */
  readonly shrink?: boolean
}

const RESIZE_RULES: Rules<ResizeOptions> = { shrink: "boolean?" }

/** @throws TypeError for wrong arguments of `VirtioBlk.resize` */
export function checkResize(size: number, options: ResizeOptions): void {
  checkValue("VirtioBlk.resize", "size", size, "number")
  checkOptions("VirtioBlk.resize", options, RESIZE_RULES)
}

/**
 * Gives the backing another size, in bytes.
 * @throws BackingError (as a rejection) `unsupported` for a backing without `resize`; `invalid-argument` for a smaller size without
 * `shrink`; errors of its `resize`
 */
export async function resizeBacking(backing: VirtioBacking, size: number, options: ResizeOptions): Promise<void> {
  if (backing.resize === undefined) throw new BackingError("unsupported", "the backing of this disk cannot change its size")
  checkNewSize({ before: backing.size, size, shrink: options.shrink ?? false })
  await backing.resize(size, options)
}
