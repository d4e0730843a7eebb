/** Extended L2 entries: clusters of 32 subclusters, each of which is data, zeroes or nothing on its own. */
import { deflateRawSync } from "node:zlib"
import { describe, expect, it } from "vitest"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { repairQcow2 } from "../../../src/backing/qcow2/check/repair.ts"
import type { CreateQcow2Options } from "../../../src/backing/qcow2/create.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { RecordingFile } from "../../support/recording-file.ts"
import { contentOf, COPIED, COMPRESSED, failureOf, fileOf, filled, isZero, newImage, newOverlay, withImage } from "./small-images.ts"

const CLUSTER = 16384
const SUB = 512
const ALL_ZERO = 0xffff_ffff_0000_0000n
const OVER = { clusterSize: CLUSTER, extendedL2: true } as const

const zeroBits = (...indices: number[]): bigint => indices.reduce((bits, index) => bits | (1n << BigInt(32 + index)), 0n)
const dataBits = (...indices: number[]): bigint => indices.reduce((bits, index) => bits | (1n << BigInt(index)), 0n)

function newExtended(options: Partial<CreateQcow2Options> = {}): MemoryFile {
  return newImage({ ...OVER, ...options })
}

type Overlay = ReturnType<typeof newOverlay>

/** Lets `work` change the image, and returns its bytes. */
function changed({ file, openBacking }: Overlay, work: Parameters<typeof withImage>[1]): Qcow2Bytes {
  return withImage(file, work, { openBacking })
}

/** What the guest sees of cluster 0. */
function firstCluster({ file, openBacking }: Overlay): Uint8Array {
  return contentOf(openQcow2(file.clone(), { openBacking }), 0, CLUSTER)
}

/** An overlay over four clusters of fives, whose guest cluster 0 has a place that is full of sevens. Its bitmap is the test's affair. */
function withPlace(bits: bigint): Overlay {
  const overlay = newOverlay(filled(4 * CLUSTER, 5), { ...OVER, size: 4 * CLUSTER })
  const image = changed(overlay, (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
  return { ...overlay, ...reopened(image.setBitmap(0, bits), overlay) }
}

function reopened(image: Qcow2Bytes, overlay: Overlay) {
  const file = fileOf(image)
  return { file, open: () => openQcow2(file.clone(), { openBacking: overlay.openBacking }) }
}

/** What each subcluster of the cluster at `offset` holds, by its first byte, when it holds one value. */
function valuesOf(content: Uint8Array): (number | undefined)[] {
  return Array.from({ length: content.length / SUB }, (_, index) => {
    const part = content.subarray(index * SUB, (index + 1) * SUB)
    return part.every((byte) => byte === part[0]) ? part[0] : undefined
  })
}

function expected(...runs: readonly (readonly [count: number, value: number | undefined])[]): (number | undefined)[] {
  return runs.flatMap(([count, value]) => Array.from({ length: count }, () => value))
}

describe("the layout", () => {
  it.each([
    16384, 65536, 2 << 20,
  ])("QC-EL2-01 with clusters of %i bytes an entry has 16 bytes, word and bitmap, and a table covers half as much of the disk", (size) => {
    const coverage = size * (size / 16)
    const file = newImage({ size: 3 * coverage, clusterSize: size, extendedL2: true })
    const guest = coverage + 3 * size + 5 * (size / 32)
    const image = withImage(file, (disk) => disk.pwrite(filled(size / 32, 7), guest))
    const l1 = image.l1Offset
    expect([image.u64(l1), image.u64(l1 + 16)]).toEqual([0n, 0n])
    const table = Number(image.u64(l1 + 8) & ~COPIED)
    const host = Number(image.u64(table + 3 * 16) & ~COPIED)
    expect(image.u64(table + 3 * 16)).toBe(COPIED | BigInt(host))
    expect(image.u64(table + 3 * 16 + 8)).toBe(dataBits(5))
    expect(Buffer.compare(image.bytes.subarray(host + 5 * (size / 32), host + 6 * (size / 32)), filled(size / 32, 7))).toBe(0)
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
  })

  it("QC-FEAT-07 clusters below 16 KiB are refused, in an image and for a new one; version 2 too", () => {
    const image = new Qcow2Bytes(newExtended().toBytes()).setU32(20, 13)
    const failure = failureOf(() => openQcow2(fileOf(image)))
    expect(failure.message).toBe("disk.qcow2: cluster_bits 13 at byte 20 is below 14, the least for extended L2 entries")
    expect(failureOf(() => newExtended({ clusterSize: 8192 })).message).toContain("clusters of at least 16384 bytes")
    expect(failureOf(() => newExtended({ compat: "0.10" })).message).toContain('compat "1.1"')
  })

  it("QC-EL2-02 bit 0 of the first word means nothing", () => {
    const image = withImage(newExtended(), (disk) => disk.pwrite(filled(CLUSTER, 7), 0))
    const file = fileOf(image.setL2(0, image.l2(0) | 1n))
    const disk = openQcow2(file)
    expect(Buffer.compare(contentOf(disk, 0, CLUSTER), filled(CLUSTER, 7))).toBe(0)
    disk.pwrite(filled(SUB, 8), SUB)
    expect(valuesOf(contentOf(disk, 0, CLUSTER))).toEqual(expected([1, 7], [1, 8], [30, 7]))
  })
})

describe("reading", () => {
  it("QC-EL2-02 each bit of both halves stands for one subcluster", () => {
    const overlay = withPlace(0n)
    const image = new Qcow2Bytes(overlay.file.toBytes())
    const seen = (bits: bigint) => valuesOf(contentOf(reopened(image.setBitmap(0, bits), overlay).open(), 0, CLUSTER))
    for (const index of [0, 1, 15, 16, 30, 31]) {
      const rest = 31 - index
      expect(seen(dataBits(index))).toEqual(expected([index, 5], [1, 7], [rest, 5]))
      expect(seen(zeroBits(index))).toEqual(expected([index, 5], [1, 0], [rest, 5]))
    }
  })

  it("QC-EL2-03 data, zeroes and the backing image in turn are read right, at once and in pieces", () => {
    const pattern = Array.from({ length: 32 }, (_, index) => index % 3)
    const bits = pattern.reduce((all, kind, index) => all | (kind === 0 ? dataBits(index) : kind === 1 ? zeroBits(index) : 0n), 0n)
    const wanted = Uint8Array.from({ length: CLUSTER }, (_, at) => [7, 0, 5][pattern[Math.floor(at / SUB)] ?? 0] ?? 0)
    const disk = withPlace(bits).open()
    for (const step of [CLUSTER, 3 * SUB, SUB, 300, 700]) {
      for (let at = 0; at < CLUSTER; at += step) {
        const length = Math.min(step, CLUSTER - at)
        expect(Buffer.compare(contentOf(disk, at, length), wanted.subarray(at, at + length)), `${length} bytes at ${at}`).toBe(0)
      }
    }
    expect([...disk.map(0, 4 * SUB)].map(({ kind, length }) => [kind, length])).toEqual([
      ["data", SUB], ["zero", SUB], ["backing", SUB], ["data", SUB],
    ])
  })

  it("QC-EL2-05 zero bits without a place read as zeroes", () => {
    const overlay = withPlace(0n)
    const image = new Qcow2Bytes(overlay.file.toBytes())
    const { open } = reopened(image.setL2(0, 0n).setBitmap(0, 0xffff_fff0_0000_0000n), overlay)
    expect(valuesOf(contentOf(open(), 0, CLUSTER))).toEqual(expected([4, 5], [28, 0]))
  })

  it.each([
    ["a subcluster is both allocated and zero", (image: Qcow2Bytes) => image.setBitmap(0, dataBits(0, 31) | zeroBits(31))],
    [
      "subclusters are allocated, but the cluster has no host offset",
      (image: Qcow2Bytes) => image.setL2(0, 0n).setBitmap(0, dataBits(31)),
    ],
  ])("QC-EL2-04 QC-FEAT-10 %s: that cluster is neither read nor written, and the image is marked corrupt", (reason, damage) => {
    const overlay = withPlace(dataBits(0))
    const image = damage(new Qcow2Bytes(overlay.file.toBytes()))
    for (const work of ["pread", "pwrite"] as const) {
      const { file } = reopened(image, overlay)
      const disk = openQcow2(file, { openBacking: overlay.openBacking })
      const failure = failureOf(() => disk[work](new Uint8Array(SUB), 3 * SUB))
      expect([failure.code, failure.message]).toEqual(["corrupt", expect.stringContaining(`entry 0 of the L2 table at byte`)])
      expect(failure.message).toContain(reason)
      expect(contentOf(disk, CLUSTER, SUB), "other clusters can be read").toEqual(filled(SUB, 5))
      expect(new Qcow2Bytes(file.toBytes()).incompatible).toBe(0b1_0010n)
    }
    const found = checkQcow2(fileOf(image)).findings
    expect(found.map(({ kind }) => kind)).toContain("subclusters")
    expect(found.map(({ message }) => message).join()).toContain(reason)
  })
})

describe("compressed clusters", () => {
  /** Guest cluster 0 is compressed, full of nines; its bitmap is given. */
  function compressed(bits: bigint): Overlay {
    const overlay = withPlace(0n)
    const image = new Qcow2Bytes(overlay.file.toBytes())
    const host = image.hostOffset(0)
    const stream = deflateRawSync(filled(CLUSTER, 9))
    image.bytes.set(stream, host)
    // One sector holds it.
    image.setL2(0, COMPRESSED | BigInt(host)).setBitmap(0, bits)
    return { ...overlay, ...reopened(image, overlay) }
  }

  it("QC-EL2-06 the bitmap is ignored; a check reports it, and a repair clears it", () => {
    const { file, open } = compressed(0x1234_5678_9abc_def0n)
    expect(Buffer.compare(contentOf(open(), 0, CLUSTER), filled(CLUSTER, 9))).toBe(0)
    expect(checkQcow2(file.clone())).toMatchObject({ exitCode: 2, findings: [{ kind: "subclusters" }] })
    const repaired = file.clone()
    expect(repairQcow2(repaired, "all")).toMatchObject({ exitCode: 0, corruptionsFixed: 1 })
    expect(new Qcow2Bytes(repaired.toBytes()).bitmap(0)).toBe(0n)
  })

  it("QC-EL2-06 QC-EL2-07 a write stores the whole cluster, whatever the bitmap says", () => {
    const { file, openBacking } = compressed(0x8000_0001_7000_0000n)
    const image = withImage(file, (disk) => disk.pwrite(filled(100, 3), 1000), { openBacking })
    expect(image.bitmap(0)).toBe(0xffff_ffffn)
    const content = filled(CLUSTER, 9).fill(3, 1000, 1100)
    expect(Buffer.compare(contentOf(openQcow2(file.clone(), { openBacking }), 0, CLUSTER), content)).toBe(0)
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
  })

  it("QC-EL2-09 zeroes over a part are written as data; a cluster that is zeroed whole is freed", () => {
    const part = compressed(0n)
    const written = changed(part, (disk) => disk.writeZeroes(2 * SUB, 3 * SUB, true))
    expect(written.bitmap(0) & 0xffff_ffffn).not.toBe(0n)
    expect(valuesOf(firstCluster(part))).toEqual(expected([2, 9], [3, 0], [27, 9]))
    expect(checkQcow2(fileOf(written)).exitCode).toBe(0)
    const whole = compressed(0n)
    const freed = changed(whole, (disk) => disk.writeZeroes(0, CLUSTER, false))
    expect([freed.l2(0), freed.bitmap(0)]).toEqual([0n, ALL_ZERO])
    expect(checkQcow2(fileOf(freed)).exitCode).toBe(0)
  })

  it("QC-CMP-12 QC-EL2-06 writeCompressed leaves an empty bitmap, and refuses a cluster that has a place without data", () => {
    const overlay = newOverlay(filled(1 << 20, 5), OVER)
    const image = changed(overlay, (disk) => {
      disk.writeZeroes(CLUSTER, SUB, false)
      disk.writeCompressed(filled(CLUSTER, 4), CLUSTER)
    })
    expect([image.l2(CLUSTER) >> 62n, image.bitmap(CLUSTER)]).toEqual([1n, 0n])
    expect(Buffer.compare(contentOf(overlay.open(), CLUSTER, CLUSTER), filled(CLUSTER, 4))).toBe(0)
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
    expect(failureOf(() => withPlace(0n).open().writeCompressed(filled(CLUSTER, 4), 0)).code).toBe("unsupported")
  })
})

describe("writing", () => {
  it("QC-EL2-07 512 bytes in a new cluster allocate one subcluster, and the rest still shows the backing image", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), OVER)
    const image = withImage(file, (disk) => disk.pwrite(filled(SUB, 7), 3 * SUB), { openBacking })
    expect(image.bitmap(0)).toBe(dataBits(3))
    expect(valuesOf(contentOf(openQcow2(file, { openBacking }), 0, CLUSTER))).toEqual(expected([3, 5], [1, 7], [28, 5]))
  })

  it("QC-EL2-07 4 KiB over a backing image of 1 GiB, in clusters of 128 KiB, store 4 KiB", () => {
    const base = new MemoryFile({ path: "base.raw" })
    base.truncate(1 << 30)
    base.write(filled(1 << 17, 5), 1 << 29)
    const { file } = newOverlay(filled(512, 5), { size: 1 << 30, clusterSize: 1 << 17, extendedL2: true })
    const recording = new RecordingFile(file)
    const backing = { size: 1 << 30, pread: (into: Uint8Array, at: number) => void base.read(into, at), close: () => undefined }
    const disk = openQcow2(recording, {
      openBacking: () => ({ ...backing, preadv: (into, at) => into.reduce((from, part) => from + base.read(part, from), at) }),
    })
    disk.pwrite(filled(4096, 7), (1 << 29) + 8192)
    expect(recording.log.map((change) => (change.kind === "write" ? change.data.length : change.kind))).toEqual([4096])
    expect(Buffer.compare(contentOf(disk, (1 << 29) + 4096, 12_288), filled(12_288, 5).fill(7, 4096, 8192))).toBe(0)
  })

  it("QC-EL2-07 the rest of a subcluster is filled from the backing image, or with zeroes over stale bytes", () => {
    for (const [bits, old] of [[0n, 5], [zeroBits(4, 5, 6), 0]] as const) {
      const overlay = withPlace(bits | dataBits(20))
      const image = changed(overlay, (disk) => disk.pwrite(filled(SUB + 2, 3), 5 * SUB - 1))
      expect(image.bitmap(0), "the others stay what they were").toBe(dataBits(4, 5, 6, 20))
      const content = firstCluster(overlay)
      const wanted = filled(CLUSTER, 5).fill(old, 4 * SUB, 7 * SUB).fill(3, 5 * SUB - 1, 6 * SUB + 1).fill(7, 20 * SUB, 21 * SUB)
      expect(Buffer.compare(content, wanted)).toBe(0)
      expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
    }
  })

  it("QC-EL2-07 a write that begins in stale bytes and ends in data keeps the end of that data", () => {
    const overlay = withPlace(dataBits(6))
    const image = changed(overlay, (disk) => disk.pwrite(filled(SUB, 3), 5 * SUB + 100))
    expect(image.bitmap(0)).toBe(dataBits(5, 6))
    const wanted = filled(CLUSTER, 5).fill(7, 6 * SUB, 7 * SUB).fill(3, 5 * SUB + 100, 6 * SUB + 100)
    expect(Buffer.compare(firstCluster(overlay), wanted)).toBe(0)
  })

  it("QC-EL2-07 a write over three clusters allocates all of the second and only the touched subclusters of the others", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), OVER)
    const image = withImage(file, (disk) => disk.pwrite(filled(CLUSTER + 2 * SUB, 7), CLUSTER - SUB), { openBacking })
    expect([0, 1, 2].map((cluster) => image.bitmap(cluster * CLUSTER))).toEqual([dataBits(31), 0xffff_ffffn, dataBits(0)])
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
  })

  it("QC-EL2-07 zero bits of an unallocated cluster stay when it gets a place", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), OVER)
    const image = withImage(file, (disk) => {
      disk.writeZeroes(4 * SUB, 4 * SUB, false)
      disk.pwrite(filled(SUB, 7), 5 * SUB)
    }, { openBacking })
    expect(image.bitmap(0)).toBe(dataBits(5) | zeroBits(4, 6, 7))
    expect(valuesOf(contentOf(openQcow2(file, { openBacking }), 0, CLUSTER))).toEqual(expected([4, 5], [1, 0], [1, 7], [2, 0], [24, 5]))
  })
})

describe("clusters that a snapshot shares", () => {
  /** Guest cluster 0 has a second reference, as from a snapshot. */
  function shared(bits: bigint): Overlay {
    const overlay = withPlace(bits)
    const image = new Qcow2Bytes(overlay.file.toBytes())
    const host = image.hostOffset(0)
    return { ...overlay, ...reopened(image.setRefcount(host / CLUSTER, 2n).setL2(0, BigInt(host)), overlay) }
  }

  it("QC-EL2-08 a write copies from the first to the last allocated subcluster, and the others keep their kind", () => {
    const overlay = shared(dataBits(8, 12) | zeroBits(2, 10, 20))
    const before = new Qcow2Bytes(overlay.file.toBytes())
    const image = changed(overlay, (disk) => disk.pwrite(filled(SUB, 3), 14 * SUB))
    expect(image.hostOffset(0)).not.toBe(before.hostOffset(0))
    expect(image.bitmap(0)).toBe(dataBits(8, 9, 10, 11, 12, 13, 14) | zeroBits(2, 20))
    const wanted = [[2, 5], [1, 0], [5, 5], [1, 7], [1, 5], [1, 0], [1, 5], [1, 7], [1, 5], [1, 3], [5, 5], [1, 0], [11, 5]] as const
    expect(valuesOf(firstCluster(overlay))).toEqual(expected(...wanted))
    const place = before.hostOffset(0)
    expect(Buffer.compare(image.bytes.subarray(place, place + CLUSTER), before.bytes.subarray(place, place + CLUSTER))).toBe(0)
    expect(image.refcount(place / CLUSTER)).toBe(1n)
  })

  it("QC-EL2-09 QC-DZ-07 zeroes change only the active entry, which keeps its place without COPIED", () => {
    const overlay = shared(dataBits(8, 12))
    const before = new Qcow2Bytes(overlay.file.toBytes())
    const image = changed(overlay, (disk) => disk.writeZeroes(8 * SUB, SUB, false))
    expect([image.l2(0), image.bitmap(0)]).toEqual([before.l2(0), dataBits(12) | zeroBits(8)])
    const place = before.hostOffset(0)
    expect(Buffer.compare(image.bytes.subarray(place, place + CLUSTER), before.bytes.subarray(place, place + CLUSTER))).toBe(0)
  })

  it("QC-EL2-01 QC-L1-04 the copy of a shared table loses COPIED, and no bit of its bitmaps", () => {
    const file = newExtended({ size: 4 << 20 })
    const image = withImage(file, (disk) => {
      disk.pwrite(filled(CLUSTER, 7), 0)
      disk.writeZeroes(0, CLUSTER, false)
      disk.pwrite(filled(SUB, 7), SUB)
    })
    const table = Number(image.u64(image.l1Offset) & ~COPIED)
    image.setU64(image.l1Offset, BigInt(table)).setRefcount(table / CLUSTER, 2n).setRefcount(image.hostOffset(0) / CLUSTER, 2n)
    const bits = image.bitmap(0)
    expect(bits >> 63n, "the bit of subcluster 31 stands where COPIED stands in the word before").toBe(1n)
    const after = withImage(fileOf(image), (disk) => disk.pwrite(filled(SUB, 8), CLUSTER))
    expect(Number(after.u64(after.l1Offset) & ~COPIED)).not.toBe(table)
    expect([after.l2(0), after.bitmap(0)]).toEqual([BigInt(image.hostOffset(0)), bits])
  })
})

describe("zeroes and discard", () => {
  it("QC-EL2-09 QC-DZ-10 zeroes set the zero bit of whole subclusters, clear the allocated bit, and write the ends as data", () => {
    const overlay = withPlace(0xffff_ffffn)
    const image = changed(overlay, (disk) => disk.writeZeroes(3 * SUB - 10, 2 * SUB + 20, false))
    expect(image.bitmap(0)).toBe((0xffff_ffffn & ~dataBits(3, 4)) | zeroBits(3, 4))
    const wanted = filled(CLUSTER, 7).fill(0, 3 * SUB - 10, 5 * SUB + 10)
    expect(Buffer.compare(firstCluster(overlay), wanted)).toBe(0)
  })

  it("QC-EL2-09 zeroes over the backing image set zero bits without a cluster, and behind its end change nothing", () => {
    const { file, openBacking } = newOverlay(filled(CLUSTER + 3 * SUB, 5), OVER)
    const size = file.size()
    const image = withImage(file, (disk) => disk.writeZeroes(2 * SUB, 4 * CLUSTER, true), { openBacking })
    expect([0, 1, 2].map((cluster) => image.bitmap(cluster * CLUSTER))).toEqual([0xffff_fffc_0000_0000n, ALL_ZERO, 0n])
    expect(file.size(), "an L2 table, and no more").toBe(size + CLUSTER)
    const disk = openQcow2(file, { openBacking })
    expect([...contentOf(disk, 0, 2 * SUB + 1)].lastIndexOf(5)).toBe(2 * SUB - 1)
    expect(isZero(contentOf(disk, 2 * SUB, 4 * CLUSTER))).toBe(true)
  })

  it("QC-EL2-09 a cluster loses its place with its last data if it may be unmapped, and keeps it if not", () => {
    for (const mayUnmap of [true, false]) {
      const overlay = withPlace(0xffff_ffffn)
      const place = new Qcow2Bytes(overlay.file.toBytes()).hostOffset(0)
      const image = changed(overlay, (disk) => {
        disk.writeZeroes(0, 7 * SUB, mayUnmap)
        disk.writeZeroes(7 * SUB, 25 * SUB, mayUnmap)
      })
      expect([image.l2(0), image.bitmap(0)]).toEqual([mayUnmap ? 0n : COPIED | BigInt(place), ALL_ZERO])
      expect(image.refcount(place / CLUSTER)).toBe(mayUnmap ? 0n : 1n)
      expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
    }
  })

  it("QC-EL2-10 QC-DZ-10 a discard frees whole clusters and sets all 32 zero bits; a part of a cluster stays", () => {
    const overlay = withPlace(dataBits(1))
    const before = new Qcow2Bytes(overlay.file.toBytes())
    const image = changed(overlay, (disk) => {
      expect(disk.discardGranularity).toBe(CLUSTER)
      disk.discard(SUB, CLUSTER - SUB)
    })
    expect([image.l2(0), image.bitmap(0)]).toEqual([before.l2(0), dataBits(1)])
    const after = changed(overlay, (disk) => disk.discard(0, 2 * CLUSTER))
    expect(
      [0, 1].map((cluster) => [after.l2(cluster * CLUSTER), after.bitmap(cluster * CLUSTER)]),
    ).toEqual([[0n, ALL_ZERO], [0n, ALL_ZERO]])
    expect(after.refcount(before.hostOffset(0) / CLUSTER)).toBe(0n)
    expect(checkQcow2(fileOf(after)).exitCode).toBe(0)
  })

  it("QC-EL2-10 a discard frees a place without data as well", () => {
    const image = withImage(newExtended({ preallocation: "metadata" }), (disk) => disk.discard(0, CLUSTER))
    expect([image.l2(0), image.bitmap(0), image.l2(CLUSTER) === 0n]).toEqual([0n, ALL_ZERO, false])
    expect(checkQcow2(fileOf(image)).exitCode).toBe(0)
  })

  it("QC-EL2-10 preallocated clusters have a place and no bits, show the backing image, and take their first write there", () => {
    const { file, openBacking } = newOverlay(filled(1 << 20, 5), { ...OVER, preallocation: "metadata" })
    const before = new Qcow2Bytes(file.toBytes())
    expect([before.hostOffset(0) > 0, before.l2(0) >> 63n, before.bitmap(0)]).toEqual([true, 1n, 0n])
    const image = withImage(file, (disk) => {
      expect(Buffer.compare(contentOf(disk), filled(1 << 20, 5))).toBe(0)
      disk.pwrite(filled(SUB, 7), SUB)
    }, { openBacking })
    expect([image.l2(0), image.bitmap(0)]).toEqual([before.l2(0), dataBits(1)])
    expect(file.size()).toBe(before.bytes.length)
  })
})

describe("a raw external data file", () => {
  it("QC-DF-07 QC-EL2-03 a raw data file is what the guest sees from the start: all subclusters are allocated", () => {
    const file = newExtended({ dataFile: "data", dataFileRaw: true })
    const content = filled(1 << 20, 6)
    const data = MemoryFile.of(content, { path: "data" })
    const disk = openQcow2(file.clone(), { openDataFile: () => data })
    expect(Buffer.compare(contentOf(disk), content)).toBe(0)
    disk.writeZeroes(SUB, SUB, true)
    disk.pwrite(filled(SUB, 7), 3 * SUB)
    disk.flush()
    expect(Buffer.compare(data.toBytes(), filled(1 << 20, 6).fill(0, SUB, 2 * SUB).fill(7, 3 * SUB, 4 * SUB))).toBe(0)
    expect(checkQcow2(file).exitCode).toBe(0)
  })
})

describe("repair", () => {
  it("QC-CHK-07 removes an unaligned place without data, and the subclusters read the same; one with data stays", () => {
    const overlay = withPlace(zeroBits(0, 1))
    const image = new Qcow2Bytes(overlay.file.toBytes())
    const file = fileOf(image.setL2(0, image.l2(0) + 512n))
    expect(repairQcow2(file, "all")).toMatchObject({ exitCode: 0 })
    const repaired = new Qcow2Bytes(file.toBytes())
    expect([repaired.l2(0), repaired.bitmap(0)]).toEqual([0n, zeroBits(0, 1)])
    const withData = fileOf(image.setBitmap(0, dataBits(0)))
    expect(repairQcow2(withData, "all").exitCode).toBe(2)
    expect(new Qcow2Bytes(withData.toBytes()).l2(0)).toBe(image.l2(0))
  })
})
