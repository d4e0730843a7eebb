/** Options of what is done to a disk while its guest runs, and a change of its size. */
import { BackingError, checkNewSize, type VirtioBacking, type Zones } from "../../backing/backing.ts"
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import type { VirtioDevice } from "../device.ts"
import { checkNoneHalfDone } from "./zoned/half-done.ts"

/** Options of `VirtioBlk.changeBacking`. */
export interface ChangeBackingOptions {
  /**
   * True: the change takes place before the call returns. Requests in flight are done again on the new disk, and nobody waits for the old
   * one, which may be dead; make sure that a write that it still does cannot reach what the new disk stands on. On a zoned disk an append
   * that the old one has done without an answer is then done twice. Default false: requests in flight end on the old disk, which is then
   * flushed.
   */
  readonly atOnce?: boolean
}

export const CHANGE_BACKING_RULES: Rules<ChangeBackingOptions> = { atOnce: "boolean?" }

/**
 * Makes a change of what requests are judged by, while none is in flight: those that have been taken and not begun, because a throttle, a
 * stopped disk or bus mastering holds them up, are taken again and judged by it.
 * @throws Error when a write to a zone is half done
 */
export function changeLimits(device: VirtioDevice, zones: Zones | undefined, act: () => void): void {
  checkNoneHalfDone(device, zones)
  if (device.queues.some((queue) => device.chains(queue).length > 0)) void device.takeAgain(act, { anew: false })
  else act()
}

/** Options of `VirtioBlk.resize`. */
export interface ResizeOptions {
  /** Allows a smaller size: what is cut off is lost. Default false. */
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
 * @throws BackingError (as a rejection) `unsupported` for one that keeps its size; `invalid-argument` for a smaller size that `shrink` does
 * not allow; what its `resize` throws
 */
export async function resizeBacking(backing: VirtioBacking, size: number, options: ResizeOptions): Promise<void> {
  if (backing.resize === undefined) throw new BackingError("unsupported", "the backing of this disk cannot change its size")
  checkNewSize({ before: backing.size, size, shrink: options.shrink ?? false })
  await backing.resize(size, options)
}
