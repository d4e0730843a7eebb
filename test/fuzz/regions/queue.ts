/** What a driver of the regions fuzzer knows of one of its queues: which chains are in flight, and what it was promised. */
import { PackedRing } from "../../harness/packed-ring.ts"
import type { Ring, Used } from "../../harness/ring.ts"
import { EVENT, OK, T } from "../../harness/words.ts"
import type { DrawnRequest } from "./requests.ts"

/** What a chain promises. */
export interface Promised {
  /** Descriptors of the ring that it takes up. */
  readonly descriptors: number
  /** What is wrong with its used length; undefined if nothing is. */
  problem(length: number): string | undefined
}

export interface Queue {
  readonly ring: Ring
  /** Whether so many descriptors are free: which ones the device has returned is known at the end of a step. */
  hasRoom(descriptors: number): boolean
  publish(head: number, promised: Promised): void
  /** The device is about to be told of all that is available. */
  kicked(): void
  /** It has been told of requests that it has not returned. */
  readonly isOwed: boolean
  /** In this step: asks for an interrupt with the next chain that comes back; or for what `flags` and `event` say. */
  want(how: "each" | { readonly flags: number; readonly event: number }, hasEventIdx: boolean): void
  take(): readonly Used[]
  /** The step is over, in which these queues have interrupted: what was wrong with what `take` has taken. */
  problem(irqs: readonly number[]): string | undefined
}

class DrivenQueue implements Queue {
  readonly ring: Ring
  /** By their heads. */
  readonly #inFlight = new Map<number, Promised>()
  #sent = 0
  #toldOf = 0
  #returned = 0
  /** Chains that have come back in this step, in which an interrupt is wanted with the first of them. */
  #silent = 0
  #wantsEach = false
  #problem: string | undefined

  constructor(ring: Ring) {
    this.ring = ring
  }

  hasRoom(descriptors: number): boolean {
    return [...this.#inFlight.values()].reduce((sum, one) => sum + one.descriptors, descriptors) <= this.ring.size
  }

  publish(head: number, promised: Promised): void {
    this.ring.publish(head)
    this.#inFlight.set(head, promised)
    this.#sent++
  }

  kicked(): void {
    this.#toldOf = this.#sent
  }

  get isOwed(): boolean {
    const { ring } = this
    return this.#returned + ((ring.usedIdx - ring.lastUsed) & 0xffff) < this.#toldOf
  }

  want(how: "each" | { readonly flags: number; readonly event: number }, hasEventIdx: boolean): void {
    const { ring } = this
    this.#wantsEach = how === "each"
    if (how === "each") {
      if (!(ring instanceof PackedRing)) {
        ring.availFlags = 0
        ring.usedEvent = ring.lastUsed
      } else ring.setEvents(hasEventIdx ? EVENT.DESC : EVENT.ENABLE, ring.device.word)
    } else if (ring instanceof PackedRing) ring.setEvents(how.flags, how.event)
    else {
      ring.availFlags = how.flags & 1
      ring.usedEvent = how.event
    }
  }

  take(): readonly Used[] {
    const all = this.ring.takeUsed()
    for (const { id, length } of all) {
      const one = this.#inFlight.get(id)
      this.#problem ??= one === undefined ? `queue ${this.ring.index} returned ${id}, which is not in flight` : one.problem(length)
      this.#inFlight.delete(id)
    }
    this.#returned += all.length
    if (this.#wantsEach) this.#silent += all.length
    return all
  }

  problem(irqs: readonly number[]): string | undefined {
    const silent = this.#silent
    this.#silent = 0
    this.#wantsEach = false
    if (silent === 0 || irqs.includes(this.ring.index)) return this.#problem
    return this.#problem ?? `queue ${this.ring.index} returned ${silent} chains without an interrupt`
  }
}

/** With nothing in flight. */
export function queueOf(ring: Ring): Queue {
  return new DrivenQueue(ring)
}

/** `byteAt`: what RAM holds. The used length counts bytes that were written, from the first writable one on ([VIRTIO] 2.7.8.2). */
export function promisedBy({ type, pieces, table }: DrawnRequest, byteAt: (address: number) => number): Promised {
  const writable = pieces.filter((piece) => piece.writable && piece.length > 0)
  const bytes = writable.reduce((sum, { length }) => sum + length, 0)
  const last = writable.at(-1)
  const problem = (length: number): string | undefined => {
    const status = last === undefined ? NaN : byteAt(Number(last.address) + last.length - 1)
    const isRight = status !== OK ? length === (bytes === 1 ? 1 : 0) : type === T.IN ? length === bytes : length <= bytes
    return isRight ? undefined : `used length ${length} of a request of type ${type} with ${bytes} writable bytes, status ${status}`
  }
  return { descriptors: table === undefined ? pieces.length : 1, problem }
}
