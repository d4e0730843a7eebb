/** Discard and zeroes in qcow2 images. */
import { describe, expect, it } from "vitest"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { goldenBytes } from "../../support/golden.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { RecordingFile } from "../../support/recording-file.ts"
import { contentOf, COPIED, fileOf, filled, isZero, newImage, newOverlay, withImage, ZERO } from "./small-images.ts"

const CLUSTER = 65536

/** An image with a cluster of every kind: 0 normal, 1 zero, 2 zero with a place, 3 unallocated. Guest clusters 4 to 6 are normal. */
function everyKind(options: Parameters<typeof newImage>[0] = {}): Qcow2Bytes {
  const image = withImage(newImage(options), (disk) => {
    disk.pwrite(filled(3 * CLUSTER, 7), 0)
    disk.pwrite(filled(3 * CLUSTER, 8), 4 * CLUSTER)
    if (options.compat === "0.10") return
    disk.writeZeroes(CLUSTER, CLUSTER, true)
    disk.writeZeroes(2 * CLUSTER, CLUSTER, false)
  })
  return image
}

describe("discard", () => {
  it("the file is asked whether it punches holes only for the first discard, since the host needs two processes for that", () => {
    const file = newImage({ size: 32 * CLUSTER })
    let asked = 0
    Object.defineProperty(file, "canPunchHole", { get: () => (asked++, true) })
    const disk = openQcow2(file)
    disk.pwrite(filled(20 * CLUSTER, 7), 0)
    disk.flush()
    expect(asked).toBe(0)
    disk.discard(0, 20 * CLUSTER)
    disk.close()
    expect(asked).toBeGreaterThan(0)
  })

  it("QC-DZ-02 in version 3 allocated clusters become zero clusters and are freed, and others stay as they are", () => {
    const before = everyKind()
    const after = withImage(fileOf(before), (disk) => disk.discard(0, 4 * CLUSTER))
    expect([0, 1, 2, 3].map((cluster) => after.l2(cluster * CLUSTER))).toEqual([ZERO, ZERO, ZERO, 0n])
    expect(after.refcount(before.hostOffset(0) / CLUSTER)).toBe(0n)
    expect(after.refcount(before.hostOffset(2 * CLUSTER) / CLUSTER)).toBe(0n)
    expect(checkQcow2(fileOf(after)).exitCode).toBe(0)
  })

  it("QC-DZ-02 with a backing file unallocated clusters become zero too, also where there is no L2 table", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), { clusterSize: 4096 })
    const after = withImage(file, (disk) => disk.discard(4096, 8192), { openBacking })
    expect([0, 4096, 8192, 12_288].map((offset) => after.l2(offset))).toEqual([0n, ZERO, ZERO, 0n])
    const disk = openQcow2(file, { openBacking })
    expect(isZero(contentOf(disk, 4096, 8192))).toBe(true)
    expect(contentOf(disk, 12_288, 4096)).toEqual(filled(4096, 5))
  })

  it("behind the end of a shorter backing image nothing changes, and no L2 table is made", () => {
    const { file, openBacking } = newOverlay(filled(6000, 5), { clusterSize: 4096, size: 64 << 20 })
    const size = file.size()
    const after = withImage(file, (disk) => disk.discard(0, 64 << 20), { openBacking })
    expect([0, 4096, 8192].map((offset) => after.l2(offset))).toEqual([ZERO, ZERO, 0n])
    expect(file.size()).toBe(size + 4096)
  })

  it("QC-DZ-03 in version 2 clusters are freed without a backing file, and left alone with one", () => {
    const before = everyKind({ compat: "0.10" })
    const after = withImage(fileOf(before), (disk) => disk.discard(0, CLUSTER))
    expect([after.l2(0), after.refcount(before.hostOffset(0) / CLUSTER)]).toEqual([0n, 0n])
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), { compat: "0.10" })
    withImage(
      file,
      (disk) => {
        disk.pwrite(filled(CLUSTER, 7), 0)
        disk.discard(0, 2 * CLUSTER)
      },
      { openBacking },
    )
    expect(contentOf(openQcow2(file, { openBacking }), 0, 2 * CLUSTER)).toEqual(
      Uint8Array.from([...filled(CLUSTER, 7), ...filled(CLUSTER, 5)]),
    )
  })

  it("QC-DZ-01 only whole clusters are discarded, and the disk's last one even if it is shorter", () => {
    const file = newImage({ size: 3 * CLUSTER + 512 })
    const disk = openQcow2(file)
    disk.pwrite(filled(3 * CLUSTER + 512, 7), 0)
    disk.discard(512, 2 * CLUSTER)
    expect(contentOf(disk, 0, CLUSTER)).toEqual(filled(CLUSTER, 7))
    expect(isZero(contentOf(disk, CLUSTER, CLUSTER))).toBe(true)
    expect(contentOf(disk, 2 * CLUSTER, CLUSTER)).toEqual(filled(CLUSTER, 7))
    disk.discard(2 * CLUSTER + 1, CLUSTER + 511)
    expect(contentOf(disk, 2 * CLUSTER, CLUSTER)).toEqual(filled(CLUSTER, 7))
    expect(isZero(contentOf(disk, 3 * CLUSTER, 512))).toBe(true)
    disk.discard(0, 0)
  })

  it("QC-DZ-10 the granularity of discard is the cluster size", () => {
    expect(openQcow2(newImage({ clusterSize: 4096 })).discardGranularity).toBe(4096)
  })

  it("QC-DZ-08 the host frees only the space of clusters that nothing refers to any more", () => {
    const size = 4 << 20
    const punched: [number, number][] = []
    const file = newImage({ size })
    const image = withImage(file, (disk) => disk.pwrite(filled(size, 7), 0))
    // Two references to one cluster in the middle, as from a snapshot.
    const shared = image.hostOffset(size / 2)
    const again = fileOf(image.setRefcount(shared / CLUSTER, 2n).setL2(size / 2, BigInt(shared)))
    const punch = again.punchHole.bind(again)
    again.punchHole = (offset, length) => {
      punched.push([offset, length])
      return punch(offset, length)
    }
    const disk = openQcow2(again)
    disk.discard(0, size)
    expect(punched).toEqual([])
    disk.flush()
    expect(punched.length).toBe(2)
    expect(punched.every(([offset, length]) => shared + CLUSTER <= offset || offset + length <= shared)).toBe(true)
    expect(again.toBytes().subarray(shared, shared + CLUSTER)).toEqual(filled(CLUSTER, 7))
  })
})

describe("write-zeroes", () => {
  it.each([true, false])("QC-DZ-04 in version 3 with mayUnmap %s a cluster loses its place only if it may", (mayUnmap) => {
    const before = everyKind()
    const after = withImage(fileOf(before), (disk) => disk.writeZeroes(0, 4 * CLUSTER, mayUnmap))
    const kept = (cluster: number): bigint => (mayUnmap ? ZERO : COPIED | BigInt(before.hostOffset(cluster * CLUSTER)) | ZERO)
    expect([0, 1, 2, 3].map((cluster) => after.l2(cluster * CLUSTER))).toEqual([kept(0), ZERO, kept(2), 0n])
    expect(after.refcount(before.hostOffset(0) / CLUSTER)).toBe(mayUnmap ? 0n : 1n)
    expect(checkQcow2(fileOf(after)).exitCode).toBe(0)
  })

  it("QC-DZ-04 compressed clusters are always freed", () => {
    const before = new Qcow2Bytes(goldenBytes("zlib-4k.qcow2"))
    const compressed = Array.from(
      { length: before.size / 4096 }, (_, index) => index * 4096,
    ).filter((offset) => before.l2(offset) >> 62n === 1n)
    expect(compressed.length).toBeGreaterThan(0)
    const after = withImage(fileOf(before), (disk) => {
      for (const offset of compressed) disk.writeZeroes(offset, 4096, false)
    })
    expect(compressed.every((offset) => after.l2(offset) === ZERO)).toBe(true)
    expect(checkQcow2(fileOf(after)).exitCode).toBe(0)
  })

  it("QC-DZ-05 in version 2 clusters are freed without a backing file, and filled with zeroes over one", () => {
    const before = everyKind({ compat: "0.10" })
    const after = withImage(fileOf(before), (disk) => disk.writeZeroes(0, CLUSTER, false))
    expect([after.l2(0), after.refcount(before.hostOffset(0) / CLUSTER)]).toEqual([0n, 0n])
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), { compat: "0.10", clusterSize: 4096 })
    withImage(file, (disk) => disk.writeZeroes(100, 100_000, true), { openBacking })
    const disk = openQcow2(file, { openBacking })
    expect(isZero(contentOf(disk, 100, 100_000))).toBe(true)
    expect([contentOf(disk, 99, 1)[0], contentOf(disk, 100_100, 1)[0]]).toEqual([5, 5])
  })

  it.each([
    [1, 1],
    [5, 513 * 512],
    [CLUSTER - 1, 2],
    [CLUSTER - 512, CLUSTER + 1024],
    [0, CLUSTER + 1],
    [3, 3 * CLUSTER],
  ])("QC-DZ-06 from byte %i on exactly %i bytes become zero", (offset, length) => {
    for (const base of [undefined, filled(1 << 20, 5)]) {
      const overlay = newOverlay(base ?? new Uint8Array(0))
      const disk = overlay.open()
      disk.pwrite(filled(2 * CLUSTER, 7), 0)
      const model = contentOf(disk)
      disk.writeZeroes(offset, length, true)
      model.fill(0, offset, offset + length)
      expect(Buffer.compare(contentOf(disk), model)).toBe(0)
    }
  })

  it("an unaligned end that already reads as zeroes takes no cluster", () => {
    const file = newImage()
    const size = file.size()
    withImage(file, (disk) => disk.writeZeroes(700, 3000, false))
    expect(file.size()).toBe(size)
  })

  it("QC-OVL-01 QC-DZ-08 no hole is punched into metadata, though an entry names it as data and its refcount is 0", () => {
    const file = newImage({ size: 4 << 20 })
    const image = withImage(file, (disk) => disk.pwrite(filled(4 << 20, 7), 0))
    const first = Math.min(image.l1Offset, image.hostOffset(0)) / CLUSTER
    for (let index = 0; index < 20; index++) image.setL2(index * CLUSTER, COPIED | BigInt((first + index) * CLUSTER))
    const lying = fileOf(image)
    const recording = new RecordingFile(lying)
    const disk = openQcow2(recording)
    disk.discard(0, 20 * CLUSTER)
    disk.flush()
    const places = [
      image.l1Offset,
      Number(image.u64(image.l1At(0)) & 0x00ff_ffff_ffff_fe00n),
      image.refcountTableOffset,
      image.refcountBlock(0),
    ]
    for (const change of recording.log) {
      if (change.kind !== "punch") continue
      const end = change.offset + change.length
      expect(places.filter((place) => change.offset < place + CLUSTER && place < end), `a hole of ${change.length} bytes`).toEqual([])
    }
  })

  it("QC-DZ-07 for a shared cluster only the active entry changes, and a kept place stays without COPIED", () => {
    const before = new Qcow2Bytes(goldenBytes("snapshots.qcow2"))
    const { clusterSize } = before
    const guest = Array.from({ length: before.size / clusterSize }, (_, index) => index * clusterSize).find(
      (offset) => before.hostOffset(offset) !== 0 && before.l2(offset) >> 62n === 0n && (before.l2(offset) & ZERO) === 0n,
    )
    if (guest === undefined) throw new Error("the golden image no longer has a shared cluster")
    const place = before.hostOffset(guest)
    const after = withImage(fileOf(before), (disk) => disk.writeZeroes(guest, clusterSize, false))
    expect(after.l2(guest)).toBe(BigInt(place) | ZERO)
    expect(after.bytes.subarray(place, place + clusterSize)).toEqual(before.bytes.subarray(place, place + clusterSize))
    // A write then takes a new place, for the old one is the snapshot's.
    const written = withImage(fileOf(after), (disk) => disk.pwrite(filled(512, 9), guest))
    expect(written.hostOffset(guest)).not.toBe(place)
    expect(written.bytes.subarray(place, place + clusterSize)).toEqual(before.bytes.subarray(place, place + clusterSize))
    expect(checkQcow2(fileOf(written)).exitCode).toBe(0)
  })

  it("a partial write after write-zeroes does not bring the backing content back", () => {
    const { open } = newOverlay(filled(1 << 20, 5))
    const disk = open()
    disk.writeZeroes(0, CLUSTER, true)
    disk.pwrite(filled(512, 9), 512)
    expect(isZero(contentOf(disk, 0, 512)) && isZero(contentOf(disk, 1024, CLUSTER - 1024))).toBe(true)
  })
})
