/**
 * Power cuts during commit, rebase and stream: whatever each of the files has of its writes then, the disk reads the same over the backing
 * file that its header names, no image has more than leaks, and the operation can be done again.
 */
import { describe, expect, it } from "vitest"
import { commitLayers } from "../../src/backing/operations/commit.ts"
import { rebaseLayers } from "../../src/backing/operations/rebase.ts"
import { streamDisk } from "../../src/backing/operations/stream.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { layersOf } from "../../src/backing/qcow2/layers/layer-run.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { Chain } from "../backing/operations/chains.ts"
import { expectKept, type Kept, takeSnapshots } from "../backing/operations/kept-snapshots.ts"
import type { FlatModel } from "../support/flat-model.ts"
import { openInMemory } from "../support/images.ts"
import type { MemoryFile } from "../support/memory-file.ts"
import { applyChange, crashedFile, RecordingFile } from "../support/recording-file.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

const seed = seedFromEnvironment(901)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)

/** Notes in which order the files of a chain are written. */
class OrderedFile extends RecordingFile {
  readonly #order: number[]
  readonly #index: number

  constructor(inner: MemoryFile, order: number[], index: number) {
    super(inner)
    this.#order = order
    this.#index = index
  }

  override write(buffer: Uint8Array, offset: number): void {
    super.write(buffer, offset)
    this.#order.push(this.#index)
  }

  override truncate(size: number): void {
    super.truncate(size)
    this.#order.push(this.#index)
  }

  override punchHole(offset: number, length: number): boolean {
    const done = super.punchHole(offset, length)
    if (done) this.#order.push(this.#index)
    return done
  }

  override sync(): void {
    super.sync()
    this.#order.push(this.#index)
  }
}

interface Recorded {
  readonly before: Chain
  readonly order: readonly number[]
  readonly files: ReadonlyMap<number, OrderedFile>
}

/** Does `work` on the top of a copy of `chain`, with `writable` layers recorded. */
async function record(chain: Chain, writable: readonly number[], work: (top: Qcow2Image) => Promise<unknown>): Promise<Recorded> {
  const order: number[] = []
  const running = chain.clone()
  const files = new Map(writable.map((index) => [index, new OrderedFile(running.fileOf(index), order, index)]))
  const top = running.openTop({ writable, fileOf: (index) => files.get(index) ?? running.fileOf(index) })
  await work(top)
  top.close()
  return { before: chain, order, files }
}

/** The chains that a power cut after each of the writes may leave, some of them: in order, and with the unsynced writes in part. */
function* crashes({ before, order, files }: Recorded, rng: Rng, share: number): Generator<readonly [string, Chain]> {
  for (let length = 0; length <= order.length; length++) {
    if (!rng.chance(share) && length < order.length) continue
    for (const inOrder of [true, false]) {
      const chain = before.clone()
      for (const [index, file] of files) {
        const count = order.slice(0, length).filter((writer) => writer === index).length
        const start = before.copyOf(index).clone()
        const crashed = inOrder ? start : crashedFile(start, file.log, count, rng)
        if (inOrder) for (const change of file.log.slice(0, count)) applyChange(crashed, change)
        chain.layers[index] = { format: before.layers[index]?.format ?? "raw", file: crashed }
      }
      yield [`after ${length} of ${order.length} writes${inOrder ? "" : ", the unsynced ones in part"}`, chain]
    }
  }
}

/** What the top of a chain reads as, and its snapshots: every second chain has some. */
interface Shown {
  readonly model: FlatModel
  readonly kept: Kept
}

function shown(rng: Rng, chain: Chain): Shown {
  const kept: Kept = rng.chance(0.5) ? takeSnapshots(rng, chain) : new Map()
  return { model: chain.model(), kept }
}

function expectSound(chain: Chain): void {
  for (const { format, file } of chain.layers) {
    if (format === "qcow2") expect(checkQcow2(file.clone({ readOnly: true })).corruptions).toBe(0)
  }
}

function expectContent({ model, kept }: Shown, top: Qcow2Image): void {
  expect(model.firstDifferenceOf(top)).toBe(-1)
  expectKept(top, kept)
  top.close()
}

describe.each(Array.from({ length: ROUNDS }, (_, round) => seed + round))("power cuts (seed %i)", (own) => {
  it("QC-WO-08 QC-WO-04 during a commit", async () => {
    const rng = new Rng(own)
    const chain = Chain.random(rng, { layers: rng.between(2, 3), sizes: [16, 120] })
    const model = shown(rng, chain)
    const base = chain.top - 1
    const commit = async (top: Qcow2Image): Promise<void> => {
      const layer = [...layersOf(top)][1]
      if (!(layer instanceof Qcow2Image || layer instanceof RawBacking)) throw new Error("no base")
      await commitLayers(top, layer, { keep: false })
    }
    const recorded = await record(chain, [base, chain.top], commit)
    for (const [where, crashed] of crashes(recorded, rng, 0.3)) {
      try {
        expectSound(crashed)
        expectContent(model, crashed.openTop({ writable: [] }))
        if (!rng.chance(0.2)) continue
        const top = crashed.openTop({ writable: [base, crashed.top] })
        await commit(top)
        top.close()
        expectSound(crashed)
        expectContent(model, crashed.openTop({ writable: [] }))
      } catch (error) {
        throw new Error(where, { cause: error })
      }
    }
  })

  it("QC-WO-08 QC-HDR-15 during a rebase", async () => {
    const rng = new Rng(own + 1000)
    const isLong = rng.chance(0.7)
    const chain = Chain.random(rng, { layers: rng.between(2, 3), sizes: [16, 120], top: { clusterSize: isLong ? 4096 : 512 } })
    const other = Chain.random(rng, { layers: rng.between(1, 2), sizes: [16, 120] })
    const model = shown(rng, chain)
    const toNone = rng.chance(0.3)
    const rebase = async (top: Qcow2Image): Promise<void> => {
      const disk = toNone ? undefined : other.open(other.top, { writable: [] })
      const reference = toNone
        ? undefined
        : { name: `other${"x".repeat(rng.below(isLong ? 900 : 100))}`, format: other.layers[other.top]?.format ?? "raw" }
      await rebaseLayers(top, { reference, disk }, {})
    }
    const openAny = (crashed: Chain, readOnly: boolean): Qcow2Image =>
      openInMemory(readOnly ? crashed.copyOf() : crashed.fileOf(crashed.top), {
        openBacking: ({ name }) => (name.startsWith("other")
          ? other.open(other.top, { writable: [] })
          : crashed.open(crashed.top - 1, { writable: [] })),
      })
    const recorded = await record(chain, [chain.top], rebase)
    for (const [where, crashed] of crashes(recorded, rng, 0.3)) {
      try {
        expectSound(crashed)
        expectContent(model, openAny(crashed, true))
        if (!rng.chance(0.2)) continue
        const top = openAny(crashed, false)
        await rebase(top)
        top.close()
        expectSound(crashed)
        expectContent(model, openAny(crashed, true))
      } catch (error) {
        throw new Error(where, { cause: error })
      }
    }
  })

  it("QC-WO-08 during a stream", async () => {
    const rng = new Rng(own + 2000)
    const chain = Chain.random(rng, { layers: rng.between(2, 4), sizes: [16, 120] })
    const model = shown(rng, chain)
    const options = chain.top > 1 && rng.chance(0.5) ? { base: "layer0" } : {}
    const open = (crashed: Chain, readOnly: boolean): Qcow2Image =>
      openInMemory(readOnly ? crashed.copyOf() : crashed.fileOf(crashed.top), {
        openBacking: ({ name }) => crashed.open(Number(name.slice(5)), { writable: [] }),
      })
    const recorded = await record(chain, [chain.top], (top) => streamDisk(top, options))
    for (const [where, crashed] of crashes(recorded, rng, 0.3)) {
      try {
        expectSound(crashed)
        expectContent(model, open(crashed, true))
        if (!rng.chance(0.2)) continue
        const top = open(crashed, false)
        if (top.backing !== undefined) await streamDisk(top)
        top.close()
        expectSound(crashed)
        expectContent(model, openInMemory(crashed.copyOf()))
      } catch (error) {
        throw new Error(where, { cause: error })
      }
    }
  })
})
