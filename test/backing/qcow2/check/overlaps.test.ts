/** Structures that share a cluster, with refcounts that say so: both change in place, so nobody may write to such an image. */
import { describe, expect, it } from "vitest"
import { openQcow2 } from "../../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../../src/backing/qcow2/check/repair.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { contentOf, COPIED, failureOf, fileOf, filled, newImage, withImage } from "../small-images.ts"

const CLUSTER = 4096
const OFFSET_BITS = 0x00ff_ffff_ffff_fe00n
const BITMAPS_EXTENSION = 0x2385_2875
const SIZE = 1 << 20

/** An image with a recording bitmap that has bits, and a snapshot. */
const bytes = withImage(newImage({ clusterSize: CLUSTER, size: SIZE }), (disk) => {
  disk.bitmaps.add("changes")
  disk.pwrite(filled(2 * CLUSTER, 1), 0)
  disk.snapshots.create({ name: "before" })
  disk.pwrite(filled(CLUSTER, 2), 0)
})

/** Byte of the word that names each structure. */
const extension = bytes.extensionAt(BITMAPS_EXTENSION)
const directory = Number(bytes.u64(extension + 16))
const table = Number(bytes.u64(directory))
const NAMED = {
  "the L1 table": 40, "the refcount table": 48, "the snapshot table": 64, "a snapshot's L1 table": bytes.snapshotsOffset,
  "the bitmap directory": extension + 16, "a bitmap table": directory, "bitmap data": table,
} as const
type Structure = keyof typeof NAMED

const placeOf = (image: Qcow2Bytes, structure: Structure): number => Number(image.u64(NAMED[structure]) & OFFSET_BITS)

/** The image with `one` in the place of `other`, repaired: all refcounts are right. */
function overlapping(one: Structure, other: Structure): Qcow2Bytes {
  const image = new Qcow2Bytes(bytes.bytes)
  image.setU64(NAMED[one], BigInt(placeOf(bytes, other)))
  const file = fileOf(image)
  expect(repairQcow2(file, "all")).toMatchObject({ exitCode: 2 })
  return new Qcow2Bytes(file.toBytes())
}

const PAIRS: readonly (readonly [Structure, Structure])[] = [
  ["the L1 table", "a snapshot's L1 table"], ["the L1 table", "the bitmap directory"], ["a snapshot's L1 table", "the L1 table"],
  ["a snapshot's L1 table", "the bitmap directory"], ["a bitmap table", "the snapshot table"], ["a bitmap table", "the bitmap directory"],
  ["bitmap data", "the L1 table"], ["bitmap data", "the refcount table"], ["bitmap data", "the snapshot table"],
  ["bitmap data", "a snapshot's L1 table"], ["bitmap data", "the bitmap directory"], ["bitmap data", "a bitmap table"],
]

it.each(PAIRS)("QC-OVL-04 %s in the place of %s is a corruption, though the refcount is right", (one, other) => {
  const image = overlapping(one, other)
  const place = placeOf(bytes, other)
  const { findings, leaks } = checkQcow2(fileOf(image))
  // As a bitmap table, another structure may name further places.
  expect([leaks, [...new Set(findings.map(({ kind }) => kind))], findings[0]?.offset]).toEqual([0, ["overlap"], place])
  expect(findings[0]?.message).toMatch(/^(the|a|bitmap) .* shares the cluster at byte \d+ with other metadata$/)

  const file = fileOf(image)
  const refused = failureOf(() => {
    const disk = openQcow2(file)
    disk.pwrite(filled(CLUSTER, 3), SIZE / 2)
    disk.close()
  })
  expect(refused.code).toBe("corrupt")
  expect(refused.message).toMatch(/share a cluster: the image can only be opened read-only$|has its bits at byte \d+, but .* is there$/)
  const after = file.toBytes()
  // The marks of bitmaps that are in use are in the directory; the snapshot table and the tables of bitmaps do not change.
  if (other !== "the bitmap directory" && other !== "the L1 table") {
    expect(after.subarray(place, place + CLUSTER)).toEqual(image.bytes.subarray(place, place + CLUSTER))
  }
})

describe("a snapshot that shares the disk's L1 table", () => {
  it.each([true, false])("QC-OVL-04 QC-SNAP-06 keeps its content: the image can only be read (right refcounts: %s)", (isRight) => {
    const image = new Qcow2Bytes(bytes.bytes).setU64(bytes.snapshotsOffset, BigInt(bytes.l1Offset))
    const damaged = isRight ? overlapping("a snapshot's L1 table", "the L1 table") : image
    const file = fileOf(damaged)
    expect(failureOf(() => openQcow2(file))).toMatchObject({
      code: "corrupt",
      message: "disk.qcow2: the L1 table and a snapshot's L1 table share a cluster: the image can only be opened read-only",
    })
    expect(file.changes).toBe(0)
    const disk = openQcow2(file, { readOnly: true })
    expect(contentOf(disk, 0, CLUSTER)).toEqual(filled(CLUSTER, 2))
    expect(contentOf(disk.snapshots.open("before"), 0, CLUSTER)).toEqual(filled(CLUSTER, 2))
  })
})

describe("two snapshots that share an L1 table", () => {
  it("keep their content while the disk is written, and one is deleted", () => {
    const file = fileOf(bytes)
    const first = openQcow2(file)
    first.snapshots.create({ name: "second" })
    first.close()
    const image = new Qcow2Bytes(file.clone().toBytes())
    const second = image.snapshotsOffset + Math.ceil((40 + image.u32(image.snapshotsOffset + 36) + "1before".length) / 8) * 8
    image.setU64(second, image.u64(image.snapshotsOffset))
    const shared = fileOf(image)
    expect(repairQcow2(shared, "all")).toMatchObject({ exitCode: 0 })
    const disk = openQcow2(shared)
    disk.pwrite(filled(2 * CLUSTER, 9), 0)
    disk.snapshots.delete("before")
    disk.pwrite(filled(2 * CLUSTER, 8), 0)
    expect(contentOf(disk.snapshots.open("second"), 0, 2 * CLUSTER)).toEqual(filled(2 * CLUSTER, 1))
    disk.close()
    expect(checkQcow2(shared.clone()).exitCode).toBe(0)
  })
})

describe("bits of a bitmap in a cluster of guest data", () => {
  it("QC-BMP-06 move to a cluster of their own, and the guest's data stay", () => {
    const image = new Qcow2Bytes(bytes.bytes).setU64(table, BigInt(bytes.hostOffset(0)))
    const file = fileOf(image)
    expect(repairQcow2(file, "all")).toMatchObject({ exitCode: 0 })
    const disk = openQcow2(file)
    disk.pwrite(filled(CLUSTER, 3), SIZE / 2)
    disk.close()
    const after = openQcow2(file.clone())
    expect(contentOf(after, 0, CLUSTER)).toEqual(filled(CLUSTER, 2))
    expect([...after.bitmaps.changed("changes", SIZE / 2, CLUSTER)]).toEqual([{ offset: SIZE / 2, length: CLUSTER }])
    after.close()
    expect(checkQcow2(file.clone())).toMatchObject({ corruptions: 0, leaks: 1 })
  })
})

describe("the bitmap directory", () => {
  it("QC-OVL-01 QC-OVL-02 is not overwritten through an L2 entry that names it", () => {
    const file = fileOf(new Qcow2Bytes(bytes.bytes).setL2(0, COPIED | BigInt(directory)))
    const disk = openQcow2(file)
    const error = failureOf(() => disk.pwrite(filled(CLUSTER, 9), 0))
    expect([error.code, error.message]).toEqual(["corrupt", expect.stringContaining("the bitmap directory is there")])
    // All but the mark that the bitmap is in use.
    expect(file.toBytes().subarray(directory + 16, directory + CLUSTER)).toEqual(bytes.bytes.subarray(directory + 16, directory + CLUSTER))
  })
})
