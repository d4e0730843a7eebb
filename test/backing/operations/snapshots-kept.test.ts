/** Commit, rebase and stream of images that have internal snapshots: these go on showing what they did. */
import { describe, expect, it } from "vitest"
import { commitLayers } from "../../../src/backing/operations/commit.ts"
import { rebaseLayers } from "../../../src/backing/operations/rebase.ts"
import { streamDisk } from "../../../src/backing/operations/stream.ts"
import { layersOf } from "../../../src/backing/qcow2/layers/layer-run.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { Chain, fails, layerName } from "./chains.ts"
import { change, expectKept, type Kept, takeSnapshots } from "./kept-snapshots.ts"
import { FailingFile } from "../../support/failing-file.ts"
import type { FlatModel } from "../../support/flat-model.ts"
import { modelOf, openInMemory } from "../../support/images.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(801)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)

/** Shapes of the top image. */
const TOPS = [
  { clusterSize: 512, compat: "1.1" }, { clusterSize: 4096, compat: "0.10" }, { clusterSize: 16384, compat: "1.1", extendedL2: true },
  { clusterSize: 4096, compat: "1.1" },
] as const

/** A chain whose top has snapshots, and what each of these shows. */
function randomChain(rng: Rng, layers: number, top: (typeof TOPS)[number]): { chain: Chain; kept: Kept } {
  const chain = Chain.random(rng, { layers, sizes: [100, 500], top })
  return { chain, kept: takeSnapshots(rng, chain) }
}

/** The top as the next opening finds it. */
function reopened(chain: Chain): Qcow2Image {
  return openInMemory(chain.copyOf(), { openBacking: ({ name }) => chain.open(Number(name.slice(5)), { writable: [] }) })
}

function sound(chain: Chain, kept: Kept, before: FlatModel): void {
  expect(chain.findings()).toEqual([])
  const image = reopened(chain)
  expect(before.firstDifferenceOf(image)).toBe(-1)
  expectKept(image, kept)
}

/** A layer that may be written besides the top. */
function layerAt(top: Qcow2Image, depth: number): Qcow2Image | RawBacking {
  const found = [...layersOf(top)][depth]
  if (!(found instanceof Qcow2Image || found instanceof RawBacking)) throw new Error("no such layer")
  return found
}

for (const [shape, options] of TOPS.entries()) {
  describe(`images with snapshots (${JSON.stringify(options)})`, () => {
    for (let round = 0; round < ROUNDS; round++) {
      const own = seed + round + shape * 100

      it(`QC-SNAP-06 a commit that empties the image keeps its snapshots (seed ${own})`, async () => {
        const rng = new Rng(own)
        const { chain, kept } = randomChain(rng, rng.between(2, 4), options)
        const before = chain.model()
        const top = chain.openTop({ writable: [chain.top, chain.top - 1] })
        await commitLayers(top, layerAt(top, 1), { keep: false })
        expect([...top.map(0, top.size)].map(({ kind }) => kind)).toEqual(["backing"])
        expectKept(top, kept)
        top.close()
        sound(chain, kept, before)
        expect(before.firstDifferenceOf(chain.open(chain.top - 1, { writable: [] }))).toBe(-1)
      })

      it(`QC-SNAP-06 a commit through a layer keeps its snapshots (seed ${own})`, async () => {
        const rng = new Rng(own + 1000)
        const { chain, kept } = randomChain(rng, 3, options)
        const before = chain.model()
        const top = chain.openTop({ writable: [2, 0] })
        await commitLayers(top, layerAt(top, 2), { keep: true })
        expect(before.firstDifferenceOf(top)).toBe(-1)
        top.close()
        sound(chain, kept, before)
      })

      it(`QC-SNAP-06 a rebase keeps the snapshots (seed ${own})`, async () => {
        const rng = new Rng(own + 2000)
        const { chain, kept } = randomChain(rng, rng.between(2, 3), options)
        const before = chain.model()
        const to = Chain.random(rng, { layers: 1, sizes: [100, 700] })
        const image = chain.openTop()
        const isNone = rng.chance(0.3)
        const next = { reference: { name: layerName(0), format: to.layers[0]?.format ?? "raw" }, disk: to.open(0, { writable: [] }) }
        const old = await rebaseLayers(image, isNone ? { reference: undefined, disk: undefined } : next, {})
        expect(before.firstDifferenceOf(image)).toBe(-1)
        expectKept(image, kept)
        image.close()
        old?.close()
        const moved = new Chain([...to.layers, ...chain.layers.slice(-1)])
        sound(moved, kept, before)
      })

      it(`QC-SNAP-06 a stream keeps the snapshots, also one that is taken meanwhile (seed ${own})`, async () => {
        const rng = new Rng(own + 3000)
        const { chain, kept } = randomChain(rng, rng.between(2, 4), options)
        const image = chain.openTop()
        const base = rng.chance(0.4) && chain.top > 1 ? rng.below(chain.top - 1) : -1
        const all = new Map(kept)
        let steps = 0
        const progress = (): void => {
          if (steps++ !== 0) return
          all.set(image.snapshots.create({ name: "late" }).id, modelOf(image))
          change(rng, image)
        }
        await streamDisk(image, { ...(base < 0 ? {} : { base: layerName(base) }), progress })
        const before = modelOf(image)
        expectKept(image, all)
        image.close()
        sound(chain, all, before)
        expect(reopened(chain).header.backingFile === undefined).toBe(base < 0)
      })
    }
  })
}

it("QC-SNAP-06 a failing call of a stream changes no snapshot, and the next stream succeeds", async () => {
  const rng = new Rng(seed + 5000)
  const { chain: whole, kept } = randomChain(rng, 3, TOPS[3])
  const before = whole.model()
  for (let at = 1, failures = 1; failures > 0; at += 3) {
    const chain = whole.clone()
    let failing: FailingFile | undefined
    const image = chain.openTop({ fileOf: (index) => {
      const file = chain.fileOf(index)
      if (index !== chain.top) return file
      failing = new FailingFile(file, undefined)
      return failing
    } })
    if (failing === undefined) throw new Error("not opened")
    failing.plan = { at: failing.calls + at, code: "io", calls: ["read", "write", "sync", "truncate"], duration: "once" }
    const isStopped = await fails(() => streamDisk(image), "io")
    failures = failing.failures
    failing.plan = undefined
    if (isStopped) {
      expect(before.firstDifferenceOf(image)).toBe(-1)
      expectKept(image, kept)
      await streamDisk(image)
    }
    expectKept(image, kept)
    image.close()
    const again = openInMemory(chain.copyOf())
    expect(before.firstDifferenceOf(again)).toBe(-1)
    expectKept(again, kept)
    expect(chain.findings().filter((finding) => !finding.includes("refcount"))).toEqual([])
  }
})

it("QC-SNAP-06 an open view keeps showing its snapshot while stream, commit or rebase copy what it reads", async () => {
  for (let round = 0; round < 3 * ROUNDS; round++) {
    const rng = new Rng(seed + 700 + round)
    const { chain, kept } = randomChain(rng, rng.between(2, 4), rng.pick(TOPS))
    const writable = [chain.top, chain.top - 1]
    const image = chain.openTop({ writable })
    const views = [...kept].map(([id, model]) => ({ id, model, view: image.snapshots.open(id), state: image.snapshots.openVmState(id) }))
    const states = views.map(({ state }) => contentOf(state))
    const expectShown = (): void => {
      for (const [index, { id, model, view, state }] of views.entries()) {
        expect([id, view.size, model.firstDifferenceOf(view)]).toEqual([id, model.size, -1])
        expect(contentOf(state)).toEqual(states[index])
      }
    }
    const base = [...layersOf(image)][1]
    if (!(base instanceof Qcow2Image || base instanceof RawBacking)) throw new Error("no base")
    // At each step: before, between and after the changes.
    const progress = expectShown
    if (round % 3 === 0) await streamDisk(image, { progress })
    else if (round % 3 === 1) await commitLayers(image, base, { keep: false, progress })
    else (await rebaseLayers(image, { reference: undefined, disk: undefined }, { progress }))?.close()
    expectShown()
    for (const { view, state } of views) {
      view.close()
      state.view.close()
    }
    image.close()
    expect(chain.findings()).toEqual([])
  }
})

function contentOf({ view, offset, size }: ReturnType<Qcow2Image["snapshots"]["openVmState"]>): Uint8Array {
  const content = new Uint8Array(size)
  view.pread(content, offset)
  return content
}
