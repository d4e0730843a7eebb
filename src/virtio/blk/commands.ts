/** Commands: requests that are neither transfers nor ranges, each done by one call on the backing. */
import type { Lifetime, VirtioBacking, Zones } from "../../backing/backing.ts"
import { isThenable, refusePromise } from "./answers.ts"
import type { BlkRequest } from "./request.ts"
import { LIFETIME_SIZE, MAX_LIFETIME_EST, MAX_PRE_EOL_INFO, SECTOR_SIZE, VIRTIO_BLK_T } from "./spec.ts"
import { appendSector, isZoneRequest, manageZones, zoneReport } from "./zoned/requests.ts"

const { GET_LIFETIME, ZONE_APPEND, ZONE_REPORT } = VIRTIO_BLK_T

/** The total of a command, which has no bytes to count. */
export const COMMAND_TOTAL = 1

/** Whether `type` is a command. */
export function isCommand(type: number): boolean {
  return type === GET_LIFETIME || isZoneRequest(type)
}

export class Commands {
  readonly #disk: { readonly backing: VirtioBacking }

  /** The backing of `disk` may be replaced. */
  constructor(disk: { readonly backing: VirtioBacking }) {
    this.#disk = disk
  }

  /** Executes the command, and puts the data for the guest into `request.answer`. Returns a promise if the backing answers later. */
  run(request: BlkRequest): PromiseLike<void> | undefined {
    request.slice = COMMAND_TOTAL
    const { backing } = this.#disk
    if (request.type === GET_LIFETIME) return lifetime(request, backing)
    return backing.zones === undefined ? undefined : doZones(request, backing, backing.zones)
  }
}

function lifetime(request: BlkRequest, backing: VirtioBacking): PromiseLike<void> | undefined {
  const answer = backing.lifetime?.()
  if (answer === undefined) throw new TypeError("the backing's lifetime returned nothing: it must return a Lifetime")
  return take(backing, answer, "lifetime", (value) => {
    request.answer = lifetimeBytes(request, value)
  })
}

function doZones(request: BlkRequest, backing: VirtioBacking, zones: Zones): PromiseLike<void> | undefined {
  switch (request.type) {
    case ZONE_REPORT:
      request.answer = zoneReport(request, zones)
      return undefined
    case ZONE_APPEND:
      return append(request, backing, zones)
    default:
      return take<void>(backing, manageZones(request, zones), "zones", () => {})
  }
}

function append(request: BlkRequest, backing: VirtioBacking, zones: Zones): PromiseLike<void> | undefined {
  const views = Array.from(
    { length: request.count },
    (_, index) => request.region(index).viewAt(request.offset(index), request.length(index)),
  )
  // Only a synchronous backing may get views of guest RAM.
  const buffers = backing.asynchronous === true ? views.map((view) => view.slice()) : views
  return take<unknown>(backing, zones.append(buffers, request.sector * SECTOR_SIZE), "append", (offset) => {
    request.answer = appendSector(request, offset)
  })
}

/** Calls `use` with the answer of the backing's `method`, now or later. (The device may have another backing since the call.) */
function take<T>(
  backing: VirtioBacking, answer: T | PromiseLike<T>, method: string, use: (value: T) => void,
): PromiseLike<void> | undefined {
  if (backing.asynchronous !== true) refusePromise(answer, method)
  if (isThenable(answer)) return answer.then(use)
  use(answer)
  return undefined
}

/** [VIRTIO] 5.2.6: struct virtio_blk_lifetime. @throws TypeError for a reserved value, which the guest must not see */
function lifetimeBytes(request: BlkRequest, { preEolInfo, typeA, typeB }: Lifetime): Uint8Array {
  const bytes = new Uint8Array(LIFETIME_SIZE)
  const numbers = request.numbers(bytes)
  const put = (at: number, name: string, value: number, max: number): void => {
    if (!Number.isInteger(value) || value < 0 || value > max) {
      throw new TypeError(`the backing's lifetime returned ${name}: ${String(value)}, which is not a number from 0 to ${max}`)
    }
    numbers.setUint16(at, value, true)
  }
  put(0, "preEolInfo", preEolInfo, MAX_PRE_EOL_INFO)
  put(2, "typeA", typeA, MAX_LIFETIME_EST)
  put(4, "typeB", typeB, MAX_LIFETIME_EST)
  return bytes
}
