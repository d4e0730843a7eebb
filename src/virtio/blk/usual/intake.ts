/**
 * Intake takes requests from a ring as rows: straight from their descriptors, or by the general walk if the driver's habit makes that more
 * likely to succeed.
 */
import type { GuestMemory } from "../../guest-memory.ts"
import type { Ring, RowRing } from "../../queue/ring.ts"
import type { Turn } from "../../turn.ts"
import type { RequestLimits } from "../request.ts"
import { DESCRIPTOR_WEIGHT } from "../weights.ts"
import type { BlkWiring } from "../wiring.ts"
import { APART as APART_WAY, Habit, USUAL as USUAL_WAY, WALKED as WALKED_WAY } from "./habit.ts"
import { takePacked } from "./packed-request.ts"
import { UsualRequests } from "./requests.ts"
import { takeSplit } from "./split-request.ts"
import { WalkedRequests } from "./walked-requests.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a request, measured).
const [USUAL, WALKED, APART, DESCRIPTOR] = [USUAL_WAY, WALKED_WAY, APART_WAY, DESCRIPTOR_WEIGHT] as const

export class Intake {
  readonly requests = new UsualRequests()
  /** Takes requests whose descriptors are not usual. */
  readonly walked = new WalkedRequests()
  readonly habit = new Habit()
  readonly #disk: RequestLimits
  readonly #device: { readonly changes: number; readonly memory: GuestMemory }
  readonly #executor: BlkWiring["executor"]

  constructor({ device, executor }: BlkWiring, disk: RequestLimits) {
    this.#disk = disk
    this.#device = device
    this.#executor = executor
  }

  /** Takes up to `most` requests that `ring.look` has seen into `requests`, after its `begin`. */
  take(ring: Ring, turn: Turn, most: number): void {
    const { requests, habit } = this
    const { splitRows, packedRows } = ring
    const rows = splitRows ?? packedRows
    if (rows === undefined) return
    if (requests.rowRing !== rows) requests.rowRing = rows
    if (splitRows !== undefined) {
      if (habit.way === USUAL) takeSplit(requests, splitRows, this.#disk, most)
      else requests.beginRows(splitRows.table.region, 0)
    } else if (packedRows !== undefined) {
      if (habit.way === USUAL) takePacked(requests, packedRows, this.#disk, most)
      else requests.beginRows(packedRows.descriptors.region, packedRows.availPlace)
    }
    if (!requests.isWhole || habit.repeats > 0) this.#takeOthers(rows, turn, most)
  }

  /** Takes the requests after the usual ones by the general walk, as long as they make rows and rows can be served. */
  #takeOthers(ring: RowRing, turn: Turn, most: number): void {
    const { requests, walked, habit } = this
    const isSurprise = requests.count === 0
    if (!isSurprise) habit.forget()
    if (requests.isWhole) return
    if (habit.way !== APART && this.mayServeRows()) {
      const { changes } = this.#device
      walked.take(requests, ring, this.#disk, most)
      // The walk calls `GuestMemory.region`, the embedder's code. If that changed the device, the batch checks if the ring is still in use.
      if (this.#device.changes !== changes) requests.isWhole = false
      turn.spend(DESCRIPTOR * walked.descriptors, 0)
    }
    if (isSurprise) habit.surprise(requests.count > 0 ? WALKED : APART)
  }

  /** Whether the disk answers at once, and guest memory does not track writes. */
  mayServeRows(): boolean {
    return this.#executor.backing.asynchronous !== true && this.#device.memory.written === undefined
  }
}
