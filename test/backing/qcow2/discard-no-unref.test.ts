/** The option `discardNoUnref`: discarded clusters keep their places. */
import { describe, expect, it } from "vitest"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { goldenBytes } from "../../support/golden.ts"
import type { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { RecordingFile } from "../../support/recording-file.ts"
import { contentOf, COPIED, failureOf, fileOf, filled, isZero, newImage, newOverlay, withImage, ZERO } from "./small-images.ts"

const CLUSTER = 65536
const KEEP = { discardNoUnref: true } as const
const MIB = 1 << 20

const entries = (image: Qcow2Bytes, count: number): bigint[] => Array.from({ length: count }, (_, index) => image.l2(index * CLUSTER))

/** An image of 4 MiB that is full of sevens. */
function full(): { file: MemoryFile; image: Qcow2Bytes } {
  const file = newImage({ size: 4 * MIB })
  return { file, image: withImage(file, (disk) => disk.pwrite(filled(4 * MIB, 7), 0)) }
}

/** The holes that `work` makes. */
function holesOf(file: MemoryFile, work: (disk: ReturnType<typeof openQcow2>) => void): (readonly [number, number])[] {
  const recording = new RecordingFile(file)
  work(openQcow2(recording, KEEP))
  return recording.log.flatMap((change) => (change.kind === "punch" ? [[change.offset, change.length] as const] : []))
}

describe("discardNoUnref", () => {
  it("QC-DZ-02 a discarded cluster reads as zeroes and keeps its place; the next write goes there", () => {
    const file = newImage()
    const before = withImage(file, (disk) => disk.pwrite(filled(4 * CLUSTER, 7), 0))
    const image = withImage(file, (disk) => {
      disk.discard(CLUSTER, 2 * CLUSTER)
      expect(isZero(contentOf(disk, CLUSTER, 2 * CLUSTER))).toBe(true)
      disk.pwrite(filled(512, 8), 2 * CLUSTER)
    }, KEEP)
    const [first, second, third, fourth] = entries(before, 4)
    expect(entries(image, 4)).toEqual([first, (second ?? 0n) | ZERO, third, fourth])
    expect(image.bytes.length).toBe(before.bytes.length)
    expect(Buffer.compare(contentOf(openQcow2(file.clone()), 2 * CLUSTER, CLUSTER), filled(CLUSTER, 0).fill(8, 0, 512))).toBe(0)
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
  })

  it("QC-DZ-04 zeroes that may unmap keep the place as well; an unallocated cluster gets none", () => {
    const { file, openBacking } = newOverlay(filled(MIB, 5))
    const image = withImage(file, (disk) => {
      disk.pwrite(filled(CLUSTER, 7), 0)
      disk.writeZeroes(0, 2 * CLUSTER, true)
      disk.discard(2 * CLUSTER, CLUSTER)
    }, { openBacking, ...KEEP })
    expect(entries(image, 4)).toEqual([COPIED | BigInt(image.hostOffset(0)) | ZERO, ZERO, ZERO, 0n])
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
  })

  it("QC-DZ-04 compressed clusters are freed, since their place is not a cluster", () => {
    const before = new Qcow2Bytes(goldenBytes("zlib-4k.qcow2"))
    expect(before.l2(0) >> 62n).toBe(1n)
    const image = withImage(fileOf(before), (disk) => disk.discard(0, 4096), KEEP)
    expect(image.l2(0)).toBe(ZERO)
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
  })

  it("QC-EL2-10 with extended L2 entries the place stays, and all 32 zero bits are set", () => {
    const file = newImage({ extendedL2: true })
    const before = withImage(file, (disk) => disk.pwrite(filled(512, 7), 0))
    const image = withImage(file, (disk) => disk.discard(0, CLUSTER), KEEP)
    expect([image.l2(0), image.bitmap(0)]).toEqual([before.l2(0), 0xffff_ffff_0000_0000n])
  })

  it("QC-DZ-07 a cluster that a snapshot shares keeps its place, without COPIED, and its bytes", () => {
    const { image } = full()
    const place = image.hostOffset(0)
    const shared = fileOf(image.setRefcount(place / CLUSTER, 2n).setL2(0, BigInt(place)))
    const after = withImage(shared, (disk) => disk.discard(0, 4 * MIB), KEEP)
    expect(after.l2(0)).toBe(BigInt(place) | ZERO)
    expect(Buffer.compare(after.bytes.subarray(place, place + CLUSTER), filled(CLUSTER, 7))).toBe(0)
  })

  it("QC-DZ-07 QC-SNAP-09 clusters that a snapshot shares keep its content, and are the disk's own again once it is deleted", () => {
    const { file } = full()
    withImage(file, (disk) => {
      disk.snapshots.create({ name: "one" })
      disk.discard(0, 2 * MIB)
      disk.flush()
      disk.pwrite(filled(512, 8), MIB)
      expect(isZero(contentOf(disk, 0, MIB))).toBe(true)
      expect(isZero(contentOf(disk, MIB + 512, MIB - 512))).toBe(true)
      expect(Buffer.compare(contentOf(disk.snapshots.open("one")), filled(4 * MIB, 7))).toBe(0)
    }, KEEP)
    expect(checkQcow2(file.clone()).exitCode).toBe(0)
    const places = (image: Qcow2Bytes): bigint[] => entries(image, 16).map((entry) => entry & ~COPIED)
    const before = new Qcow2Bytes(file.toBytes())
    const image = withImage(file, (disk) => {
      disk.snapshots.delete("one")
      expect(Buffer.compare(contentOf(disk, 2 * MIB, MIB), filled(MIB, 7))).toBe(0)
    }, KEEP)
    expect(places(image)).toEqual(places(before))
    expect(entries(image, 16).every((entry) => (entry & COPIED) !== 0n)).toBe(true)
    // Writes go to where the clusters were.
    const again = withImage(file, (disk) => disk.pwrite(filled(MIB, 9), 0), KEEP)
    expect(places(again).map((entry) => entry & ~ZERO)).toEqual(places(before).map((entry) => entry & ~ZERO))
    expect(checkQcow2(fileOf(again)).exitCode).toBe(0)
  })

  it("QC-DZ-08 the host frees the space once the entries are stored, except for clusters written again meanwhile", () => {
    const { file, image } = full()
    const host = image.hostOffset(0)
    const holes = holesOf(file, (disk) => {
      disk.discard(0, MIB)
      disk.discard(MIB, 3 * MIB)
      disk.pwrite(filled(512, 8), 2 * MIB)
      disk.flush()
    })
    expect(holes.reduce((sum, [, length]) => sum + length, 0)).toBe(4 * MIB - CLUSTER)
    const written = host + 2 * MIB
    expect(holes.every(([offset, length]) => offset + length <= written || written + CLUSTER <= offset)).toBe(true)
    const recording = new RecordingFile(full().file)
    const disk = openQcow2(recording, KEEP)
    disk.discard(0, 4 * MIB)
    disk.flush()
    const kinds = recording.log.map(({ kind }) => kind)
    expect(kinds.indexOf("punch")).toBeGreaterThan(kinds.lastIndexOf("sync"))
  })

  it("QC-DZ-08 QC-OVL-01 the host does not free what an entry names but the disk does not own: a shared cluster, or metadata", () => {
    for (const damage of [
      (image: Qcow2Bytes) => image.setRefcount(image.hostOffset(2 * MIB) / CLUSTER, 2n),
      (image: Qcow2Bytes) => image.setL2(2 * MIB, COPIED | BigInt(image.l1Offset)),
    ]) {
      const image = damage(full().image)
      const spared = image.hostOffset(2 * MIB)
      const holes = holesOf(fileOf(image), (disk) => {
        disk.discard(0, 4 * MIB)
        disk.flush()
      })
      expect(holes.length).toBeGreaterThan(0)
      expect(holes.every(([offset, length]) => offset + length <= spared || spared + CLUSTER <= offset)).toBe(true)
    }
  })

  it("version 2, which has no zero flag, is refused for writing before any change, also by openDisk", async () => {
    const file = newImage({ compat: "0.10" })
    expect(failureOf(() => openQcow2(file.clone(), KEEP)).message).toContain("discardNoUnref needs version 3")
    expect(openQcow2(file.clone(), { ...KEEP, readOnly: true }).size).toBe(MIB)
    await expect(openDisk(file.clone(), KEEP)).rejects.toThrow("discardNoUnref needs version 3")
  })
})
