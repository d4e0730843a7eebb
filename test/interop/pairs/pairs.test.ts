/**
 * Every two features of a qcow2 image in one image, made, changed, checked and read by QEMU and by us in turn. What each feature does alone
 * is shown in its own tests; here they meet.
 */
import { describe } from "vitest"
import { itWithQemu } from "../../support/qemu.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { FEATURES, PairImage } from "./pair-image.ts"

const seed = seedFromEnvironment(20_261_126)

const pairs = FEATURES.flatMap((first, index) =>
  FEATURES.slice(index + 1)
    .filter((second) => first.without?.includes(second.name) !== true && second.without?.includes(first.name) !== true)
    .map((second) => [first, second] as const))

describe(`pairs of features, seed ${seed}`, () => {
  for (const [index, pair] of pairs.entries()) {
    itWithQemu(`${pair[0].name} with ${pair[1].name}`, () => {
      const image = new PairImage(pair, new Rng(seed + index))
      image.make(index % 3 !== 0)
      for (let turn = 0; turn < 3; turn++) {
        if ((index + turn) % 2 === 0) image.changeByUs()
        else image.changeByQemu()
        pair[turn]?.use?.(image)
        image.verify(`turn ${turn}`)
      }
      for (const feature of pair) feature.check?.(image)
    }, 120_000) // A key is derived at each opening.
  }
})
