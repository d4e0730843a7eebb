/** Snapshots of an open image: taken, read, gone back to and deleted; the image stays sound, and each keeps what it held. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { openInMemory } from "../../../support/images.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { contentOf, COPIED, failureOf, filled, newImage, withImage } from "../small-images.ts"

function clean(file: MemoryFile): void {
  expect(checkQcow2(file.clone({ readOnly: true }))).toMatchObject({ corruptions: 0, leaks: 0, findings: [] })
}

/** `toEqual` takes seconds for some hundred kilobytes. */
function same(found: Uint8Array, expected: Uint8Array): void {
  expect([found.length, Buffer.compare(found, expected)]).toEqual([expected.length, 0])
}

describe("a snapshot", () => {
  it("QC-SNAP-05 QC-SNAP-06 a snapshot keeps the content of the disk, whatever is written afterwards", () => {
    const file = newImage({ clusterSize: 4096 })
    withImage(file, (disk) => {
      disk.pwrite(filled(20_000, 1), 1000)
      disk.snapshots.create({ name: "one" })
      disk.pwrite(filled(30_000, 2), 0)
      const view = disk.snapshots.open("one")
      expect([view.size, view.readOnly]).toEqual([disk.size, true])
      same(contentOf(view, 0, 22_000), new Uint8Array(22_000).fill(1, 1000, 21_000))
      same(contentOf(disk, 0, 30_000), filled(30_000, 2))
      view.close()
    })
    clean(file)
  })

  it("QC-SNAP-07 QC-SNAP-08 a snapshot can be applied again and again, and stays", () => {
    const file = newImage({ clusterSize: 512 })
    withImage(file, (disk) => {
      disk.pwrite(filled(100_000, 1), 1000)
      disk.snapshots.create({ name: "one" })
      for (const value of [2, 3]) {
        disk.pwrite(filled(150_000, value), 500)
        disk.snapshots.apply("one")
        same(contentOf(disk, 0, 160_000), new Uint8Array(160_000).fill(1, 1000, 101_000))
      }
      disk.pwrite(filled(512, 4), 1024)
      same(contentOf(disk.snapshots.open("one"), 1000, 1000), filled(1000, 1))
    })
    clean(file)
  })

  it("QC-SNAP-09 a deleted snapshot frees its clusters, and writes go in place again", () => {
    const file = newImage({ clusterSize: 4096 })
    const before = withImage(file, (disk) => disk.pwrite(filled(40_960, 1), 0))
    withImage(file, (disk) => {
      disk.snapshots.create({ name: "one" })
      disk.snapshots.create({ name: "two" })
      disk.pwrite(filled(4096, 2), 4096)
      expect(disk.snapshots.list().map(({ id, name }) => [id, name])).toEqual([["1", "one"], ["2", "two"]])
      disk.snapshots.delete("one")
      disk.snapshots.delete("two")
      expect(disk.snapshots.list()).toEqual([])
    })
    clean(file)
    const after = new Qcow2Bytes(file.toBytes())
    for (const cluster of [0, 1, 2, 9]) expect(after.l2(cluster * 4096) & COPIED).toBe(COPIED)
    expect(after.hostOffset(0)).toBe(before.hostOffset(0))
    expect(after.snapshotsOffset).toBe(0)
  })

  it("QC-SNAP-05 refcounts of one bit allow no snapshot, and the image stays as it is", () => {
    const file = newImage({ clusterSize: 512, refcountBits: 1 })
    withImage(file, (disk) => {
      disk.pwrite(filled(5000, 1), 0)
      expect(failureOf(() => disk.snapshots.create({ name: "one" })).code).toBe("no-space")
      expect(disk.snapshots.list()).toEqual([])
      disk.pwrite(filled(5000, 2), 0)
      same(contentOf(disk, 0, 5000), filled(5000, 2))
    })
    clean(file)
  })

  it("QC-SNAP-10 QC-L1-05 QC-WO-05 VM state lies above the end of the disk, which does not show it", () => {
    const file = newImage({ clusterSize: 512, size: 100_000 })
    const state = Uint8Array.from({ length: 70_001 }, (_, at) => at * 7)
    withImage(file, (disk) => {
      disk.pwrite(filled(5000, 1), 0)
      disk.snapshots.create({ name: "one", vmState: state, vmClock: 5n, icount: 6n, date: 1_700_000_000_123 })
      expect(disk.snapshots.list()).toEqual([
        { id: "1", name: "one", vmStateSize: 70_001, diskSize: 100_352, vmClock: 5n, icount: 6n, date: 1_700_000_000_123 },
      ])
      disk.pwrite(filled(5000, 2), 0)
      const { view, offset, size } = disk.snapshots.openVmState("one")
      expect(offset % (512 * 64)).toBe(0)
      same(contentOf(view, offset, size), state)
      disk.snapshots.apply("one")
      same(contentOf(disk, 0, 5000), filled(5000, 1))
    })
    clean(file)
    withImage(file, (disk) => disk.snapshots.delete("1"))
    clean(file)
  })

  it("QC-SNAP-11 a snapshot is found by its id before its name, and a new id follows the highest number", () => {
    const file = newImage({ clusterSize: 4096 })
    withImage(file, (disk) => {
      disk.snapshots.create({ name: "2" })
      disk.pwrite(filled(1, 7), 0)
      disk.snapshots.create({ name: "1" })
      same(contentOf(disk.snapshots.open("2"), 0, 1), filled(1, 7))
      same(contentOf(disk.snapshots.open("1"), 0, 1), filled(1, 0))
      disk.snapshots.delete("1")
      expect(disk.snapshots.create({ name: "x" }).id).toBe("3")
      expect(disk.snapshots.list().map(({ id, name }) => [id, name])).toEqual([["2", "1"], ["3", "x"]])
      expect(failureOf(() => disk.snapshots.apply("nobody")).code).toBe("not-found")
    })
    clean(file)
  })

  it("QC-SNAP-06 a snapshot opens by its name as a read-only disk", () => {
    const file = newImage({ clusterSize: 4096, size: 40_960 })
    withImage(file, (disk) => {
      disk.pwrite(filled(40_960, 1), 0)
      disk.snapshots.create({ name: "one" })
      disk.resize(80_384)
      disk.pwrite(filled(80_384, 2), 0)
    })
    const view = openInMemory(file.clone(), { snapshot: "one" })
    expect([view.size, view.readOnly]).toEqual([40_960, true])
    same(contentOf(view), filled(40_960, 1))
    expect(failureOf(() => openInMemory(file.clone(), { snapshot: "two" })).code).toBe("not-found")
    expect(failureOf(() => openInMemory(file.clone(), { snapshot: "one", readOnly: false })).code).toBe("read-only")
  })

  it("QC-OVL-01 with overlapCheck all a snapshot keeps its L2 tables when an entry of the disk names one as a data cluster", () => {
    const file = newImage({ clusterSize: 4096 })
    const bytes = withImage(file, (disk) => {
      disk.pwrite(filled(4096, 1), 0)
      disk.snapshots.create({ name: "one" })
      disk.pwrite(filled(4096, 2), 0)
    })
    const snapshotL1 = Number(bytes.u64(bytes.snapshotsOffset))
    const table = bytes.u64(snapshotL1) & 0x00ff_ffff_ffff_fe00n
    bytes.setL2(0, table | COPIED)
    const lying = MemoryFile.of(bytes.bytes, { path: "lying.qcow2" })
    const disk = openInMemory(lying.clone(), { overlapCheck: "all" })
    expect(failureOf(() => disk.pwrite(filled(512, 3), 0)).message).toMatch(/an L2 table of a snapshot is there/)
    // By default only the snapshot's L1 table is protected: the same write goes through.
    openInMemory(lying.clone()).pwrite(filled(512, 3), 0)
  })

  it("QC-OVL-01 with overlapCheck all a snapshot keeps its L2 tables also when that entry is in a table that both share", () => {
    const file = newImage({ clusterSize: 4096, size: 60 * 4096 })
    const bytes = withImage(file, (disk) => {
      disk.pwrite(filled(4 * 4096, 1), 0)
      disk.snapshots.create({ name: "one" })
      disk.pwrite(filled(4096, 2), 0)
      disk.snapshots.create({ name: "two" })
      // No entry of the table has COPIED any more, so the disk and this one share it.
      disk.snapshots.create({ name: "three" })
    })
    const tableOf = (l1: number): number => Number(bytes.u64(l1) & 0x00ff_ffff_ffff_fe00n)
    const theirs = tableOf(Number(bytes.u64(bytes.snapshotsOffset)))
    expect(bytes.u64(bytes.l1At(0)) & COPIED, "the table is shared").toBe(0n)
    bytes.setL2(0, BigInt(theirs) | COPIED)
    const before = bytes.bytes.slice(theirs, theirs + 4096)
    for (const [length, offset] of [[4096, 0], [512, 100], [60 * 4096, 0]] as const) {
      const lying = MemoryFile.of(bytes.bytes, { path: "lying.qcow2" })
      const disk = openInMemory(lying, { overlapCheck: "all" })
      // What is written goes elsewhere; what is given up with the entry is not taken for free.
      for (let round = 0; round < 3; round++) {
        for (const work of [
          () => disk.pwrite(filled(length, 3), offset),
          () => disk.flush(),
          () => disk.pwrite(filled(50 * 4096, 4), 9 * 4096),
        ]) {
          try {
            work()
          } catch (error) {
            if (!(error instanceof BackingError) || error.code !== "corrupt") throw error
          }
        }
      }
      disk.close()
      expect(Buffer.compare(lying.clone().toBytes().subarray(theirs, theirs + 4096), before), `${length} bytes at ${offset}`).toBe(0)
    }
  })

  it("can be taken, applied and deleted on a disk of 0 bytes", () => {
    const file = newImage({ clusterSize: 512, size: 0 })
    withImage(file, (disk) => {
      disk.snapshots.create({ name: "nothing" })
      disk.snapshots.apply("nothing")
      disk.snapshots.delete("nothing")
    })
    clean(file)
    expect(openInMemory(file.clone()).size).toBe(0)
  })
})
