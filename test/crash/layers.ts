/**
 * Power cuts during commit, rebase and stream, between images of every kind: whatever each of the files has of its writes then, the disk
 * reads the same over the backing file that its header names, no image has more than leaks, and the operation can be done again.
 */
import { commitLayers } from "../../src/backing/operations/commit.ts"
import { rebaseLayers } from "../../src/backing/operations/rebase.ts"
import { streamDisk } from "../../src/backing/operations/stream.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { CreateQcow2Options } from "../../src/backing/qcow2/create.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { layersOf } from "../../src/backing/qcow2/layers/layer-run.ts"
import type { BackingReference } from "../../src/backing/qcow2/open.ts"
import type { BackingDisk } from "../../src/backing/qcow2/reader.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { Chain } from "../backing/operations/chains.ts"
import { type Kept, takeSnapshots } from "../backing/operations/kept-snapshots.ts"
import type { FlatModel } from "../support/flat-model.ts"
import type { MemoryFile } from "../support/memory-file.ts"
import { applyChange, crashedFile, RecordingFile } from "../support/recording-file.ts"
import type { Rng } from "../support/rng.ts"
import { ENCRYPTION } from "../support/shapes.ts"
import { expectSnapshot } from "./whole/operations.ts"

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

/** Files of a chain by their layers; an external data file is told from its image by this. */
const DATA = 1000

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
  for (const index of writable) {
    const data = running.dataOf(index)
    if (data !== undefined) files.set(DATA + index, new OrderedFile(data, order, DATA + index))
  }
  const top = running.openTop({
    writable, fileOf: (index) => files.get(index) ?? running.fileOf(index),
    dataOf: (index) => files.get(DATA + index) ?? running.dataOf(index),
  })
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
      for (const [key, file] of files) {
        const index = key % DATA
        const layer = chain.layers[index]
        const start = key < DATA ? layer?.file : layer?.data
        if (layer === undefined || start === undefined) throw new Error(`layer ${index} has no such file`)
        const count = order.slice(0, length).filter((writer) => writer === key).length
        const crashed = crashedCopy(start, file, count, inOrder ? undefined : rng)
        chain.layers[index] = key < DATA ? { ...layer, file: crashed } : { ...layer, data: crashed }
      }
      yield [`after ${length} of ${order.length} writes${inOrder ? "" : ", the unsynced ones in part"}`, chain]
    }
  }
}

/** `start` after the first `count` changes of `file`, or with the unsynced ones of them in part. */
function crashedCopy(start: MemoryFile, { log }: OrderedFile, count: number, rng: Rng | undefined): MemoryFile {
  if (rng !== undefined) return crashedFile(start, log, count, rng)
  const file = start.clone()
  for (const change of log.slice(0, count)) applyChange(file, change)
  return file
}

interface Attempt {
  readonly recorded: Recorded
  readonly rng: Rng
  readonly shown: Shown
  /** Layers that the operation writes. */
  readonly writable: readonly number[]
  readonly work: (top: Qcow2Image) => Promise<unknown>
  /** Opens what a header names, after a crash. */
  readonly openBacking?: (crashed: Chain, reference: BackingReference) => BackingDisk
}

/** What the top of a chain reads as, and its snapshots: every second chain has some, where it can. */
interface Shown {
  readonly model: FlatModel
  readonly kept: Kept
}

function shownBy(rng: Rng, chain: Chain): Shown {
  const canKeep = chain.layers[chain.top]?.data === undefined
  const kept: Kept = canKeep && rng.chance(0.5) ? takeSnapshots(rng, chain) : new Map()
  return { model: chain.model(), kept }
}

function expectShown({ model, kept }: Shown, top: Qcow2Image): void {
  const difference = model.firstDifferenceOf(top)
  if (difference >= 0) throw new Error(`byte ${difference} is wrong`)
  const ids = top.snapshots.list().map(({ id }) => id)
  if (ids.join() !== [...kept.keys()].join()) throw new Error(`the snapshots are ${ids.join()}`)
  for (const [id, content] of kept) expectSnapshot(top, id, content)
}

/** Tries some of the crashes. Returns how many. @throws Error that says which */
async function tryCrashes({ recorded, rng, shown, writable, work, openBacking }: Attempt): Promise<number> {
  let points = 0
  for (const [where, crashed] of crashes(recorded, rng, 0.3)) {
    const behind = openBacking === undefined ? {} : { openBacking: (reference: BackingReference) => openBacking(crashed, reference) }
    const expectContent = (): void => {
      for (const { format, file } of crashed.layers) {
        const found = format === "qcow2" ? checkQcow2(file.clone({ readOnly: true })) : undefined
        if ((found?.corruptions ?? 0) > 0) throw new Error(`the check finds: ${found?.findings[0]?.message}`)
      }
      const top = crashed.openTop({ writable: [], ...behind })
      expectShown(shown, top)
      top.close()
    }
    try {
      points++
      expectContent()
      if (!rng.chance(0.2)) continue
      const top = crashed.openTop({ writable, ...behind })
      await work(top)
      top.close()
      expectContent()
    } catch (error) {
      throw new Error(where, { cause: error })
    }
  }
  return points
}

/** What the image at the top may be. */
function randomTop(rng: Rng): Partial<CreateQcow2Options> {
  return rng.pick([
    {},
    {},
    { clusterSize: 16384, extendedL2: true, compat: "1.1" },
    { clusterSize: 1024, dataFile: "data", compat: "1.1" },
    { clusterSize: 16384, extendedL2: true, dataFile: "data", compat: "1.1" },
    { clusterSize: 4096, encryption: ENCRYPTION, compat: "1.1" },
    { clusterSize: 16384, extendedL2: true, dataFile: "data", encryption: ENCRYPTION, compat: "1.1" },
  ] satisfies Partial<CreateQcow2Options>[])
}

function randomChain(rng: Rng, layers: number, top = randomTop(rng)): Chain {
  return Chain.random(rng, { layers, sizes: [16, 120], ...(Object.keys(top).length === 0 ? {} : { top }) })
}

/** @throws Error that names the crash point */
export async function commitCrashRound(rng: Rng): Promise<number> {
  const chain = randomChain(rng, rng.between(2, 3))
  const shown = shownBy(rng, chain)
  const base = chain.top - 1
  const writable = [base, chain.top]
  const work = async (top: Qcow2Image): Promise<void> => {
    const layer = [...layersOf(top)][1]
    if (!(layer instanceof Qcow2Image || layer instanceof RawBacking)) throw new Error("no base")
    await commitLayers(top, layer, { keep: false })
  }
  return await tryCrashes({ recorded: await record(chain, writable, work), rng, shown, writable, work })
}

/** @throws Error that names the crash point */
export async function rebaseCrashRound(rng: Rng): Promise<number> {
  const isLong = rng.chance(0.7)
  const top: Partial<CreateQcow2Options> = rng.chance(0.5) ? { clusterSize: isLong ? 4096 : 512 } : randomTop(rng)
  const chain = randomChain(rng, rng.between(2, 3), top)
  const shown = shownBy(rng, chain)
  const other = randomChain(rng, rng.between(1, 2), {})
  const toNone = rng.chance(0.3)
  const { clusterSize = 512 } = top
  const work = async (image: Qcow2Image): Promise<void> => {
    const disk = toNone ? undefined : other.open(other.top, { writable: [] })
    const reference = toNone
      ? undefined
      : { name: `other${"x".repeat(rng.below(clusterSize > 1024 ? 900 : 100))}`, format: other.layers[other.top]?.format ?? "raw" }
    await rebaseLayers(image, { reference, disk }, {})
  }
  const openBacking = (crashed: Chain, { name }: BackingReference): BackingDisk =>
    name.startsWith("other") ? other.open(other.top, { writable: [] }) : crashed.open(crashed.top - 1, { writable: [] })
  const writable = [chain.top]
  return await tryCrashes({ recorded: await record(chain, writable, work), rng, shown, writable, work, openBacking })
}

/** @throws Error that names the crash point */
export async function streamCrashRound(rng: Rng): Promise<number> {
  const chain = randomChain(rng, rng.between(2, 4))
  const shown = shownBy(rng, chain)
  const options = chain.top > 1 && rng.chance(0.5) ? { base: "layer0" } : {}
  const openBacking = (crashed: Chain, { name }: BackingReference): BackingDisk => crashed.open(Number(name.slice(5)), { writable: [] })
  const writable = [chain.top]
  const recorded = await record(chain, writable, (top) => streamDisk(top, options))
  const work = async (top: Qcow2Image): Promise<void> => {
    if (top.backing !== undefined) await streamDisk(top)
  }
  return await tryCrashes({ recorded, rng, shown, writable, work, openBacking })
}
