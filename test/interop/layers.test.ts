/**
 * commit, rebase and stream beside QEMU's: the same chains of two to four layers, and both programs read and check what the other has made.
 */
import { copyFileSync, mkdirSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { openImage } from "../../src/backing/open.ts"
import { commitImage } from "../../src/backing/operations/commit-image.ts"
import { rebaseImage } from "../../src/backing/operations/rebase-image.ts"
import { streamDisk } from "../../src/backing/operations/stream.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { Chain, layerName } from "../backing/operations/chains.ts"
import { FlatModel } from "../support/flat-model.ts"
import { itWithQemu, qemuCheck, qemuImg } from "../support/qemu.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const seed = seedFromEnvironment(1001)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)

/** The chain as files, twice: one set for us, and one for QEMU. */
function saved(chain: Chain): readonly [string, string] {
  const folder = temporaryDirectory()
  const [ours, theirs] = [join(folder, "ours"), join(folder, "theirs")]
  for (const each of [ours, theirs]) mkdirSync(each)
  chain.layers.forEach(({ file }, index) => file.save(join(ours, layerName(index))))
  for (const name of readdirSync(ours)) copyFileSync(join(ours, name), join(theirs, name))
  return [ours, theirs]
}

/** QEMU finds both disks the same, and nothing wrong with either; we read QEMU's as it must be. */
function expectSame(ours: string, theirs: string, format: "raw" | "qcow2", model: FlatModel): void {
  expect(qemuImg("compare", "-f", format, "-F", format, ours, theirs)).toMatch(/identical/)
  for (const path of [ours, theirs]) {
    if (format === "qcow2") expect(qemuCheck(path).exitCode).toBe(0)
    const image = openImage(path, { format, readOnly: true })
    expect(model.firstDifferenceOf(image)).toBe(-1)
    image.close()
  }
}

describe.each(Array.from({ length: ROUNDS }, (_, round) => seed + round))("chains beside QEMU (seed %i)", (own) => {
  itWithQemu("QC-BF-01 QC-BF-02 a commit has the result of qemu-img commit", async () => {
    const rng = new Rng(own)
    const layers = 2 + (own % 3)
    const base = rng.chance(0.5) ? layers - 2 : 0
    let chain = Chain.random(rng, { layers, sizes: [16, 400] })
    // QEMU cannot make an image of version 2 larger that has a backing file.
    while (base > 0 && chain.model(base).size < chain.model().size) chain = Chain.random(rng, { layers, sizes: [16, 400] })
    const before = chain.model()
    const old = chain.model(base)
    const model = FlatModel.of(old.read(0, old.size), Math.max(old.size, before.size))
    model.write(before.read(0, before.size), 0)
    const [ours, theirs] = saved(chain)
    const isNext = base === chain.top - 1
    const named = isNext ? [] : ["-b", join(theirs, layerName(base))]
    await commitImage(join(ours, layerName(chain.top)), isNext ? {} : { base: join(ours, layerName(base)) })
    qemuImg("commit", "-q", ...named, join(theirs, layerName(chain.top)))
    const format = chain.layers[base]?.format ?? "raw"
    expectSame(join(ours, layerName(base)), join(theirs, layerName(base)), format, model)
    if (isNext) expectSame(join(ours, layerName(chain.top)), join(theirs, layerName(chain.top)), "qcow2", before)
  })

  itWithQemu("QC-BF-01 QC-BF-03 a rebase has the result of qemu-img rebase", async () => {
    const rng = new Rng(own + 100)
    const chain = Chain.random(rng, { layers: 2 + (own % 3), sizes: [16, 400] })
    const other = Chain.random(rng, { layers: 1, sizes: [16, 600] })
    const model = chain.model()
    const [ours, theirs] = saved(chain)
    const format = other.layers[0]?.format ?? "raw"
    for (const folder of [ours, theirs]) other.layers[0]?.file.save(join(folder, "other"))
    const toNone = rng.chance(0.3)
    const toBase = !toNone && rng.chance(0.3)
    const [name, nameFormat] = toBase ? ["layer0", chain.layers[0]?.format ?? "raw"] as const : ["other", format] as const
    await rebaseImage(join(ours, layerName(chain.top)), toNone ? {} : { backing: name, backingFormat: nameFormat })
    qemuImg("rebase", "-q", ...(toNone ? ["-b", ""] : ["-b", name, "-F", nameFormat]), join(theirs, layerName(chain.top)))
    expectSame(join(ours, layerName(chain.top)), join(theirs, layerName(chain.top)), "qcow2", model)
    const facts = (folder: string): unknown => {
      const found = JSON.parse(qemuImg("info", "--output=json", join(folder, layerName(chain.top))))
      return [found["backing-filename"], found["backing-filename-format"]]
    }
    expect(facts(ours)).toEqual(facts(theirs))
  })

  itWithQemu("QC-BF-06 QEMU reads the image after a stream, and its backing files have not changed", async () => {
    const rng = new Rng(own + 200)
    const chain = Chain.random(rng, { layers: 2 + (own % 3), sizes: [16, 400] })
    const model = chain.model()
    const [ours, theirs] = saved(chain)
    const path = join(ours, layerName(chain.top))
    const image = openImage(path)
    if (!(image instanceof Qcow2Image)) throw new Error("the top is a raw image")
    const hasBase = chain.top > 1 && rng.chance(0.5)
    await streamDisk(image, hasBase ? { base: join(ours, layerName(0)) } : {})
    image.close()
    expectSame(path, join(theirs, layerName(chain.top)), "qcow2", model)
    expect(JSON.parse(qemuImg("info", "--output=json", path))["backing-filename"]).toBe(hasBase ? layerName(0) : undefined)
    for (let index = 0; index < chain.top; index++) {
      const format = chain.layers[index]?.format ?? "raw"
      expectSame(join(ours, layerName(index)), join(theirs, layerName(index)), format, chain.model(index))
    }
  })
})
