/** Commit: the base reads as the top did, the top is empty, and no stop, error or full disk loses anything. */
import { describe, expect, it } from "vitest"
import { nodeCryptography } from "../../../src/backing/host/node-cryptography.ts"
import { unlockFile, writeVolume } from "../../../src/backing/luks/raw-luks.ts"
import { commitLayers } from "../../../src/backing/operations/commit.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { layersOf } from "../../../src/backing/qcow2/layers/layer-run.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { Chain, type ChainOpening, fails } from "./chains.ts"
import { expectKept, takeSnapshots } from "./kept-snapshots.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { modelOf, openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(501)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)

/** The top and the layer `base` of a chain, both open for writing. */
export function openForCommit(chain: Chain, base: number, opening: ChainOpening = {}): { top: Qcow2Image; base: Qcow2Image | RawBacking } {
  const top = chain.openTop({ ...opening, writable: [chain.top, base] })
  const found = [...layersOf(top)][chain.top - base]
  if (!(found instanceof Qcow2Image || found instanceof RawBacking)) throw new Error("no such layer")
  return { top, base: found }
}

function randomChain(rng: Rng, layers: number): Chain {
  return Chain.random(rng, { layers, sizes: [16, 400] })
}

/** What the base must read as: the top's content, and beyond it its own. A base that is smaller grows. */
function expected(chain: Chain, base: number): FlatModel {
  const top = chain.model()
  const own = chain.model(base)
  const model = FlatModel.of(own.read(0, own.size), Math.max(own.size, top.size))
  model.write(top.read(0, top.size), 0)
  return model
}

function expectCommitted(chain: Chain, base: number, model: FlatModel, before: FlatModel): void {
  expect(chain.findings()).toEqual([])
  const image = chain.open(base, { writable: [] })
  expect(image.size).toBe(model.size)
  expect(model.firstDifferenceOf(image)).toBe(-1)
  if (base !== chain.top - 1) return
  const top = chain.openTop({ writable: [] })
  expect(before.firstDifferenceOf(top)).toBe(-1)
}

describe("commit", () => {
  for (let round = 0; round < ROUNDS; round++) {
    it(`writes what the layers above hold into the base, and empties the top (seed ${seed + round})`, async () => {
      const rng = new Rng(seed + round)
      const layers = rng.between(2, 4)
      const base = rng.chance(0.5) ? layers - 2 : rng.between(0, layers - 2)
      const chain = randomChain(rng, layers)
      const model = expected(chain, base)
      const before = chain.model()
      const { top, base: disk } = openForCommit(chain, base)
      const keep = base !== chain.top - 1
      let last = 0
      await commitLayers(top, disk, {
        keep, progress: (done, total) => {
          expect(total).toBe(top.size)
          last = done
        },
      })
      expect(last).toBe(top.size)
      if (!keep) expect([...top.map(0, top.size)].map(({ kind }) => kind)).toEqual(["backing"])
      top.close()
      expectCommitted(chain, base, model, before)
    })
  }

  it("stops at any step and can be repeated, and the top reads the same meanwhile", async () => {
    const chain = randomChain(new Rng(seed + 100), 3)
    const model = expected(chain, 1)
    const before = chain.model()
    const { top, base } = openForCommit(chain, 1)
    const reason = new Error("enough")
    for (let most = 1, stopped = true; stopped; most++) {
      let steps = 0
      const signal = { get aborted() { return steps >= most }, reason }
      try {
        await commitLayers(top, base, { keep: false, progress: () => void steps++, signal: signal as never })
        stopped = false
      } catch (error) {
        expect(error).toBe(reason)
      }
      expect(before.firstDifferenceOf(top)).toBe(-1)
    }
    top.close()
    expectCommitted(chain, 1, model, before)
  })

  for (const [code, calls] of [["io", ["read", "write", "truncate", "sync"]], ["no-space", ["write", "truncate"]]] as const) {
    for (const failing of [0, 1]) {
      it(`a failing call (${code}) of the ${failing === 0 ? "base" : "top"} loses nothing, and the next commit succeeds`, async () => {
        const made = randomChain(new Rng(seed + 201), 2)
        const before = made.model()
        const model = expected(made, 0)
        for (let at = 1, failed = true; failed; at += 1 + Math.floor(at / 3)) {
          const chain = made.clone()
          const file = new FailingFile(chain.fileOf(failing))
          const { top, base } = openForCommit(chain, 0, { fileOf: (index) => (index === failing ? file : chain.fileOf(index)) })
          file.plan = { at, code, calls, duration: code === "io" ? "once" : "for-good", partial: 0.5 }
          failed = await fails(() => commitLayers(top, base, { keep: false }), code)
          file.plan = undefined
          expect(before.firstDifferenceOf(top)).toBe(-1)
          if (failed) await commitLayers(top, base, { keep: false })
          top.close()
          expectCommitted(chain, 0, model, before)
        }
      })
    }
  }

  it("QC-RSZ-03 a LUKS base that becomes longer reads as zeroes where the image above does", async () => {
    const file = new MemoryFile({ path: "base.luks" })
    const cryptography = { ...nodeCryptography, countIterations: () => 1 }
    writeVolume(file, { size: 8192, encryption: { passphrase: "p", cipher: "aes-128" } }, cryptography)
    const base = new RawBacking(unlockFile(file, { passphrase: "p", cryptography }))
    base.pwrite(new Uint8Array(8192).fill(1), 0)
    const overlay = new MemoryFile({ path: "top.qcow2" })
    createQcow2(overlay, { size: 40_960, clusterSize: 4096, backing: "base.luks", backingFormat: "luks" })
    const top = openInMemory(overlay, { openBacking: () => base })
    top.pwrite(new Uint8Array(4096).fill(2), 20_480)
    const before = modelOf(top)
    await commitLayers(top, base, { keep: false })
    expect([base.size, before.firstDifferenceOf(base), before.firstDifferenceOf(top)]).toEqual([40_960, -1, -1])
  })

  it("QC-SNAP-06 internal snapshots keep their content", async () => {
    const rng = new Rng(seed + 300)
    const chain = randomChain(rng, 2)
    const kept = takeSnapshots(rng, chain)
    const before = chain.model()
    const { top, base } = openForCommit(chain, 0)
    await commitLayers(top, base, { keep: false })
    expectKept(top, kept)
    top.close()
    expect(chain.findings()).toEqual([])
    expect(before.firstDifferenceOf(chain.open(0, { writable: [] }))).toBe(-1)
  })
})
