/**
 * Files that answer later and cannot be written any more from some call on: what was flushed before is there, and each byte that was
 * written since is as it was at some moment.
 */
import { FlatModel } from "../../support/flat-model.ts"
import { doLater, guestAction } from "./actions.ts"
import type { Run } from "./run.ts"
import { contentOf } from "./world.ts"

const MOST_STEPS = 30

/** What a disk may hold when nobody knows how much of what was written since a flush has reached it. */
export class Unflushed {
  #flushed: FlatModel
  readonly #changes: { readonly offset: number; readonly data: Uint8Array }[] = []

  constructor(flushed: FlatModel) {
    this.#flushed = flushed.clone()
  }

  /** A change was asked for, which may happen. */
  change(data: Uint8Array, offset: number): void {
    this.#changes.push({ offset, data })
  }

  /** All is on stable storage. */
  flushed(disk: FlatModel): void {
    this.#flushed = disk.clone()
    this.#changes.length = 0
  }

  /** @throws Error at the first byte that never was */
  check(found: Uint8Array): void {
    const before = this.#flushed.read(0, this.#flushed.size)
    if (found.length !== before.length) throw new Error(`the disk has ${found.length} bytes, not ${before.length}`)
    const isKnown = found.map((byte, at) => (byte === before[at] ? 1 : 0))
    for (const { offset, data } of this.#changes) {
      for (let at = 0; at < data.length; at++) if (found[offset + at] === data[at]) isKnown[offset + at] = 1
    }
    const wrong = isKnown.indexOf(0)
    if (wrong >= 0) throw new Error(`after writes that failed byte ${wrong} is ${found[wrong]}, which it never was`)
  }
}

/** Opens the image over files that answer later, and lets one of them fail while a guest writes. The run goes on with what is left. */
export async function failLate(run: Run): Promise<void> {
  const { rng } = run
  if (!run.hasFaults) return
  await run.close()
  await run.open({ late: true })
  await run.guest.flush?.()
  const unflushed = (run.unflushed = new Unflushed(run.expected.disk))
  run.isBusy = true
  run.armLate()
  const { faults } = run
  for (let steps = rng.between(1, MOST_STEPS); steps > 0; steps--) {
    await doLater(guestAction(run))
    // What the log has not sent yet when the next step begins.
    if (rng.chance(0.5)) await new Promise((resolve) => setImmediate(resolve))
    if (run.faults > faults + 3) break
  }
  run.isBusy = false
  run.unflushed = undefined
  await run.closeFailed()
  await run.open({ now: true })
  const found = await contentOf(run.guest)
  unflushed.check(found)
  run.expected.disk = FlatModel.of(found)
  await run.dropBitmaps()
  await run.check("after writes that failed later")
}
