/** The options and results of `BlockDriver`, except those of requests. */
import { checkCount, checkOptions, type Rules } from "../../../options.ts"
import type { PciDevice } from "../pci/device.ts"
import type { VirtioBus } from "../virtio/bus.ts"
import { checkDevice } from "../virtio/options.ts"
import { BLOCK_ENGINE_RULES, type BlockEngineOptions } from "./engine.ts"
import { type BlockFraming, checkFraming } from "./framing.ts"
import { REQUEST_RULES, type RequestOptions } from "./sender.ts"
import { SECTOR_SIZE } from "./spec.ts"

/** Options of `BlockDriver.open`. */
export interface BlockDriverOptions extends BlockEngineOptions {
  /** How requests are framed unless they say otherwise. */
  readonly framing?: BlockFraming
  /** The largest read or write request, in bytes; longer ones are split. Default 1 MiB, or less where the device takes less. */
  readonly maxRequestBytes?: number
  /** Requests in flight for one long read or write. Default 8. */
  readonly depth?: number
  /** The used length must cover the data. Default: true for modern devices; some legacy devices put odd values there. */
  readonly strictUsedLength?: boolean
}

/** Options of `BlockDriver.writeZeroes`. */
export interface WriteZeroesOptions extends RequestOptions {
  /** The device may free the space. Default false. */
  readonly unmap?: boolean
}

const BLOCK_DRIVER_RULES: Rules<BlockDriverOptions> = {
  ...BLOCK_ENGINE_RULES, framing: "object?", maxRequestBytes: "number?", depth: "number?", strictUsedLength: "boolean?",
}
export const WRITE_ZEROES_RULES: Rules<WriteZeroesOptions> = { ...REQUEST_RULES, unmap: "boolean?" }

/** Device lifetime estimates, [VIRTIO] 5.2.6. */
export interface BlockLifetime {
  readonly preEolInfo: number
  readonly typeA: number
  readonly typeB: number
}

/** @throws TypeError for what is not an option, RangeError for a number out of its range */
export function checkDriverOptions(who: string, device: PciDevice | VirtioBus, options: BlockDriverOptions): void {
  checkDevice(who, device)
  checkOptions(who, options, BLOCK_DRIVER_RULES)
  if (options.framing !== undefined) checkFraming(who, options.framing)
  checkCount(who, "queues", options.queues, 1)
  checkCount(who, "maxRequestBytes", options.maxRequestBytes, SECTOR_SIZE)
  checkCount(who, "depth", options.depth, 1)
  checkCount(who, "watchInterval", options.watchInterval, 1)
}
