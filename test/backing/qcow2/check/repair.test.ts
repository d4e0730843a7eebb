/** repairQcow2: what it changes, what it leaves alone, and that a crash in the middle of it does no harm. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../../src/backing/qcow2/check/repair.ts"
import { goldenBytes, goldenImages } from "../../../support/golden.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { tableMutations } from "../../../support/mutations.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { applyChange, crashedFile, RecordingFile } from "../../../support/recording-file.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"

const seed = seedFromEnvironment(4711)
const COPIED = 1n << 63n
const DIRTY_AND_CORRUPT = 3n

function damaged(name: string, damage: (image: Qcow2Bytes) => void): { image: Qcow2Bytes; file: MemoryFile } {
  const image = new Qcow2Bytes(goldenBytes(name))
  damage(image)
  return { image, file: MemoryFile.of(image.bytes) }
}

/** What the active tables say, without the flags that a repair may change: where each guest cluster's content lies. */
function mappingOf(file: MemoryFile): string {
  const image = new Qcow2Bytes(file.toBytes())
  const entries: string[] = []
  for (let offset = 0; offset < image.size; offset += image.clusterSize) {
    const l1At = image.l1At(offset)
    const table = Number(image.u64(l1At) & 0x00ff_ffff_ffff_fe00n)
    const readable = table !== 0 && table % image.clusterSize === 0 && table + image.clusterSize <= image.bytes.length
    const entry = readable ? image.l2(offset) : 0n
    const compressed = (entry & (1n << 62n)) !== 0n
    const shown = compressed ? entry & ~COPIED : (entry & 1n) !== 0n ? 1n : entry & 0x00ff_ffff_ffff_fe00n
    entries.push(shown.toString(16))
  }
  return entries.join(" ")
}

describe("repair", () => {
  it("QC-CHK-07 leaks: lowers refcounts and changes nothing else", () => {
    const { image, file } = damaged("snapshots.qcow2", (bytes) => bytes.setRefcount(7, 60n).setRefcount(bytes.hostOffset(512) / 512, 44n))
    const result = repairQcow2(file, "leaks")
    expect(result).toMatchObject({ exitCode: 0, leaksFixed: 2, leaks: 0, corruptions: 0 })
    expect(file.toBytes()).toEqual(goldenBytes("snapshots.qcow2"))
    expect(image.bytes).not.toEqual(goldenBytes("snapshots.qcow2"))
  })

  it("QC-CHK-07 leaks: corrects COPIED once the refcounts are right, as after half a snapshot deletion", () => {
    const { file } = damaged("v3-4k.qcow2", (bytes) => {
      const cluster = bytes.hostOffset(0) / 4096
      bytes.setRefcount(cluster, 2n).setL2(0, bytes.l2(0) & ~COPIED)
    })
    expect(checkQcow2(file).exitCode).toBe(3)
    expect(repairQcow2(file, "leaks")).toMatchObject({ exitCode: 0, leaksFixed: 1 })
    expect(file.toBytes()).toEqual(goldenBytes("v3-4k.qcow2"))
  })

  it("QC-CHK-07 leaks: leaves corruptions, and says so", () => {
    const { image, file } = damaged("v3-4k.qcow2", (bytes) => bytes.setRefcount(0, 0n))
    expect(repairQcow2(file, "leaks")).toMatchObject({ exitCode: 2, corruptions: 1, corruptionsFixed: 0 })
    expect(file.toBytes()).toEqual(image.bytes)
  })

  it("QC-CHK-07 leaks: writes nothing while the refcount table names something else as a block", () => {
    for (const place of [
      (image: Qcow2Bytes): number => image.hostOffset(512),
      (image: Qcow2Bytes): number => image.l1Offset,
      (): number => 0,
    ]) {
      const { image, file } = damaged(
        "snapshots.qcow2",
        (bytes) => bytes.setRefcount(7, 60n).setU64(bytes.refcountTableOffset + 8, BigInt(place(bytes)) | 1n),
      )
      expect(repairQcow2(file, "leaks")).toMatchObject({ exitCode: 2 })
      expect(file.toBytes()).toEqual(image.bytes)
    }
  })

  it("QC-CHK-07 all: raises refcounts where there are blocks, without a new structure", () => {
    const { image, file } = damaged("v3-512.qcow2", (bytes) => {
      for (let cluster = 0; cluster < bytes.clusters; cluster += 3) bytes.setRefcount(cluster, 0n)
    })
    expect(repairQcow2(file, "all")).toMatchObject({ exitCode: 0, leaks: 0 })
    expect(file.toBytes()).toEqual(goldenBytes("v3-512.qcow2"))
    expect(file.size()).toBe(image.bytes.length)
  })

  it("QC-CHK-07 QC-HDR-11 all: builds the refcount structure anew when blocks or the table are gone", () => {
    for (const { file: name } of goldenImages) {
      for (const damage of [
        (bytes: Qcow2Bytes): unknown => bytes.setU64(bytes.refcountTableOffset, 0n),
        (bytes: Qcow2Bytes): unknown => bytes.setU64(bytes.refcountTableOffset, 513n),
        (bytes: Qcow2Bytes): unknown => bytes.setU64(bytes.refcountTableOffset, 1n << 50n),
        (bytes: Qcow2Bytes): unknown => bytes.setU64(bytes.refcountTableOffset, BigInt(bytes.l1Offset)),
        (bytes: Qcow2Bytes): unknown => bytes.setU32(56, 0),
      ]) {
        const { file } = damaged(name, damage)
        const mapping = mappingOf(file)
        expect(repairQcow2(file, "all"), name).toMatchObject({ exitCode: 0 })
        expect(checkQcow2(file).exitCode).toBe(0)
        expect(mappingOf(file)).toBe(mapping)
      }
    }
  })

  it("QC-CHK-07 all: turns an unaligned preallocated zero cluster into a plain one", () => {
    const { file } = damaged("v3-4k.qcow2", (bytes) => bytes.setL2(0, bytes.l2(0) + 512n + 1n))
    const result = repairQcow2(file, "all")
    expect(result).toMatchObject({ exitCode: 0 })
    expect(new Qcow2Bytes(file.toBytes()).l2(0)).toBe(1n)
  })

  it("QC-CHK-07 all: lets two guest clusters share the host cluster that both name", () => {
    const { file } = damaged("v3-4k.qcow2", (bytes) => bytes.setL2(4096, bytes.l2(0)))
    expect(repairQcow2(file, "all")).toMatchObject({ exitCode: 0 })
    const after = new Qcow2Bytes(file.toBytes())
    expect(after.refcount(after.hostOffset(0) / 4096)).toBe(2n)
    expect([after.l2(0) & COPIED, after.l2(4096) & COPIED]).toEqual([0n, 0n])
  })

  it("QC-CHK-07 all: does not correct other metadata that an L1 entry names as its L2 table", () => {
    for (const place of [
      (image: Qcow2Bytes): number => image.snapshotsOffset,
      (image: Qcow2Bytes): number => Number(image.u64(image.snapshotsOffset)),
    ]) {
      const { image, file } = damaged("snapshots.qcow2", (bytes) => bytes.setU64(bytes.l1At(0), BigInt(place(bytes)) | COPIED))
      repairQcow2(file, "all")
      const start = place(image)
      expect(Buffer.compare(file.toBytes().subarray(start, start + 512), image.bytes.subarray(start, start + 512))).toBe(0)
    }
  })

  it("QC-CHK-07 all: does not correct guest data that an L1 entry of the disk or of a snapshot names as its L2 table", () => {
    const entries: readonly ((image: Qcow2Bytes) => number)[] = [
      (image) => image.l1At(image.size - 1), (image) => Number(image.u64(image.snapshotsOffset)),
    ]
    for (const entryOf of entries) {
      const data = new Uint8Array(512).map((_, index) => index % 251)
      let place = 0
      const { file } = damaged("snapshots.qcow2", (bytes) => {
        place = bytes.hostOffset(0)
        bytes.bytes.set(data, place)
        bytes.setU64(entryOf(bytes), BigInt(place) | COPIED)
      })
      repairQcow2(file, "all")
      expect(new Qcow2Bytes(file.toBytes()).hostOffset(0)).toBe(place)
      expect(file.toBytes().subarray(place, place + 512)).toEqual(data)
    }
  })

  it("QC-CHK-08 clears dirty and corrupt once no corruption is left, and not before", () => {
    const { file } = damaged("v3-4k.qcow2", (bytes) => bytes.setU64(72, DIRTY_AND_CORRUPT))
    expect(repairQcow2(file, "leaks").exitCode).toBe(0)
    expect(new Qcow2Bytes(file.toBytes()).incompatible).toBe(0n)

    const broken = damaged("v3-4k.qcow2", (bytes) => bytes.setU64(72, DIRTY_AND_CORRUPT).setL2(0, bytes.l2(0) + 512n))
    expect(repairQcow2(broken.file, "all").exitCode).toBe(2)
    expect(new Qcow2Bytes(broken.file.toBytes()).incompatible).toBe(DIRTY_AND_CORRUPT)
  })

  it("QC-FEAT-04 QC-FEAT-09 an image whose writer was killed under lazy refcounts is repaired in place", () => {
    const { image, file } = damaged("dirty.qcow2", () => undefined)
    const mapping = mappingOf(file)
    expect(image.incompatible).toBe(1n)
    const result = repairQcow2(file, "all")
    expect(result).toMatchObject({ exitCode: 0, corruptionsFixed: 80 })
    expect(new Qcow2Bytes(file.toBytes()).incompatible).toBe(0n)
    expect(mappingOf(file)).toBe(mapping)
  })

  it("does not free clusters that look unused while a table that may refer to them is missing", () => {
    const { file } = damaged("v3-4k.qcow2", (bytes) => bytes.setU64(bytes.l1Offset, bytes.u64(bytes.l1Offset) + 512n))
    const found = checkQcow2(file)
    expect(found.leaks).toBeGreaterThan(0)
    for (const mode of ["leaks", "all"] as const) {
      const result = repairQcow2(file, mode)
      expect(result).toMatchObject({ exitCode: 2, leaks: found.leaks, leaksFixed: 0 })
    }
    // Somebody who knows better puts the entry right: everything is still there.
    const image = new Qcow2Bytes(file.toBytes())
    image.setU64(image.l1Offset, image.u64(image.l1Offset) - 512n)
    expect(checkQcow2(MemoryFile.of(image.bytes)).exitCode).toBe(0)
  })

  it("QC-REF-07 leaves a reference count that the width cannot hold as a corruption", () => {
    const { file } = damaged("refcount-1.qcow2", (bytes) => bytes.setL2(512, bytes.l2(0)))
    expect(repairQcow2(file, "all")).toMatchObject({ exitCode: 2 })
  })

  it("QC-CHK-09 refuses a read-only file, and writes nothing to a clean image", () => {
    const readOnly = MemoryFile.of(goldenBytes("dirty.qcow2"), { readOnly: true })
    expect(() => repairQcow2(readOnly, "all")).toThrow(BackingError)
    for (const { file: name } of goldenImages.filter((golden) => golden.file !== "dirty.qcow2")) {
      const file = MemoryFile.of(goldenBytes(name))
      expect(repairQcow2(file, "all").exitCode).toBe(0)
      expect(file.changes, name).toBe(0)
    }
  })
})

/** With an L2 table in the place of another structure, no repair can keep what both say. */
const movesTables = /L1 (entry elsewhere|random)/

describe(`seeded damage, seed ${seed}`, () => {
  for (const [name, mutate] of Object.entries(tableMutations)) {
    it(`QC-CHK-07 after "${name}" a repair never throws, never moves content, and finds nothing more to do the second time`, () => {
      for (let round = 0; round < 25; round++) {
        const rng = new Rng(seed + round * 977)
        const { file } = damaged(rng.pick(goldenImages).file, (image) => mutate(image, rng))
        const before = checkQcow2(file)
        const mapping = mappingOf(file)
        const result = repairQcow2(file, "all")
        expect(result.corruptions + result.leaks).toBeLessThanOrEqual(before.corruptions + before.leaks)
        if (!movesTables.test(name)) expect(mappingOf(file)).toBe(mapping)
        expect(checkQcow2(file)).toMatchObject({ exitCode: result.exitCode, corruptions: result.corruptions, leaks: result.leaks })
        const again = file.clone()
        repairQcow2(again, "all")
        if (result.exitCode === 0) expect(again.changes).toBe(0)
      }
    })
  }

  it("QC-WO-08 a power cut at any write of a repair moves no content, and the repair can be done again", () => {
    const choices = Object.entries(tableMutations).filter(([name]) => !movesTables.test(name)).map(([, mutate]) => mutate)
    for (let round = 0; round < 60; round++) {
      const rng = new Rng(seed + round)
      const { file } = damaged(rng.pick(goldenImages).file, (image) => rng.pick(choices)(image, rng))
      const base = file.clone()
      const mapping = mappingOf(file)
      const recorder = new RecordingFile(file)
      const result = repairQcow2(recorder, "all")
      if (result.exitCode !== 0) continue
      const prefix = base.clone()
      for (const [index, change] of recorder.log.entries()) {
        for (const crashed of [prefix.clone(), crashedFile(base, recorder.log, index, rng)]) {
          expect(mappingOf(crashed)).toBe(mapping)
          expect(repairQcow2(crashed, "all")).toMatchObject({ exitCode: 0 })
        }
        applyChange(prefix, change)
      }
    }
  })
})
