/** StatusCommand: NBD_CMD_BLOCK_STATUS in the context base:allocation, from the disk's `allocation`. */
import type { Allocation } from "../../backing.ts"
import { NBD_CMD_FLAG, NBD_STATE } from "../protocol.ts"
import type { Request, StatusExtent } from "../transmission-messages.ts"
import type { Client, Command } from "./command.ts"
import { allocationOf, isLater } from "./disk-calls.ts"
import { statusChunk } from "./replies.ts"

/** The number by which clients know base:allocation. */
export const ALLOCATION_CONTEXT_ID = 1
/** Maximum of extents in one reply, 64 KiB. The client asks again for the rest. */
const MOST_EXTENTS = 8192
/** Maximum of milliseconds for querying a synchronous disk. */
const LOOK_MS = 2
/** Maximum of queries to an asynchronous disk. */
const MOST_QUESTIONS = 64

export class StatusCommand implements Command {
  readonly request: Request
  readonly filling = 0
  readonly #client: Client
  readonly #extents: { length: number; readonly flags: number }[] = []
  #covered = 0
  #questions = 0
  /** Whether to query no more: the range is complete, or a limit is reached. */
  #isOver = false

  constructor(client: Client, request: Request) {
    this.#client = client
    this.request = request
  }

  start(): void | Promise<void> {
    const end = performance.now() + LOOK_MS
    while (!this.#isOver) {
      const answer = allocationOf(this.#client.backing, this.request.offset + this.#covered, this.request.length - this.#covered)
      if (isLater(answer)) {
        if (++this.#questions === MOST_QUESTIONS) this.#isOver = true
        return answer.then((allocation) => this.#add(allocation))
      }
      this.#add(answer)
      if (performance.now() >= end) this.#isOver = true
    }
  }

  finish(): boolean {
    if (!this.#isOver) return false
    this.#client.send(statusChunk(this.request, ALLOCATION_CONTEXT_ID, this.#extents))
    return true
  }

  abandon(): void {}

  #add({ length, isAllocated, isZero }: Allocation): void {
    const left = this.request.length - this.#covered
    if (!Number.isSafeInteger(length) || length <= 0) throw new TypeError(`allocation of the backing returned a length of ${length}`)
    const extent: StatusExtent = {
      length: Math.min(length, left), flags: (isAllocated ? 0 : NBD_STATE.HOLE) | (isZero ? NBD_STATE.ZERO : 0),
    }
    const last = this.#extents.at(-1)
    const wantsOne = (this.request.flags & NBD_CMD_FLAG.REQ_ONE) !== 0
    if (last?.flags === extent.flags) last.length += extent.length
    else if (last !== undefined && (wantsOne || this.#extents.length === MOST_EXTENTS)) this.#isOver = true
    else this.#extents.push({ ...extent })
    this.#covered += extent.length
    if (this.#covered === this.request.length) this.#isOver = true
  }
}
