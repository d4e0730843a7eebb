/** The size of a disk changes: what is new is zero, what was cut off never comes back, and the image stays sound. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { openQcow2 } from "../../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import { changeBacking, prepareBacking } from "../../../../src/backing/qcow2/layers/change-backing.ts"
import { RawBacking } from "../../../../src/backing/raw.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { contentOf, failureOf, filled, isZero, newImage, newOverlay, withImage } from "../small-images.ts"

function clean(file: MemoryFile): void {
  expect(checkQcow2(file.clone({ readOnly: true }))).toMatchObject({ corruptions: 0, leaks: 0, findings: [] })
}

describe("a disk", () => {
  it("QC-RSZ-01 a disk has whole sectors, and no more than the L1 table can map", () => {
    withImage(newImage({ clusterSize: 512, size: 1024 }), (disk) => {
      for (const size of [1100, -512, 0.5, Number.NaN]) expect(failureOf(() => disk.resize(size)).message).toMatch(/not a multiple of 512/)
      expect(failureOf(() => disk.resize(2 ** 42)).message).toMatch(/too large for clusters of 512 bytes, which allow 137438953472/)
      expect(disk.size).toBe(1024)
      disk.resize(1024)
    })
  })

  it("QC-WO-05 QC-WO-10 a disk grows with its L1 table, and keeps its content, followed by zeroes", () => {
    const file = newImage({ clusterSize: 512, size: 1024 })
    withImage(file, (disk) => {
      disk.pwrite(filled(1024, 1), 0)
      disk.resize(300_032)
      expect(disk.size).toBe(300_032)
      expect(isZero(contentOf(disk, 1024))).toBe(true)
      disk.pwrite(filled(512, 2), 299_520)
    })
    clean(file)
    withImage(file, (disk) => {
      expect(disk.size).toBe(300_032)
      expect(Buffer.compare(contentOf(disk, 0, 1024), filled(1024, 1))).toBe(0)
      expect(Buffer.compare(contentOf(disk, 299_520), filled(512, 2))).toBe(0)
    })
  })

  it("QC-RSZ-04 QC-DZ-09 a disk shrinks only on request, and frees the clusters that go and the end of its file", () => {
    const file = newImage({ clusterSize: 512, size: 400_384 })
    const before = withImage(file, (disk) => disk.pwrite(filled(400_384, 1), 0))
    withImage(file, (disk) => {
      expect(failureOf(() => disk.resize(1024)).message).toMatch(/allow it by shrink/)
      disk.resize(1024, { shrink: true })
      expect(disk.size).toBe(1024)
      disk.resize(1024, { shrink: true })
    })
    clean(file)
    const after = new Qcow2Bytes(file.toBytes())
    expect(after.bytes.length).toBeLessThan(before.bytes.length / 4)
    expect(Buffer.compare(contentOf(openQcow2(file.clone())), filled(1024, 1))).toBe(0)
  })

  it("QC-RSZ-05 a disk that grows again shows nothing of what was cut off, not even inside a cluster", () => {
    for (const value of [100_352, 512 * 3]) {
      const file = newImage({ clusterSize: 4096, size: 200_192 })
      withImage(file, (disk) => disk.pwrite(filled(200_192, 7), 0))
      withImage(file, (disk) => disk.resize(value, { shrink: true }))
      clean(file)
      const bytes = new Qcow2Bytes(file.toBytes())
      const host = bytes.hostOffset(value - 1)
      expect(isZero(bytes.bytes.subarray(host + (value % 4096), host + 4096))).toBe(true)
      withImage(file, (disk) => {
        disk.resize(200_192)
        expect(isZero(contentOf(disk, value))).toBe(true)
      })
      clean(file)
    }
  })

  it("QC-RSZ-05 bytes that another program left behind the end read as zeroes after growing", () => {
    const file = newImage({ clusterSize: 4096, size: 8192 })
    const bytes = withImage(file, (disk) => disk.pwrite(filled(8192, 7), 0))
    // As QEMU cuts: the size, and nothing else.
    bytes.setU64(24, 4608n)
    const cut = MemoryFile.of(bytes.bytes, { path: "cut.qcow2" })
    withImage(cut, (disk) => {
      disk.resize(12_288)
      expect(isZero(contentOf(disk, 4608))).toBe(true)
      expect(Buffer.compare(contentOf(disk, 0, 4608), filled(4608, 7))).toBe(0)
    })
    clean(cut)
  })

  for (const compat of ["0.10", "1.1"] as const) {
    it(`QC-RSZ-03 QC-BF-04 the new part does not show a longer backing image, compat ${compat}`, () => {
      const { file, openBacking } = newOverlay(filled(40_000, 9), { clusterSize: 4096, size: 10_240, compat })
      withImage(file, (disk) => {
        disk.resize(60_416)
        expect(Buffer.compare(contentOf(disk, 0, 10_240), filled(10_240, 9))).toBe(0)
        expect(isZero(contentOf(disk, 10_240))).toBe(true)
      }, { openBacking })
      clean(file)
    })
  }

  it("QC-RSZ-03 the new part does not show a longer image that becomes the backing image later", () => {
    const { file, openBacking } = newOverlay(filled(10_240, 9), { clusterSize: 4096, size: 10_240 })
    const disk = openQcow2(file, { openBacking })
    const next = { reference: { name: "next", format: "raw" }, disk: new RawBacking(MemoryFile.of(filled(40_000, 8))) }
    prepareBacking(disk, next)
    disk.resize(60_416)
    changeBacking(disk, next)?.close()
    expect(isZero(contentOf(disk, 10_240))).toBe(true)
    disk.close()
    clean(file)
  })

  // Where nothing counts it, and where not even a refcount block is.
  it.each([0, 3000])("QC-RSZ-04 QC-OVL-01 a table %i clusters behind the new end stays, whatever refcounts say", (distance) => {
    const image = withImage(newImage({ clusterSize: 4096, size: 40_960 }), (disk) => disk.pwrite(filled(4096, 1), 0))
    const place = image.bytes.length + distance * 4096
    const bytes = new Uint8Array(place + 4096)
    bytes.set(image.bytes)
    bytes.copyWithin(place, image.l1Offset, image.l1Offset + 4096)
    const file = MemoryFile.of(new Qcow2Bytes(bytes).setU64(40, BigInt(place)).bytes)
    withImage(file, (disk) => {
      try {
        disk.resize(36_864, { shrink: true })
      } catch (error) {
        if (!(error instanceof BackingError) || error.code !== "corrupt") throw error
      }
      expect(contentOf(disk, 0, 4096)[0]).toBe(1)
    })
    expect(contentOf(openQcow2(file.clone({ readOnly: true })), 0, 4096)[0]).toBe(1)
  })

  it("QC-RSZ-02 a disk may have another size than its snapshots in version 3, but not in version 2", () => {
    const file = newImage({ clusterSize: 512, size: 20_480 })
    withImage(file, (disk) => {
      disk.pwrite(filled(20_480, 1), 0)
      disk.snapshots.create({ name: "short" })
      disk.resize(80_384)
      disk.pwrite(filled(512, 2), 79_872)
      disk.snapshots.create({ name: "long" })
      disk.resize(1024, { shrink: true })
      expect(disk.snapshots.list().map(({ diskSize }) => diskSize)).toEqual([20_480, 80_384])
      disk.snapshots.apply("long")
      expect([disk.size, contentOf(disk, 79_872)[0]]).toEqual([80_384, 2])
      disk.snapshots.apply("short")
      expect(disk.size).toBe(20_480)
      expect(Buffer.compare(contentOf(disk), filled(20_480, 1))).toBe(0)
    })
    clean(file)
    const old = newImage({ clusterSize: 512, size: 20_480, compat: "0.10" })
    withImage(old, (disk) => {
      disk.resize(10_240, { shrink: true })
      disk.snapshots.create({ name: "one" })
      expect(failureOf(() => disk.resize(20_480)).code).toBe("unsupported")
      expect(failureOf(() => disk.resize(512, { shrink: true })).code).toBe("unsupported")
    })
    clean(old)
  })

  for (const preallocation of ["metadata", "falloc", "full"] as const) {
    it(`QC-RSZ-06 the new part is preallocated on request: ${preallocation}`, () => {
      const file = newImage({ clusterSize: 4096, size: 10_240 })
      withImage(file, (disk) => {
        disk.pwrite(filled(10_240, 1), 0)
        disk.discard(0, 4096)
        disk.resize(3_000_320, { preallocation })
        expect(isZero(contentOf(disk, 10_240))).toBe(true)
        expect(failureOf(() => disk.resize(512, { shrink: true, preallocation })).code).toBe("invalid-argument")
        expect([...disk.map(0, disk.size)].filter(({ kind }) => kind !== "data").reduce((sum, { length }) => sum + length, 0)).toBe(4096)
      })
      clean(file)
    })
  }

  it("QC-RSZ-06 preallocation over a backing image is refused", () => {
    const { file, openBacking } = newOverlay(filled(5000, 9), { size: 10_240 })
    withImage(file, (disk) => {
      expect(failureOf(() => disk.resize(20_480, { preallocation: "full" })).message).toMatch(/would hide the backing image/)
    }, { openBacking })
  })
})
