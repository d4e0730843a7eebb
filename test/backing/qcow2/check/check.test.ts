/** checkQcow2 against what QEMU said of the golden images, and against images with one thing wrong. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { openQcow2 } from "../../../../src/backing/host/open-qcow2.ts"
import { checkQcow2, type CheckResult } from "../../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../../src/backing/qcow2/check/repair.ts"
import { goldenBytes, goldenImages } from "../../../support/golden.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"

const COPIED = 1n << 63n

describe("golden images", () => {
  for (const golden of goldenImages) {
    it(`QC-CHK-01 QC-REF-04 counts ${golden.file} (${golden.about}) as qemu-img check does`, () => {
      const file = MemoryFile.of(goldenBytes(golden.file), { readOnly: true })
      const expected = (name: string): number => Number(golden.check[name] ?? 0)
      expect(checkQcow2(file)).toMatchObject({
        corruptions: expected("corruptions"),
        leaks: expected("leaks"),
        imageEndOffset: expected("image-end-offset"),
        totalClusters: expected("total-clusters"),
        allocatedClusters: expected("allocated-clusters"),
        fragmentedClusters: expected("fragmented-clusters"),
        compressedClusters: expected("compressed-clusters"),
      })
    })
  }
})

/** Checks a golden image after `damage`. */
function checkDamaged(name: string, damage: (image: Qcow2Bytes) => void): CheckResult {
  const image = new Qcow2Bytes(goldenBytes(name))
  damage(image)
  const file = MemoryFile.of(image.bytes)
  const result = checkQcow2(file)
  expect(file.changes).toBe(0)
  return result
}

function kinds(result: CheckResult): string[] {
  return [...new Set(result.findings.map((finding) => finding.kind))].sort()
}

describe("one defect", () => {
  it("QC-CHK-01 a refcount above the references is a leak, exit code 3", () => {
    const result = checkDamaged("v3-4k.qcow2", (image) => image.setRefcount(6, 5n))
    // The cluster's COPIED flag is set, and its refcount is no longer one.
    expect(result).toMatchObject({ leaks: 1, exitCode: 2 })
    expect(
      checkDamaged("snapshots.qcow2", (image) => image.setRefcount(image.hostOffset(512) / 512, 9n)),
    ).toMatchObject({ leaks: 1, corruptions: 0, exitCode: 3 })
  })

  it("QC-CHK-01 a refcount below the references is a corruption, exit code 2", () => {
    const result = checkDamaged("snapshots.qcow2", (image) => image.setRefcount(image.hostOffset(512) / 512, 2n))
    expect(result).toMatchObject({ leaks: 0, corruptions: 1, exitCode: 2 })
    expect(result.findings[0]).toMatchObject({ kind: "refcount", message: expect.stringMatching(/has refcount 2 and 3 references/) })
  })

  it("QC-CHK-02 COPIED is reported where it is missing and where it is too much, in L1 and L2", () => {
    for (const name of ["v3-4k.qcow2", "snapshots.qcow2", "zero.qcow2"]) {
      for (const at of [(image: Qcow2Bytes): number => image.l1At(0), (image: Qcow2Bytes): number => image.l2At(0) ?? 0]) {
        const result = checkDamaged(name, (image) => image.setU64(at(image), image.u64(at(image)) ^ COPIED))
        expect(kinds(result)).toEqual(["copied"])
        expect(result).toMatchObject({ corruptions: 1, exitCode: 2 })
      }
    }
  })

  it("QC-CHK-03 QC-CHK-07 an L1 entry with COPIED and no table is reported, and a repair of all empties it", () => {
    const image = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    // The disk reads as zeroes from then on: its only table is gone.
    const file = MemoryFile.of(image.setU64(image.l1At(0), COPIED).bytes)
    expect(kinds(checkQcow2(file))).toEqual(["leak", "reserved-bits"])
    expect(repairQcow2(file, "all").exitCode).toBe(0)
    expect(new Qcow2Bytes(file.toBytes()).u64(image.l1At(0))).toBe(0n)
  })

  it("QC-CHK-06 QC-BMP-05 QC-BMP-06 bitmaps that keep the image from being opened for writing are reported, none freed", () => {
    const damages: readonly ((image: Qcow2Bytes, entry: number, extension: number) => void)[] = [
      (image, entry) => image.setU32(entry + 12, 8), (image, entry) => image.setU8(entry + 16, 2),
      (image, entry) => image.setU8(entry + 17, 8), (image, entry) => image.setU16(entry + 18, 0),
      (image, entry) => image.setU32(entry + 8, 2), (image, _, extension) => image.setU32(extension, 0),
      (image, _, extension) => image.setU64(extension + 8, image.u64(extension + 8) + 8n),
    ]
    for (const [index, damage] of damages.entries()) {
      const image = new Qcow2Bytes(goldenBytes("bitmap.qcow2"))
      const extension = image.extensionAt(0x2385_2875)
      damage(image, Number(image.u64(extension + 16)), extension)
      const file = MemoryFile.of(image.bytes)
      expect(kinds(checkQcow2(file)), `damage ${index}`).toContain("bitmap")
      expect(() => openQcow2(MemoryFile.of(image.bytes)), `damage ${index}`).toThrow("bitmap")
      expect(repairQcow2(file, "all").exitCode, `damage ${index}`).toBe(2)
      expect(Buffer.compare(file.toBytes(), image.bytes)).toBe(0)
    }
  })

  it("QC-CHK-03 reserved bits are reported in L1, L2 and refcount table entries, every one of them", () => {
    const bits = Array.from({ length: 64 }, (_, bit) => bit)
    const l1 = bits.filter((bit) => bit < 9 || (bit > 55 && bit < 63))
    const l2 = bits.filter((bit) => (bit > 0 && bit < 9) || (bit > 55 && bit < 62))
    const table = bits.filter((bit) => bit < 9)
    for (const bit of l1) {
      expect(
        kinds(checkDamaged("v3-4k.qcow2", (image) => image.setU64(image.l1Offset, image.u64(image.l1Offset) | (1n << BigInt(bit))))),
      ).toEqual(["reserved-bits"])
    }
    for (const bit of l2) {
      expect(kinds(checkDamaged("v3-4k.qcow2", (image) => image.setL2(0, image.l2(0) | (1n << BigInt(bit)))))).toEqual(["reserved-bits"])
    }
    for (const bit of table) {
      const damaged = (image: Qcow2Bytes): unknown => image.setU64(
        image.refcountTableOffset, image.u64(image.refcountTableOffset) | (1n << BigInt(bit)),
      )
      expect(kinds(checkDamaged("v3-4k.qcow2", damaged))).toEqual(["reserved-bits"])
    }
  })

  it("QC-CHK-04 unaligned L2 tables, data clusters, refcount blocks and snapshot L1 tables are reported", () => {
    expect(
      kinds(checkDamaged("v3-4k.qcow2", (image) => image.setU64(image.l1Offset, image.u64(image.l1Offset) + 512n))),
    ).toContain("alignment")
    expect(kinds(checkDamaged("v3-4k.qcow2", (image) => image.setL2(0, image.l2(0) + 512n)))).toContain("alignment")
    expect(
      kinds(checkDamaged("v3-4k.qcow2", (image) => image.setU64(image.refcountTableOffset, image.u64(image.refcountTableOffset) + 512n))),
    ).toContain("refcount-block")
    expect(
      kinds(checkDamaged("snapshots-v2.qcow2", (image) => image.setU64(image.snapshotsOffset, image.u64(image.snapshotsOffset) + 512n))),
    ).toContain("snapshot")
  })

  it("QC-CHK-04 QC-CMP-04 COPIED on a compressed cluster is reported", () => {
    expect(kinds(checkDamaged("zlib-4k.qcow2", (image) => image.setL2(0, image.l2(0) | COPIED)))).toEqual(["compressed-copied"])
  })

  it("QC-CHK-05 a reference a cluster or more past the end of the file is a corruption, a nearer one is not", () => {
    const cut = (bytes: number) => (image: Qcow2Bytes): void => {
      image.bytes = image.bytes.slice(0, image.bytes.length - bytes)
    }
    expect(checkDamaged("v3-4k.qcow2", cut(4095))).toMatchObject({ exitCode: 0 })
    const result = checkDamaged("v3-4k.qcow2", cut(4096))
    expect(result).toMatchObject({ exitCode: 2 })
    expect(kinds(result)).toContain("beyond-end")
  })

  it("QC-CHK-05 a refcount block outside the file, named twice, or used by something else is a corruption", () => {
    for (const entry of [1n << 40n, 0n]) {
      const result = checkDamaged("v3-4k.qcow2", (image) => image.setU64(image.refcountTableOffset, entry))
      expect(result.exitCode).toBe(2)
      expect(kinds(result)).toContain("refcount")
    }
    const twice = checkDamaged("v3-4k.qcow2", (image) => image.setU64(image.refcountTableOffset + 8, image.u64(image.refcountTableOffset)))
    expect(kinds(twice)).toEqual(["refcount-block"])
    const shared = checkDamaged("v3-4k.qcow2", (image) => image.setL2(20480, image.u64(image.refcountTableOffset)))
    expect(kinds(shared)).toContain("refcount-block")
  })

  it("QC-CHK-06 QC-SNAP-02 QC-SNAP-03 a broken snapshot table is reported, and hides no other finding", () => {
    const shortExtra = checkDamaged("snapshots.qcow2", (image) => image.setU32(image.snapshotsOffset + 36, 8))
    expect(kinds(shortExtra)).toContain("snapshot")
    const bigL1 = checkDamaged("snapshots.qcow2", (image) => image.setU32(image.snapshotsOffset + 8, 4194305))
    expect(kinds(bigL1)).toContain("snapshot")
    const bigExtra = checkDamaged("snapshots.qcow2", (image) => image.setU32(image.snapshotsOffset + 36, 1025))
    expect(kinds(bigExtra)).toContain("snapshot")
    expect(kinds(checkDamaged("snapshots.qcow2", (image) => image.setU32(60, 40000)))).toContain("snapshot")
  })

  it("QC-CHK-06 a broken bitmap directory or table is reported", () => {
    const directory = (image: Qcow2Bytes): number => image.extensionAt(0x2385_2875)
    expect(kinds(checkDamaged("bitmap.qcow2", (image) => image.setU64(directory(image) + 8, 8n)))).toContain("bitmap")
    expect(kinds(checkDamaged("bitmap.qcow2", (image) => image.setU64(directory(image) + 16, 512n)))).toContain("bitmap")
    const table = (image: Qcow2Bytes): number => Number(image.u64(Number(image.u64(directory(image) + 16))))
    expect(kinds(checkDamaged("bitmap.qcow2", (image) => image.setU64(table(image), image.u64(table(image)) | 2n)))).toEqual(["bitmap"])
    expect(kinds(checkDamaged("bitmap.qcow2", (image) => image.setU64(table(image), 512n | (1n << 12n))))).toContain("bitmap")
  })

  it("QC-L2-04 a zero flag in a version 2 image is a corruption", () => {
    expect(kinds(checkDamaged("v2.qcow2", (image) => image.setL2(0, image.l2(0) | 1n)))).toEqual(["alignment"])
  })

  it("QC-FEAT-01 an unknown incompatible feature is refused by name, since it may mean anything", () => {
    const image = new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).setU64(72, 1n << 63n)
    expect(() => checkQcow2(MemoryFile.of(image.bytes))).toThrow(BackingError)
    expect(() => checkQcow2(MemoryFile.of(image.bytes))).toThrow(/feature bit 63 at byte 72/)
  })
})

/** Counts what is read of a file. */
class CountingFile extends MemoryFile {
  bytesRead = 0

  override readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.bytesRead += length
    return super.readInto(buffer, start, length, offset)
  }
}

describe("bounded work", () => {
  it("QC-LIM-05 an L1 table of 4 million entries that all name one L2 table has it read once", () => {
    const golden = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    const file = new CountingFile()
    file.write(golden.bytes, 0)
    const entries = 4194304
    const l1Offset = 1 << 20
    const l1 = new Uint8Array(entries * 8)
    new DataView(l1.buffer).setBigUint64(0, golden.u64(golden.l1Offset))
    for (let filled = 8; filled < l1.length; filled *= 2) l1.copyWithin(filled, 0, filled)
    file.write(l1, l1Offset)
    const header = new Qcow2Bytes(golden.bytes).setU32(36, entries).setU64(40, BigInt(l1Offset))
    file.write(header.bytes.subarray(0, 112), 0)
    const result = checkQcow2(file)
    expect(result.exitCode).toBe(2)
    expect(result.findings.length).toBeLessThanOrEqual(1000)
    expect(result.corruptions).toBeGreaterThan(1000)
    expect(file.bytesRead).toBeLessThan(2 * file.size())
  })

  it("QC-LIM-05 65536 snapshots that share one large L1 table have it read once", () => {
    const golden = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    const file = new CountingFile()
    file.write(golden.bytes, 0)
    const tableOffset = 1 << 20
    const table = new Uint8Array(65536 * 56)
    const view = new DataView(table.buffer)
    for (let index = 0; index < 65536; index++) {
      view.setBigUint64(index * 56, BigInt(4096 * 4096))
      view.setUint32(index * 56 + 8, 4194304 - index) // no two alike
      view.setUint32(index * 56 + 36, 16)
    }
    file.write(table, tableOffset)
    file.write(new Uint8Array(8), 4096 * 4096 + 4194304 * 8 - 8)
    file.write(new Qcow2Bytes(golden.bytes).setU32(60, 65536).setU64(64, BigInt(tableOffset)).bytes.subarray(0, 112), 0)
    expect(checkQcow2(file).exitCode).toBe(2)
    expect(file.bytesRead).toBeLessThan(2 * file.size())
  })

  it("QC-LIM-05 a refcount table whose entries all name one block has it read once", () => {
    const golden = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    const file = new CountingFile()
    const tableOffset = 1 << 20
    const table = new Uint8Array(8 << 20)
    const view = new DataView(table.buffer)
    for (let at = 0; at < table.length; at += 8) view.setBigUint64(at, golden.u64(golden.refcountTableOffset))
    file.write(golden.bytes, 0)
    file.write(table, tableOffset)
    file.write(new Qcow2Bytes(golden.bytes).setU64(48, BigInt(tableOffset)).setU32(56, table.length / 4096).bytes.subarray(0, 112), 0)
    expect(checkQcow2(file).exitCode).toBe(2)
    expect(file.bytesRead).toBeLessThan(2 * file.size())
  })
})
