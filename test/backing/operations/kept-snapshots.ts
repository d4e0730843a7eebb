/** Internal snapshots of the top of a chain, and what each of them shows. */
import { expect } from "vitest"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import type { Chain } from "./chains.ts"
import type { FlatModel } from "../../support/flat-model.ts"
import { modelOf } from "../../support/images.ts"
import { applyOperation, randomOperation } from "../../support/random-operations.ts"
import type { Rng } from "../../support/rng.ts"

/** By id. */
export type Kept = ReadonlyMap<string, FlatModel>

/** Takes some snapshots of the top, with writes in between and after. */
export function takeSnapshots(rng: Rng, chain: Chain): Kept {
  const image = chain.openTop()
  const kept = new Map<string, FlatModel>()
  for (let count = rng.between(1, 3); count > 0; count--) {
    change(rng, image)
    const vmState = rng.chance(0.3) ? rng.bytes(5000) : undefined
    const { id } = image.snapshots.create({ name: `s${count}`, ...(vmState === undefined ? {} : { vmState }) })
    kept.set(id, modelOf(image))
    if (rng.chance(0.3) && image.header.version === 3) image.resize(image.size + 512 * rng.between(1, 100))
  }
  change(rng, image)
  image.close()
  return kept
}

export function change(rng: Rng, image: Qcow2Image): void {
  const model = modelOf(image)
  for (let count = rng.between(1, 5); count > 0; count--) {
    applyOperation(image, model, randomOperation(rng, { size: image.size, longest: 20_000 }), "anything")
  }
}

export function expectKept(image: Qcow2Image, kept: Kept): void {
  expect(image.snapshots.list().map(({ id }) => id)).toEqual([...kept.keys()])
  for (const [id, model] of kept) {
    const view = image.snapshots.open(id)
    expect(view.size).toBe(model.size)
    expect(model.firstDifferenceOf(view), `snapshot ${id}`).toBe(-1)
    view.close()
  }
}
