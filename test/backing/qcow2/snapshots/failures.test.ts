/** Snapshots and sizes on files that fail, or whose bytes come later: an error changes nothing, and the call can be repeated. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../../../src/backing/qcow2/image.ts"
import { FailingFile, type FileCall } from "../../../support/failing-file.ts"
import { ForgetfulFile } from "../../../support/forgetful-file.ts"
import { openInMemory } from "../../../support/images.ts"
import type { MemoryFile } from "../../../support/memory-file.ts"
import { Rng } from "../../../support/rng.ts"
import { contentOf, filled, newImage, withImage } from "../small-images.ts"

const SIZE = 60_416

/** What is done, and what the disk and the list of snapshots are afterwards. */
const steps: readonly { readonly name: string; readonly work: (disk: Qcow2Image) => void }[] = [
  { name: "create", work: (disk) => void disk.snapshots.create({ name: "two", vmState: filled(3000, 9) }) },
  { name: "apply", work: (disk) => disk.snapshots.apply("one") },
  { name: "delete", work: (disk) => disk.snapshots.delete("one") },
  { name: "grow", work: (disk) => disk.resize(3 * SIZE) },
  { name: "grow, preallocated", work: (disk) => disk.resize(2 * SIZE, { preallocation: "metadata" }) },
  { name: "shrink", work: (disk) => disk.resize(1536, { shrink: true }) },
]

/** An image with a snapshot, and much that is not shared with it any more. */
function base(): MemoryFile {
  const file = newImage({ clusterSize: 512, size: SIZE, refcountBits: 64 })
  withImage(file, (disk) => {
    disk.pwrite(filled(SIZE, 1), 0)
    disk.snapshots.create({ name: "one" })
    disk.pwrite(filled(30_000, 2), 1000)
  })
  return file
}

const stateOf = (disk: Qcow2Image): string =>
  JSON.stringify([disk.size, disk.snapshots.list().map(({ name, diskSize, vmStateSize }) => [name, diskSize, vmStateSize])]) +
  Buffer.from(contentOf(disk)).toString("latin1")

function expected(work: (disk: Qcow2Image) => void): string {
  const disk = openInMemory(base())
  work(disk)
  return stateOf(disk)
}

describe("a file that fails", () => {
  for (const calls of [["write", "truncate"], ["sync"], ["read"]] as const satisfies readonly (readonly FileCall[])[]) {
    for (const { name, work } of steps) {
      const where = `any ${calls.join(" or ")}`
      it(`QC-SNAP-05 QC-SNAP-07 QC-SNAP-09 QC-WO-10 ${name}: a failure at ${where} leaves nothing half done, and a repeat succeeds`, () => {
        const before = expected(() => undefined)
        const after = expected(work)
        for (let at = 1; ; at++) {
          const file = base()
          const failing = new FailingFile(file)
          const disk = openInMemory(failing, { cacheSize: 4096 })
          failing.plan = { at, code: "io", calls, duration: "once", partial: 0.5 }
          const failed = fails(() => work(disk))
          failing.plan = undefined
          // The end of a cut comes after the switch: then it has happened, and is repeated all the same.
          if (failed) expect([before, after], `call ${at}`).toContain(stateOf(disk))
          if (failed) fails(() => work(disk), "not-found")
          expect(stateOf(disk) === after, `call ${at}`).toBe(true)
          disk.pwrite(filled(700, 5), 100)
          disk.close()
          expect(checkQcow2(file.clone()), `call ${at}`).toMatchObject({ corruptions: 0, leaks: 0 })
          if (!failed) return expect(at).toBeGreaterThan(1)
        }
      })
    }
  }
})

/** Whether the work fails by a `BackingError`. */
function fails(work: () => void, allowed?: string): boolean {
  try {
    work()
    return false
  } catch (error) {
    if (!(error instanceof BackingError) || (allowed !== undefined && error.code !== allowed)) throw error
    return true
  }
}

describe("a file whose bytes are loaded later", () => {
  for (const { name, work } of steps) {
    it(`QC-L2-11 ${name}: repeated until all bytes are loaded, it has the same result`, () => {
      const file = base()
      const forgetful = new ForgetfulFile(file, new Rng(7))
      const disk = forgetful.insist(() => openInMemory(forgetful, { cacheSize: 4096 }))
      forgetful.insist(() => work(disk))
      expect(forgetful.insist(() => stateOf(disk)) === expected(work)).toBe(true)
      forgetful.insist(() => disk.close())
      expect(forgetful.faults).toBeGreaterThan(5)
      expect(checkQcow2(file.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
    })
  }
})
