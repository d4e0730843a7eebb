/** amendImage: options of an image that is there. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { checkImage } from "../../../src/backing/check.ts"
import { createImage, type CreateImageOptions } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { type AmendImageOptions, amendImage } from "../../../src/backing/operations/amend-image.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { sha256 } from "../../support/golden.ts"
import { modelOf } from "../../support/images.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { hasQemu, qemuCheck } from "../../support/qemu.ts"
import { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"
import { failureOf, filled } from "../qcow2/small-images.ts"

const SIZE = 1 << 20

/** An image with data, zeroes with and without a place, and holes. */
function made(options: Partial<CreateImageOptions> = {}): string {
  const path = join(temporaryDirectory(), "disk.qcow2")
  createImage(path, { size: SIZE, clusterSize: 4096, ...options })
  const image = openImage(path)
  image.pwrite(new Rng(3).bytes(300_000), 5000)
  if (options.compat !== "0.10" && image instanceof Qcow2Image) {
    image.writeZeroes(40_000, 60_000, false)
    image.writeZeroes(120_000, 60_000, true)
    image.writeZeroes(700_000, 100_000, true)
  }
  image.close()
  return path
}

const bytesOf = (path: string): Qcow2Bytes => new Qcow2Bytes(new Uint8Array(readFileSync(path)))

/** Amends, and makes sure that the disk reads as before and is consistent. */
function amended(path: string, options: AmendImageOptions): Qcow2Bytes {
  const before = openImage(path, { readOnly: true })
  const model = modelOf(before)
  before.close()
  amendImage(path, options)
  const after = openImage(path, { readOnly: true })
  expect(model.firstDifferenceOf(after)).toBe(-1)
  after.close()
  expect(checkImage(path)).toMatchObject({ exitCode: 0 })
  return bytesOf(path)
}

describe("the version of the format", () => {
  it("QC-HDR-03 QC-DZ-03 an image goes from 1.1 to 0.10 and back: zeroes stay zeroes, and no newer field or flag remains", () => {
    const path = made()
    const old = amended(path, { compat: "0.10" })
    expect([old.version, old.u32(72)]).toEqual([2, 0])
    expect([0, 40_960, 131_072, 704_512].map((at) => old.u64(old.l2At(at) ?? 0) & 1n)).toEqual([0n, 0n, 0n, 0n])
    const next = amended(path, { compat: "1.1", lazyRefcounts: true })
    expect([next.version, next.u32(100), next.u32(96), next.u64(72), next.u64(80)]).toEqual([3, 112, 4, 0n, 1n])
    expect(amended(path, { lazyRefcounts: false }).u64(80)).toBe(0n)
  })

  it("QC-DZ-03 zeroes over a backing file become data, so that the file does not show through", () => {
    const directory = temporaryDirectory()
    writeFileSync(join(directory, "base.raw"), filled(SIZE, 9))
    const path = join(directory, "top.qcow2")
    createImage(path, { size: SIZE, clusterSize: 4096, backing: "base.raw", backingFormat: "raw" })
    const image = openImage(path)
    image.writeZeroes?.(10_000, 100_000, true)
    image.discard?.(200_000, 50_000)
    image.close()
    expect(amended(path, { compat: "0.10" }).version).toBe(2)
  })

  it("QC-SNAP-04 QC-DZ-03 zeroes of snapshots become data in 0.10, or unallocated without a backing file", () => {
    for (const hasBacking of [true, false]) {
      const directory = temporaryDirectory()
      writeFileSync(join(directory, "base.raw"), filled(SIZE, 9))
      const path = join(directory, "top.qcow2")
      const backing = hasBacking ? { backing: "base.raw", backingFormat: "raw" as const } : {}
      createImage(path, { size: SIZE, clusterSize: 4096, ...backing })
      const image = openImage(path) as Qcow2Image
      image.pwrite(filled(40_000, 1), 0)
      image.writeZeroes(8192, 100_000, true)
      image.writeZeroes(20_480, 4096, false)
      image.snapshots.create({ name: "one", vmState: filled(5000, 4) })
      image.pwrite(filled(30_000, 2), 60_000)
      image.writeZeroes(200_000, 20_000, true)
      image.snapshots.create({ name: "two" })
      image.pwrite(filled(30_000, 3), 90_000)
      image.close()
      const read = (snapshot?: string): string => {
        const disk = openImage(path, { readOnly: true, ...(snapshot === undefined ? {} : { snapshot }) })
        const content = new Uint8Array(disk.size)
        disk.pread(content, 0)
        disk.close()
        return sha256(content)
      }
      const before = [read(), read("one"), read("two")]
      expect(amended(path, { compat: "0.10" }).version).toBe(2)
      expect([read(), read("one"), read("two")]).toEqual(before)
      expect(checkImage(path)).toMatchObject({ exitCode: 0 })
      const again = openImage(path) as Qcow2Image
      again.snapshots.apply("one")
      again.close()
      expect(read()).toBe(before[1])
      if (hasQemu) expect(qemuCheck(path)).toMatchObject({ exitCode: 0 })
    }
  })

  it("is not lowered if that would lose something, and the file stays as it was", () => {
    const refused = (path: string, options: AmendImageOptions): string => {
      const before = readFileSync(path)
      const { message } = failureOf(() => amendImage(path, options))
      expect(readFileSync(path).equals(before)).toBe(true)
      return message
    }
    expect(refused(made({ extendedL2: true, clusterSize: 16384 }), { compat: "0.10" })).toContain("extended L2")
    expect(refused(made({ refcountBits: 8 }), { compat: "0.10" })).toContain("refcounts of 8 bits")
    expect(refused(made(), { compat: "0.10", lazyRefcounts: true })).toContain("lazy refcounts")
    expect(refused(made({ compat: "0.10" }), { lazyRefcounts: true })).toContain("lazy refcounts")
    expect(refused(made({ dataFile: "d" }), { compat: "0.10" })).toContain("data file")
    const path = made()
    const image = openImage(path)
    if (image instanceof Qcow2Image) image.bitmaps.add("b")
    image.close()
    expect(refused(path, { compat: "0.10" })).toContain("bitmaps")
    const snapshots = made()
    const other = openImage(snapshots)
    if (other instanceof Qcow2Image) {
      other.snapshots.create({ name: "s" })
      other.resize(SIZE + 512)
    }
    other.close()
    expect(refused(snapshots, { compat: "0.10" })).toContain('snapshot "s" has a disk of')
    // The size that the snapshot has.
    expect(refused(snapshots, { compat: "0.10", size: SIZE + 1024 })).toContain('snapshot "s" has a disk of')
    expect(refused(snapshots, { refcountBits: 3 })).toContain("power of two")
    expect(refused(snapshots, { size: 512 })).toContain("less than")
    expect(refused(snapshots, { dataFile: "x" })).toContain("no external data file")
    expect(refused(snapshots, { backingFormat: "raw" })).toContain("has no backing file")
    expect(refused(snapshots, { backing: "x" })).toContain("must be given")
  })
})

describe("refcounts", () => {
  it.each([1, 2, 4, 8, 32, 64])("QC-REF-03 refcounts get %i bits, and 16 again", (bits) => {
    const path = made()
    expect(amended(path, { refcountBits: bits }).refcountBits).toBe(bits)
    const image = openImage(path)
    image.pwrite(filled(100_000, 8), 600_000)
    image.close()
    expect(checkImage(path)).toMatchObject({ exitCode: 0 })
    expect(amended(path, { refcountBits: 16 }).refcountBits).toBe(16)
  })

  it("QC-REF-07 refcounts do not become too narrow for a count of the image", () => {
    const path = made()
    const image = openImage(path)
    if (image instanceof Qcow2Image) image.snapshots.create({ name: "s" })
    image.close()
    const before = bytesOf(path)
    expect(failureOf(() => amendImage(path, { refcountBits: 1 })).message).toContain("has 2 references")
    expect(bytesOf(path).refcountBits).toBe(before.refcountBits)
    expect(amended(path, { refcountBits: 2 }).refcountBits).toBe(2)
  })
})

describe("other fields of the header", () => {
  it("QC-EXT-04 the backing file changes, and unknown extensions are kept", () => {
    const path = made()
    const unknown = bytesOf(path)
    const at = 112
    unknown.bytes.copyWithin(at + 16, at, 2000)
    unknown.setU32(at, 0x1234_5678).setU32(at + 4, 3).setU64(at + 8, 0x6162_6300_0000_0000n)
    writeFileSync(path, unknown.bytes)
    const base = join(path, "..", "base.raw")
    writeFileSync(base, new Uint8Array(SIZE))
    const next = amended(path, { backing: "base.raw", backingFormat: "raw" })
    expect(Buffer.from(next.bytes.subarray(0, 4096)).includes("abc")).toBe(true)
    expect(Buffer.from(next.bytes).subarray(Number(next.u64(8)), Number(next.u64(8)) + next.u32(16)).toString()).toBe("base.raw")
    expect(amended(path, { backing: "" }).u64(8)).toBe(0n)
  })

  it("the size and the name of the data file change, and data_file_raw can be switched off", () => {
    const path = made({ dataFile: "d.raw", dataFileRaw: true })
    writeFileSync(join(path, "..", "e.raw"), readFileSync(join(path, "..", "d.raw")))
    expect(amended(path, { dataFile: "e.raw", dataFileRaw: false }).autoclear).toBe(0n)
    expect(failureOf(() => amendImage(path, { dataFileRaw: true })).message).toContain("cannot become a raw one")
    const other = made()
    amendImage(other, { size: 3 << 20 })
    expect(bytesOf(other).size).toBe(3 << 20)
  })
})
