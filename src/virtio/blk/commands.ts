/** Commands: requests that are neither transfers nor ranges, each done by one call on the backing. */
import type { Lifetime, VirtioBacking, Zones } from "../../backing/backing.ts"
import { isThenable, refusePromise } from "./answers.ts"
import type { BlkRequest } from "./request.ts"
import { LIFETIME_SIZE, MAX_LIFETIME_EST, MAX_PRE_EOL_INFO, SECTOR_SIZE, VIRTIO_BLK_T } from "./spec.ts"
import { appendSector, isZoneRequest, manageZones, zoneReport } from "./zoned/requests.ts"

const { GET_LIFETIME, ZONE_APPEND, ZONE_REPORT } = VIRTIO_BLK_T

/** What counts as the whole of a command, in place of bytes. */
export const COMMAND_TOTAL = 1

/** Whether `type` is that of a command. */
export function isCommand(type: number): boolean {
  return type === GET_LIFETIME || isZoneRequest(type)
}

export class Commands {
  readonly #disk: { readonly backing: VirtioBacking }

  /** The backing of `disk` may be replaced. */
  constructor(disk: { readonly backing: VirtioBacking }) {
    this.#disk = disk
  }

  /** Does the command, and leaves in `request.answer` what the guest is told. Returns a promise when the backing answers later. */
  run(request: BlkRequest): PromiseLike<void> | undefined {
    request.slice = COMMAND_TOTAL
    const { zones } = this.#disk.backing
    if (request.type === GET_LIFETIME) return this.#lifetime(request)
    return zones === undefined ? undefined : this.#zones(request, zones)
  }

  #lifetime(request: BlkRequest): PromiseLike<void> | undefined {
    const answer = this.#disk.backing.lifetime?.()
    if (answer === undefined) throw new TypeError("the backing's lifetime returned nothing: it must return a Lifetime")
    return this.#take(answer, "lifetime", (lifetime) => {
      request.answer = lifetimeBytes(request, lifetime)
    })
  }

  #zones(request: BlkRequest, zones: Zones): PromiseLike<void> | undefined {
    switch (request.type) {
      case ZONE_REPORT:
        request.answer = zoneReport(request, zones)
        return undefined
      case ZONE_APPEND:
        return this.#append(request, zones)
      default:
        return this.#take<void>(manageZones(request, zones), "zones", () => {})
    }
  }

  #append(request: BlkRequest, zones: Zones): PromiseLike<void> | undefined {
    const views = Array.from(
      { length: request.count },
      (_, index) => request.region(index).viewAt(request.offset(index), request.length(index)),
    )
    // Views of guest RAM are for a backing that is done with them when it returns.
    const buffers = this.#disk.backing.asynchronous === true ? views.map((view) => view.slice()) : views
    return this.#take<unknown>(zones.append(buffers, request.sector * SECTOR_SIZE), "append", (offset) => {
      request.answer = appendSector(request, offset)
    })
  }

  /** Makes `take` of what the backing's `method` has answered, now or later. */
  #take<T>(answer: T | PromiseLike<T>, method: string, take: (value: T) => void): PromiseLike<void> | undefined {
    if (this.#disk.backing.asynchronous !== true) refusePromise(answer, method)
    if (isThenable(answer)) return answer.then(take)
    take(answer)
    return undefined
  }
}

/** [VIRTIO] 5.2.6: struct virtio_blk_lifetime. @throws TypeError for a value that is reserved: the guest must not see one */
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
