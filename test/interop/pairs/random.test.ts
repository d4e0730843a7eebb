/**
 * Images with two to four features at once, used by QEMU and by us in turns drawn at random: writes, snapshots that come, go and are gone
 * back to, sizes, compressed clusters, a bitmap. After each turn both read what they must, and find nothing wrong.
 */
import { describe } from "vitest"
import { itWithQemu } from "../../support/qemu.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { addBitmap, checkBitmap, type Feature, FEATURES, PairImage, resize, writeCompressed } from "./pair-image.ts"

const seed = seedFromEnvironment(31_337)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)
const TURNS = 7

function someFeatures(rng: Rng): Feature[] {
  const chosen: Feature[] = []
  const wanted = rng.between(2, 4)
  for (const feature of rng.shuffle([...FEATURES])) {
    const excludes = (one: Feature, other: Feature): boolean => one.without?.includes(other.name) === true
    if (chosen.length < wanted && !chosen.some((other) => excludes(feature, other) || excludes(other, feature))) chosen.push(feature)
  }
  return chosen
}

/** One turn. Returns what it was. */
function takeTurn(image: PairImage): string {
  const { rng, kept } = image
  const actions: (() => string)[] = [
    () => (image.changeByUs(), "writes by us"), () => (image.changeByQemu(), "writes by QEMU"),
  ]
  if (image.has("snapshots")) {
    actions.push(() => takeSnapshot(image))
    if (kept.size > 0) {
      actions.push(() => goBack(image, rng.pick([...kept.keys()])), () => deleteSnapshot(image, rng.pick([...kept.keys()])))
    }
  }
  if (image.has("another size")) actions.push(() => (resize(image, 512 * rng.between(1, 3000)), "another size"))
  if (image.has("compressed clusters") || image.has("zstd")) actions.push(() => (writeCompressed(image), "compressed clusters"))
  if (image.has("a dirty bitmap") && image.before === undefined) actions.push(() => (addBitmap(image), "a bitmap"))
  return rng.pick(actions)()
}

function takeSnapshot(image: PairImage): string {
  const name = `s${image.rng.u32()}`
  image.either((disk) => void disk.snapshots.create({ name }), "snapshot", "-c", name)
  image.kept.set(name, image.model.clone())
  return "a snapshot"
}

function goBack(image: PairImage, name: string): string {
  const content = image.kept.get(name) ?? image.model
  if (content.size !== image.model.size) {
    const disk = image.open()
    disk.snapshots.apply(name)
    disk.close()
  } else image.either((disk) => disk.snapshots.apply(name), "snapshot", "-a", name)
  image.model = content.clone()
  image.leastSize = Math.min(image.leastSize, content.size)
  return "back to a snapshot"
}

function deleteSnapshot(image: PairImage, name: string): string {
  image.either((disk) => disk.snapshots.delete(name), "snapshot", "-d", name)
  image.kept.delete(name)
  return "a snapshot less"
}

describe(`features in turns drawn at random, seed ${seed}`, () => {
  for (let round = 0; round < ROUNDS; round++) {
    const features = someFeatures(new Rng(seed + round))
    itWithQemu(`seed ${seed + round}: ${features.map(({ name }) => name).join(", ")}`, () => {
      const image = new PairImage(features, new Rng(seed + round))
      image.make(round % 2 === 0)
      const turns: string[] = []
      for (let turn = 0; turn < TURNS; turn++) {
        turns.push(takeTurn(image))
        image.verify(turns.join("; "))
      }
      if (image.before !== undefined) checkBitmap(image)
    }, 180_000)
  }
})
