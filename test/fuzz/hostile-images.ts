/**
 * Fuzzing of images: a golden image with some damage is opened, read, written, checked and repaired. Whatever it is, only a BackingError
 * may come of it; a read-only opening and a refused one write nothing; work and memory stay within a budget.
 */
import { BackingError } from "../../src/backing/backing.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import { repairQcow2 } from "../../src/backing/qcow2/check/repair.ts"
import type { RawBacking } from "../../src/backing/raw.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile, type MemoryFileOptions } from "../support/memory-file.ts"
import { allMutations, type Mutation } from "../support/mutations.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import { randomOperation } from "../support/random-operations.ts"
import type { Rng } from "../support/rng.ts"
import { perform } from "../support/perform.ts"
import { type CorpusImage, hostileCorpus, openingOf, openRawLuks, rawLuks } from "./hostile-corpus.ts"
import { bitmapMutations, dataFileMutations, luksMutations, snapshotMutations, structureMutations } from "./structure-mutations.ts"

/** Bytes that one opening may read: the largest tables of the format, a few times. The images themselves are far below. */
const READ_BUDGET = 400 << 20
/** Bytes that one opening may keep in memory: an L1 of 32 MiB, a refcount table of 8, caches. */
const MEMORY_BUDGET = 100 << 20

/** Fails, with no BackingError, when more is read than any image of this size is worth. */
class BudgetFile extends MemoryFile {
  #left = READ_BUDGET

  static over(bytes: Uint8Array, options: MemoryFileOptions): BudgetFile {
    const file = new BudgetFile({ ...options, readOnly: false })
    file.write(bytes, 0)
    const opened = new BudgetFile(options)
    opened.adopt(file)
    return opened
  }

  override readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.#left -= length
    if (this.#left < 0) throw new Error("the read budget is used up: this never ends")
    return super.readInto(buffer, start, length, offset)
  }
}

export type FuzzOutcome = "refused" | "read" | "written"

/**
 * Takes one damaged image through everything. Returns how far it came.
 * @throws Error that says what must not be
 */
export function fuzzRound(rng: Rng): FuzzOutcome {
  const original = rng.pick([...hostileCorpus, rawLuks])
  const image = new Qcow2Bytes(original.bytes)
  const mutations = rng.chance(0.5) ? mutationsFor(original) : allMutations
  const applied: string[] = []
  for (let count = rng.pick([1, 1, 1, 2, 5]); count > 0; count--) applied.push(mutate(image, rng, rng.pick(Object.entries(mutations))))
  try {
    return original === rawLuks ? tryRawLuks(image.bytes, rng) : tryImage({ ...original, bytes: image.bytes }, rng)
  } catch (error) {
    if (error instanceof Error) error.message = `${original.name} after ${applied.join(", ")}: ${error.message}`
    throw error
  }
}

/** Those that find what they damage, mostly. */
function mutationsFor({ name, isEncrypted, bytes }: CorpusImage): Readonly<Record<string, Mutation>> {
  if (isEncrypted) return luksMutations
  if (/bitmap/.test(name)) return bitmapMutations
  if (/data-file/.test(name)) return dataFileMutations
  return new Qcow2Bytes(bytes).snapshotCount > 0 ? snapshotMutations : structureMutations
}

/** Damages the image; a mutation that no longer finds what it wants to damage does nothing. Returns its name. */
function mutate(image: Qcow2Bytes, rng: Rng, [name, mutation]: readonly [string, Mutation]): string {
  const before = image.bytes.slice()
  try {
    mutation(image, rng)
  } catch {
    image.bytes = before
  }
  return name
}

function tryImage(image: CorpusImage, rng: Rng): FuzzOutcome {
  const isRead = readOnlyRound(image, rng)
  const isWritten = writeRound(image, rng)
  checkRound(image, rng)
  return isWritten ? "written" : isRead ? "read" : "refused"
}

function tryRawLuks(bytes: Uint8Array, rng: Rng): FuzzOutcome {
  const file = BudgetFile.over(bytes, { path: rawLuks.name })
  let disk: RawBacking | undefined
  allowed(() => (disk = openRawLuks(file)))
  if (file.changes !== 0) throw new Error("opening has written")
  if (disk === undefined) return "refused"
  const { size } = disk
  const opened = disk
  for (let count = 0; count < 10 && size > 0; count++) allowed(() => perform(opened, randomOperation(rng, { size, longest: 20_000 })))
  allowed(() => opened.close())
  const header = new Uint8Array(4096)
  file.clone().read(header, 0)
  if (Buffer.compare(header, bytes.subarray(0, 4096)) !== 0) throw new Error("the LUKS header has changed")
  return "written"
}

/** Runs `work`; true when it succeeds, false when it fails with a BackingError. */
function allowed(work: () => void): boolean {
  try {
    work()
    return true
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    if (/[\n\r\u001b]/.test(error.message)) throw new Error(`the message has control characters: ${JSON.stringify(error.message)}`)
    return false
  }
}

function open(file: MemoryFile, image: CorpusImage, more: OpeningOptions = {}): Qcow2Image | undefined {
  let disk: Qcow2Image | undefined
  const before = process.memoryUsage().arrayBuffers
  allowed(() => (disk = openInMemory(file, { ...openingOf(image, file), ...more })))
  const kept = process.memoryUsage().arrayBuffers - before
  if (kept > MEMORY_BUDGET) throw new Error(`opening keeps ${kept} bytes`)
  return disk
}

function readOnlyRound(image: CorpusImage, rng: Rng): boolean {
  const file = BudgetFile.over(image.bytes, { path: image.name, readOnly: true })
  const disk = open(file, image)
  if (disk === undefined) return false
  for (let count = 0; count < 12; count++) {
    const offset = disk.size === 0 ? 0 : rng.below(disk.size)
    const buffer = new Uint8Array(Math.min(disk.size - offset, rng.pick([512, 5000, 70_000])))
    allowed(() => disk.pread(buffer, offset))
  }
  allowed(() => {
    for (const extent of disk.map(0, Math.min(disk.size, 1 << 20))) if (extent.length <= 0) throw new Error("an empty extent")
  })
  readBeside(disk, rng)
  disk.close()
  if (file.changes !== 0) throw new Error("a read-only opening has written")
  return true
}

/** The snapshots and the bitmaps, and what they say. */
function readBeside(disk: Qcow2Image, rng: Rng): void {
  allowed(() => {
    const found = disk.snapshots.list()
    if (found.length === 0) return
    const { id } = rng.pick(found)
    const view = disk.snapshots.open(id)
    const offset = view.size === 0 ? 0 : rng.below(view.size)
    allowed(() => view.pread(new Uint8Array(Math.min(view.size - offset, 30_000)), offset))
    view.close()
    const { view: state, offset: start, size } = disk.snapshots.openVmState(id)
    allowed(() => state.pread(new Uint8Array(Math.min(size, 10_000)), start))
    state.close()
  })
  allowed(() => {
    for (const { name } of disk.bitmaps.list()) allowed(() => void disk.bitmaps.changed(name))
  })
}

/** Something that concerns all of the image. */
function changeWhole(disk: Qcow2Image, rng: Rng): void {
  const { snapshots, bitmaps } = disk
  const anyId = (): string => rng.pick([...snapshots.list().map(({ id }) => id), "none"])
  const anyBitmap = (): string => rng.pick([...bitmaps.list().map(({ name }) => name), "none"])
  const work = rng.pick([
    () => void snapshots.create({ name: "new", ...(rng.chance(0.3) ? { vmState: new Uint8Array(5000).fill(1) } : {}) }),
    () => snapshots.apply(anyId()),
    () => snapshots.delete(anyId()),
    () => disk.resize(512 * rng.below(600), { shrink: true }),
    () => disk.resize(disk.size + 4096, { preallocation: rng.pick(["metadata", "falloc", "full"]) }),
    () => void bitmaps.add("new", { granularity: rng.pick([512, 65_536]) }),
    () => bitmaps.remove(anyBitmap()),
    () => bitmaps.clear(anyBitmap()),
    () => bitmaps.merge(anyBitmap(), anyBitmap()),
  ])
  allowed(work)
}

function writeRound(image: CorpusImage, rng: Rng): boolean {
  const { bytes, name } = image
  const file = BudgetFile.over(bytes, { path: name })
  const wasDirty = bytes.length >= 80 && ((bytes[79] ?? 0) & 1) !== 0
  const disk = open(file, image, {
    overlapCheck: rng.pick(["cached", "all"]), discardNoUnref: rng.chance(0.2), cacheSize: rng.pick([0, 1 << 20]),
  })
  if (disk === undefined) {
    // A dirty image may have been repaired in part before it was found beyond repair.
    if (file.changes !== 0 && !wasDirty) throw new Error("a refused opening has written")
    return false
  }
  const isWhole = rng.chance(0.5)
  const header = fixedFields(file, isWhole)
  for (let count = 0; count < 15; count++) {
    const { size } = disk
    const limits = { size, focus: Math.min(size, 1 << 20), longest: 20_000 }
    if (isWhole && rng.chance(0.25)) changeWhole(disk, rng)
    else if (size > 0) allowed(() => perform(disk, randomOperation(rng, limits)))
  }
  allowed(() => disk.close())
  if (Buffer.compare(header, fixedFields(file, isWhole)) !== 0) throw new Error("the fixed fields of the header have changed")
  return true
}

/**
 * What no operation changes: everything before the place of the refcount table. With new bitmaps the backing file's name moves, and the
 * size of one that is not there goes.
 */
function fixedFields(file: MemoryFile, isWhole: boolean): Uint8Array {
  const fields = new Uint8Array(isWhole ? 24 : 48)
  file.clone().read(fields, 0)
  return isWhole ? fields.fill(0, 8, 20) : fields
}

function checkRound({ bytes, name }: CorpusImage, rng: Rng): void {
  const checked = BudgetFile.over(bytes, { path: name, readOnly: true })
  allowed(() => void checkQcow2(checked))
  const repaired = BudgetFile.over(bytes, { path: name })
  allowed(() => {
    const result = repairQcow2(repaired, rng.pick(["leaks", "all"]))
    const again = checkQcow2(repaired)
    if (again.exitCode !== result.exitCode) throw new Error(`a repair says ${result.exitCode}, the check after it ${again.exitCode}`)
  })
}
