/** Rebase: another chain, or none, and the image reads the same. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { rebaseLayers, type RebaseTarget } from "../../../src/backing/operations/rebase.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { layersOf } from "../../../src/backing/qcow2/layers/layer-run.ts"
import type { BackingDisk } from "../../../src/backing/qcow2/reader.ts"
import { Chain, layerName } from "./chains.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { openInMemory } from "../../support/images.ts"
import type { MemoryFile } from "../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(601)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)
const SIZES = [16, 300] as const

/** A second chain to move to; the same content in parts. */
function otherChain(rng: Rng, chain: Chain): Chain {
  return rng.chance(0.3) ? chain : Chain.random(rng, { layers: rng.between(1, 3), sizes: SIZES })
}

function target(to: Chain, index: number): RebaseTarget {
  const format = to.layers[index]?.format ?? "raw"
  return { reference: { name: layerName(index), format }, disk: to.open(index, { writable: [] }) }
}

/** Opens the rebased image over what its header names now. */
function reopened(file: MemoryFile, to: Chain): Qcow2Image {
  return openInMemory(file, { openBacking: ({ name }) => to.open(Number(name.slice(5)), { writable: [] }) })
}

describe("rebase", () => {
  for (let round = 0; round < ROUNDS; round++) {
    it(`the image reads the same over the other chain (seed ${seed + round})`, async () => {
      const rng = new Rng(seed + round)
      const chain = Chain.random(rng, { layers: rng.between(1, 4), sizes: SIZES, top: {} })
      if (chain.layers[chain.top]?.format === "raw") return
      const before = chain.model()
      const to = otherChain(rng, chain)
      const toNone = rng.chance(0.25)
      const index = to === chain ? Math.max(0, rng.below(chain.top)) : to.top
      if (to === chain && chain.top === 0) return
      const image = chain.openTop()
      const old = await rebaseLayers(image, toNone ? { reference: undefined, disk: undefined } : target(to, index), {})
      expect(before.firstDifferenceOf(image)).toBe(-1)
      image.close()
      old?.close()
      const file = chain.copyOf()
      expect(checkQcow2(file).findings).toEqual([])
      const again = reopened(file, to)
      expect(before.firstDifferenceOf(again)).toBe(-1)
      expect(again.header.backingFile === undefined).toBe(toNone)
    })
  }

  it("what both chains have in common is not copied, and a layer that is in both is not compared", async () => {
    const rng = new Rng(seed + 50)
    const chain = Chain.random(rng, { layers: 4, sizes: [200, 300], top: { clusterSize: 512 } })
    const image = chain.openTop()
    const [, , , bottom] = [...layersOf(image)]
    let reads = 0
    const next: BackingDisk = { size: bottom?.size ?? 0, pread: () => void reads++, preadv: () => void reads++, close: () => undefined }
    const ownBefore = [...image.map(0, image.size)].filter(({ kind }) => kind !== "backing").reduce((sum, { length }) => sum + length, 0)
    const above = chain.openTop({ writable: [] })
    await rebaseLayers(image, { reference: { name: "layer0", format: "raw" }, disk: next, same: bottom }, {})
    const ownAfter = [...image.map(0, image.size)].filter(({ kind }) => kind !== "backing").reduce((sum, { length }) => sum + length, 0)
    expect(ownAfter).toBeGreaterThanOrEqual(ownBefore)
    // Compared: only what the two layers between hold.
    expect(reads).toBeLessThan(above.size / 512)
  })

  it(`onto a layer of its own chain, named as such: disk and snapshot read the same (seed ${seed + 70} and on)`, async () => {
    for (let round = 0; round < 25; round++) {
      const rng = new Rng(seed + 70 + round)
      const chain = Chain.random(rng, { layers: rng.between(3, 4), sizes: SIZES, top: { clusterSize: 512 } })
      const image = chain.openTop()
      const snapshot = chain.model()
      image.snapshots.create({ name: "before" })
      const disk = chain.model()
      // What only the snapshot leaves to the layers behind.
      for (let count = rng.below(4); count > 0; count--) {
        const offset = rng.below(image.size - 512)
        const data = rng.bytes(rng.between(1, Math.min(30_000, image.size - offset)))
        image.pwrite(data, offset)
        disk.write(data, offset)
      }
      const index = rng.below(chain.top - 1)
      const same = [...layersOf(image)][chain.top - index]
      const old = await rebaseLayers(image, { ...target(chain, index), same }, {})
      old?.close()
      expect([round, disk.firstDifferenceOf(image), snapshot.firstDifferenceOf(image.snapshots.open("1"))]).toEqual([round, -1, -1])
      image.close()
    }
  })

  it("a longer new backing image does not show behind the end of the present one, nor after discards", async () => {
    for (const compat of ["0.10", "1.1"] as const) {
      const rng = new Rng(seed + 60)
      const chain = Chain.random(rng, { layers: 2, sizes: [20, 24], top: { size: 400 * 512, clusterSize: 4096, compat } })
      const to = Chain.random(new Rng(3), { layers: 1, sizes: [800, 800] })
      const before = chain.model()
      const image = chain.openTop()
      let discarded = 0
      await rebaseLayers(image, target(to, 0), {
        progress: () => {
          // As a guest does that runs meanwhile.
          if (discarded + 8192 > image.size) return
          image.discard(discarded, 8192)
          before.zero(discarded, 8192)
          if (compat === "0.10") image.writeZeroes(discarded, 8192, true)
          discarded += 8192
        },
      })
      expect(discarded).toBeGreaterThan(0)
      expect(before.firstDifferenceOf(image)).toBe(-1)
      image.close()
      expect(before.firstDifferenceOf(reopened(chain.copyOf(), to))).toBe(-1)
    }
  })

  it("a failing call loses nothing: the image reads the same over the backing file of its header, and can be rebased again", async () => {
    const made = Chain.random(new Rng(seed + 70), { layers: 3, sizes: [64, 120], top: { clusterSize: 1024 } })
    const to = Chain.random(new Rng(seed + 71), { layers: 2, sizes: [64, 120] })
    const before = made.model()
    for (let at = 1, failed = true; failed; at += 1 + Math.floor(at / 3)) {
      const chain = made.clone()
      const file = new FailingFile(chain.fileOf(chain.top))
      const image = chain.openTop({ fileOf: (index) => (index === chain.top ? file : chain.fileOf(index)) })
      file.plan = { at, code: "io", calls: ["write", "truncate", "sync", "read"], duration: "once", partial: 0.5 }
      failed = false
      try {
        await rebaseLayers(image, target(to, to.top), {})
      } catch (error) {
        if (!(error instanceof BackingError)) throw error
        expect(error.message).toMatch(/reads as before/)
        failed = true
      }
      file.plan = undefined
      expect(before.firstDifferenceOf(image)).toBe(-1)
      if (failed) {
        image.flush()
        const names = new TextDecoder().decode(image.header.backingFile)
        const named = openInMemory(chain.copyOf(), {
          openBacking: ({ name, format }) => (name === names && format === chain.layers[chain.top - 1]?.format
            ? chain.open(chain.top - 1, { writable: [] })
            : to.open(to.top, { writable: [] })),
        })
        expect(before.firstDifferenceOf(named)).toBe(-1)
        await rebaseLayers(image, target(to, to.top), {})
      }
      image.close()
      expect(before.firstDifferenceOf(reopened(chain.copyOf(), to))).toBe(-1)
      expect(checkQcow2(chain.copyOf()).corruptions).toBe(0)
    }
  })

  it("QC-HDR-15 a name that the format or the cluster cannot hold is refused before any copy", async () => {
    const chain = Chain.random(new Rng(seed + 80), { layers: 2, sizes: SIZES, top: { clusterSize: 512 } })
    const bytes = chain.layers[1]?.file.toBytes() ?? new Uint8Array(0)
    const image = chain.openTop()
    let steps = 0
    const refused = async (length: number, message: RegExp): Promise<void> => {
      const target = { reference: { name: "x".repeat(length), format: "raw" }, disk: image.backing }
      await expect(rebaseLayers(image, target, { progress: () => void steps++ })).rejects.toThrow(message)
    }
    await refused(1024, /longer than 1023/)
    await refused(900, /does not fit into one cluster/)
    expect(steps).toBe(0)
    image.close()
    expect(Buffer.compare(chain.layers[1]?.file.toBytes() ?? new Uint8Array(1), bytes)).toBe(0)
  })
})
