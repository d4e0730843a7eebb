/**
 * Fuzzing of images: a golden image with some damage is opened, read, written, checked and repaired. Whatever it is, only a BackingError
 * may come of it; a read-only opening and a refused one write nothing; work and memory stay within a budget.
 */
import { BackingError } from "../../src/backing/backing.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { repairQcow2 } from "../../src/backing/qcow2/check/repair.ts"
import { goldenBytes, goldenImages } from "../support/golden.ts"
import { goldenBacking, goldenData, openInMemory } from "../support/images.ts"
import { MemoryFile, type MemoryFileOptions } from "../support/memory-file.ts"
import { allMutations } from "../support/mutations.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import { randomOperation } from "../support/random-operations.ts"
import type { Rng } from "../support/rng.ts"
import { perform } from "../support/perform.ts"

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
  const golden = rng.pick(goldenImages)
  const image = new Qcow2Bytes(goldenBytes(golden.file))
  const names = Object.keys(allMutations)
  const applied: string[] = []
  for (let count = rng.pick([1, 1, 1, 2, 5]); count > 0; count--) applied.push(mutate(image, rng, rng.pick(names)))
  try {
    return tryImage(image.bytes, golden.file, rng)
  } catch (error) {
    if (error instanceof Error) error.message = `${golden.file} after ${applied.join(", ")}: ${error.message}`
    throw error
  }
}

/** Damages the image; a mutation that no longer finds what it wants to damage does nothing. */
function mutate(image: Qcow2Bytes, rng: Rng, name: string): string {
  const before = image.bytes.slice()
  try {
    allMutations[name]?.(image, rng)
  } catch {
    image.bytes = before
  }
  return name
}

function tryImage(bytes: Uint8Array, name: string, rng: Rng): FuzzOutcome {
  const isRead = readOnlyRound(bytes, name, rng)
  const isWritten = writeRound(bytes, name, rng)
  checkRound(bytes, name, rng)
  return isWritten ? "written" : isRead ? "read" : "refused"
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

function open(file: MemoryFile, name: string): Qcow2Image | undefined {
  let disk: Qcow2Image | undefined
  const before = process.memoryUsage().arrayBuffers
  allowed(() => (disk = openInMemory(file, { openBacking: goldenBacking(name), openDataFile: goldenData(name) })))
  const kept = process.memoryUsage().arrayBuffers - before
  if (kept > MEMORY_BUDGET) throw new Error(`opening keeps ${kept} bytes`)
  return disk
}

function readOnlyRound(bytes: Uint8Array, name: string, rng: Rng): boolean {
  const file = BudgetFile.over(bytes, { path: name, readOnly: true })
  const disk = open(file, name)
  if (disk === undefined) return false
  for (let count = 0; count < 12; count++) {
    const offset = disk.size === 0 ? 0 : rng.below(disk.size)
    const buffer = new Uint8Array(Math.min(disk.size - offset, rng.pick([512, 5000, 70_000])))
    allowed(() => disk.pread(buffer, offset))
  }
  allowed(() => {
    for (const extent of disk.map(0, Math.min(disk.size, 1 << 20))) if (extent.length <= 0) throw new Error("an empty extent")
  })
  disk.close()
  if (file.changes !== 0) throw new Error("a read-only opening has written")
  return true
}

function writeRound(bytes: Uint8Array, name: string, rng: Rng): boolean {
  const file = BudgetFile.over(bytes, { path: name })
  const wasDirty = bytes.length >= 80 && ((bytes[79] ?? 0) & 1) !== 0
  const disk = open(file, name)
  if (disk === undefined) {
    // A dirty image may have been repaired in part before it was found beyond repair.
    if (file.changes !== 0 && !wasDirty) throw new Error("a refused opening has written")
    return false
  }
  const header = fixedFields(file)
  const limits = { size: disk.size, focus: Math.min(disk.size, 1 << 20), longest: 20_000 }
  if (disk.size > 0) for (let count = 0; count < 15; count++) allowed(() => perform(disk, randomOperation(rng, limits)))
  allowed(() => disk.close())
  if (Buffer.compare(header, fixedFields(file)) !== 0) throw new Error("the fixed fields of the header have changed")
  return true
}

/** What no operation changes: everything before the place of the refcount table. */
function fixedFields(file: MemoryFile): Uint8Array {
  const fields = new Uint8Array(48)
  file.clone().read(fields, 0)
  return fields
}

function checkRound(bytes: Uint8Array, name: string, rng: Rng): void {
  const checked = BudgetFile.over(bytes, { path: name, readOnly: true })
  allowed(() => void checkQcow2(checked))
  const repaired = BudgetFile.over(bytes, { path: name })
  allowed(() => {
    const result = repairQcow2(repaired, rng.pick(["leaks", "all"]))
    const again = checkQcow2(repaired)
    if (again.exitCode !== result.exitCode) throw new Error(`a repair says ${result.exitCode}, the check after it ${again.exitCode}`)
  })
}
