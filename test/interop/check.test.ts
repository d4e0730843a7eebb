/** Our check against qemu-img check over images with seeded damage (QC-CHK-09). */
import { join } from "node:path"
import { describe, expect } from "vitest"
import { BackingError } from "../../src/backing/backing.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../src/backing/qcow2/check/repair.ts"
import { goldenBytes, type GoldenImage, goldenImages } from "../support/golden.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { bitmapMutations, snapshotMutations } from "../fuzz/structure-mutations.ts"
import { type Mutation, subclusterMutations, tableMutations } from "../support/mutations.ts"
import { itWithQemu, qemuCheck } from "../support/qemu.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const seed = seedFromEnvironment(20250101)
const rounds = Number(process.env["ROUNDS"] ?? 2)
// Overlays are left out: qemu-img wants to open their backing files, the check has no business with them.
const corpus = goldenImages.filter(({ file }) => !/data-file|overlay/.test(file))

const extended = corpus.filter(({ file }) => /extended-l2/.test(file))
const withSnapshots = corpus.filter(({ snapshots }) => snapshots.length > 0)
const withBitmaps = corpus.filter(({ file }) => /bitmap/.test(file))

function exitCodeOf(file: MemoryFile): number {
  try {
    return checkQcow2(file).exitCode
  } catch (error) {
    if (error instanceof BackingError) return 1
    throw error
  }
}

describe(`seed ${seed}`, () => {
  for (const [name, mutate] of Object.entries(tableMutations)) {
    itWithQemu(`QC-CHK-09 our check and qemu-img check agree on this damage and on its repair: ${name}`, () => {
      const directory = temporaryDirectory()
      for (let round = 0; round < rounds; round++) {
        compareOnce(name, mutate, new Rng(seed + round * 1000 + name.length), join(directory, `${round}.qcow2`))
      }
    })
  }

  itWithQemu("QC-CHK-09 QC-EL2-04 QC-EL2-06 our check and qemu-img check agree on damaged subcluster bitmaps", () => {
    const directory = temporaryDirectory()
    for (const [name, mutate] of Object.entries(subclusterMutations)) {
      for (let round = 0; round < rounds; round++) {
        compareOnce(name, mutate, new Rng(seed + round * 1000 + name.length), join(directory, `${round}.qcow2`), extended)
      }
    }
  })

  itWithQemu("QC-CHK-09 QC-CHK-06 QC-SNAP-03 QC-BMP-01 neither check passes damage to snapshots and bitmaps that the other reports", () => {
    const directory = temporaryDirectory()
    for (const [mutations, images] of [[snapshotMutations, withSnapshots], [bitmapMutations, withBitmaps]] as const) {
      for (const [name, mutate] of Object.entries(mutations)) {
        for (let round = 0; round < rounds; round++) {
          compareVerdicts(name, mutate, new Rng(seed + round * 1000 + name.length), join(directory, `${round}.qcow2`), images)
        }
      }
    }
  }, 120_000)
})

/** QEMU does not open an image for its check whose bitmaps or snapshot table it refuses; we go on with the rest, and report it. */
function compareVerdicts(name: string, mutate: Mutation, rng: Rng, path: string, images: readonly GoldenImage[]): void {
  const golden = rng.pick(images)
  const image = new Qcow2Bytes(goldenBytes(golden.file))
  // As for the active tables: QEMU's check overlooks a zero flag in version 2 (QC-L2-04).
  if (image.version === 2 && name === "an L2 entry of a snapshot") return
  mutate(image, rng)
  const file = MemoryFile.of(image.bytes)
  file.save(path)
  const theirs = qemuCheck(path)
  // QEMU knows no extra data of bitmaps, which the format has (QC-BMP-05).
  if (/extra data is not supported/.test(theirs.text) || (name === "a bitmap's flags" && image.u32(40_960 + 12) >>> 2 === 1)) return
  const ours = exitCodeOf(file)
  const verdict = (exitCode: number): string => (exitCode === 1 || exitCode === 2 ? "bad" : exitCode === 3 ? "leaks" : "good")
  expect(verdict(ours), `${golden.file} after ${name}: ${theirs.text}`).toBe(verdict(theirs.exitCode))
  expect(file.changes, "a check writes nothing").toBe(0)
  if (ours === 1) return
  const repaired = repairQcow2(file, rng.pick(["leaks", "all"]))
  file.save(path)
  const after = qemuCheck(path)
  // QEMU looks at refcounts only: a cluster of two structures passes if its refcount is 2 (QC-OVL-04).
  if (repaired.findings.some(({ kind }) => kind === "overlap")) return expect(repaired.exitCode).toBe(2)
  expect(verdict(after.exitCode), `${golden.file} after our repair: ${after.text}`).toBe(verdict(repaired.exitCode))
}

function compareOnce(name: string, mutate: Mutation, rng: Rng, path: string, images = corpus): void {
  const golden = rng.pick(images)
  const image = new Qcow2Bytes(goldenBytes(golden.file))
  mutate(image, rng)
  // QEMU's check overlooks a zero flag in version 2, which its own reading treats as corrupt (QC-L2-04). Ours reports it.
  if (image.version === 2 && name === "L2 zero flag flipped") return
  const file = MemoryFile.of(image.bytes)
  file.save(path)
  const theirs = qemuCheck(path)
  const ours = exitCodeOf(file)
  // Where a refcount block is unaligned, QEMU gives up (1); we go on and report the corruption (2).
  const wanted = theirs.exitCode === 1 && /Can't get refcount/.test(theirs.text) ? 2 : theirs.exitCode
  expect(ours, `${golden.file}: ${theirs.text}`).toBe(wanted)
  expect(file.changes, "a check writes nothing").toBe(0)

  const repaired = repairQcow2(file, rng.pick(["leaks", "all"]))
  file.save(path)
  const after = qemuCheck(path)
  expect(after.exitCode, `${golden.file} after our repair: ${after.text}`).toBe(repaired.exitCode)
}
