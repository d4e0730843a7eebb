/**
 * The defects of the first vmd qcow2 driver that concern opening an image, each shown to be absent here. The numbers are those of the list
 * of 26.
 */
import { mkdirSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { BackingError, type BackingErrorCode } from "../../../src/backing/backing.ts"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { goldenBytes } from "../../support/golden.ts"
import { openGolden, openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

/** The code of the BackingError that `work` throws. */
function codeOf(work: () => unknown): BackingErrorCode {
  try {
    work()
  } catch (error) {
    if (error instanceof BackingError) return error.code
    throw error
  }
  throw new Error("expected a BackingError, got none")
}

/** Expects that an image is refused, read-write and read-only, and left alone. */
function expectRefused(damage: (image: Qcow2Bytes) => unknown, message: RegExp, name = "v3-4k.qcow2"): void {
  const image = new Qcow2Bytes(goldenBytes(name))
  damage(image)
  for (const readOnly of [false, true]) {
    const file = MemoryFile.of(image.bytes, { path: "image", readOnly })
    expect(() => openInMemory(file)).toThrow(BackingError)
    expect(() => openInMemory(file)).toThrow(message)
    expect(file.changes, "a refused image is not written").toBe(0)
    expect(file.size(), "and the caller still owns the file").toBe(image.bytes.length)
  }
}

function opened(
  damage: (image: Qcow2Bytes) => unknown, name = "v3-4k.qcow2", readOnly = false,
): { disk: ReturnType<typeof openInMemory>; file: MemoryFile } {
  const image = new Qcow2Bytes(goldenBytes(name))
  damage(image)
  const file = MemoryFile.of(image.bytes, { path: "image", readOnly })
  return { disk: openInMemory(file), file }
}

describe("seed defects: the header", () => {
  it("seed defect 2: QC-HDR-07 cluster_bits outside 9 to 21 are refused", () => {
    for (const bits of [0, 1, 8, 22, 31, 32, 33, 63, 64, 0x7fff_ffff, 0xffff_ffff]) {
      expectRefused((image) => image.setU32(20, bits), /cluster_bits/)
    }
  })

  it("seed defect 3: QC-HDR-04 in version 2 bytes from 72 on are extensions, not fields of version 3", () => {
    // Shaped as an unknown extension, it would be incompatible feature bits and a refcount order if read as fields.
    const { disk } = opened((image) => image.insertExtension(0x1234_5678, new Uint8Array(40).fill(0xff)), "v2.qcow2")
    const content = new Uint8Array(512)
    disk.pread(content, 0)
    expect(content.every((byte) => byte === 0x11)).toBe(true)
    disk.pwrite(content, 1 << 15)
    disk.close()
  })

  it("seed defect 3: QC-HDR-05 version 3 with a header_length below 104, or no multiple of 8, or beyond the cluster, is refused", () => {
    for (const length of [0, 72, 96, 103, 105, 4104, 0xffff_ffff]) expectRefused((image) => image.setU32(100, length), /header_length/)
  })

  it("seed defect 4: QC-HDR-14 a refcount_order above 6 is refused", () => {
    for (const order of [7, 8, 32, 0xffff_ffff]) expectRefused((image) => image.setU32(96, order), /refcount_order/)
  })

  it("seed defect 5: QC-HDR-13 QC-FEAT-06 encryption and unknown compression are refused", () => {
    for (const method of [1, 2, 3, 0xffff_ffff]) expectRefused((image) => image.setU32(32, method), /encrypt|crypt_method/i)
    expectRefused((image) => image.setU8(104, 1), /compression_type/)
    expectRefused((image) => image.setU64(72, 8n), /compression_type/)
    expectRefused((image) => image.setU64(72, 8n).setU8(104, 2), /compression_type/)
  })

  it("seed defect 6: QC-FEAT-05 an image marked corrupt opens only for reading", () => {
    const image = new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).setU64(72, 2n)
    const file = MemoryFile.of(image.bytes)
    expect(codeOf(() => openInMemory(file))).toBe("corrupt")
    expect(file.changes).toBe(0)
    const content = new Uint8Array(512)
    openInMemory(MemoryFile.of(image.bytes, { readOnly: true })).pread(content, 0)
    expect(content.every((byte) => byte === 0x31)).toBe(true)
  })

  it("seed defect 6: QC-FEAT-04 a dirty image is repaired when opened for writing, and only read when opened read-only", () => {
    const readOnly = MemoryFile.of(goldenBytes("dirty.qcow2"), { readOnly: true })
    const content = new Uint8Array(20 << 10)
    openInMemory(readOnly).pread(content, 0)
    expect(content.every((byte) => byte === 0x44)).toBe(true)
    expect(readOnly.changes).toBe(0)

    const file = MemoryFile.of(goldenBytes("dirty.qcow2"))
    const disk = openInMemory(file)
    expect(new Qcow2Bytes(file.toBytes()).incompatible).toBe(0n)
    disk.pwrite(new Rng(1).bytes(30_000), 10_000)
    disk.close()
    const after = new Uint8Array(10_000)
    openInMemory(file.clone({ readOnly: true })).pread(after, 0)
    expect(after.every((byte) => byte === 0x44), "a refcount of 0 did not hand out what was in use").toBe(true)
  })

  it("seed defect 7: QC-FEAT-03 QC-BMP-03 opening for writing clears autoclear bits as its first change; reading keeps them", () => {
    const bits = (1n << 9n) | 1n
    expect(new Qcow2Bytes(opened((image) => image.setU64(88, bits), "v3-4k.qcow2", true).file.toBytes()).autoclear).toBe(bits)
    const { file } = opened((image) => image.setU64(88, bits))
    expect(new Qcow2Bytes(file.toBytes()).autoclear).toBe(0n)
  })

  it("seed defect 8: QC-HDR-09 QC-HDR-10 QC-LIM-01 an L1 table that is too small, too large, unaligned or too far away is refused", () => {
    expectRefused((image) => image.setU32(36, 0), /l1_size/)
    expectRefused((image) => image.setU32(36, 4194305), /l1_size/)
    expectRefused((image) => image.setU32(36, 0x2000_0001), /l1_size/)
    expectRefused((image) => image.setU64(24, 1n << 62n), /size/)
    expectRefused((image) => image.setU64(40, image.u64(40) + 512n), /l1_table_offset/)
    for (const offset of [1n << 63n, (1n << 64n) - 4096n, 1n << 53n]) expectRefused((image) => image.setU64(40, offset), /l1_table_offset/)
    for (const offset of [1n << 63n, 512n]) expectRefused((image) => image.setU64(48, offset), /refcount_table_offset/)
    expectRefused((image) => image.setU32(56, 0xffff_ffff), /refcount_table_clusters/)
    // Larger than the disk needs is fine.
    const { disk } = opened((image) => image.setU32(36, 100))
    expect(disk.size).toBe(262144)
  })

  it("seed defect 21: a refused image leaves the file open for its owner, and an opening by path leaves no descriptor behind", () => {
    const path = join(temporaryDirectory(), "bad.qcow2")
    writeFileSync(path, new Qcow2Bytes(goldenBytes("v3-4k.qcow2")).setU32(20, 40).bytes)
    const count = (): number => readdirSync("/proc/self/fd").length
    const before = count()
    for (let round = 0; round < 20; round++) expect(codeOf(() => openImage(path))).toBe("invalid-format")
    expect(count()).toBe(before)
  })
})

describe("seed defect 24: backing files", () => {
  it("QC-BF-07 relative names are relative to the image that names them, whatever the current directory", () => {
    const directory = temporaryDirectory()
    mkdirSync(join(directory, "images", "bases"), { recursive: true })
    writeFileSync(join(directory, "images", "bases", "base.raw"), new Rng(3).bytes(65536))
    createImage(join(directory, "images", "middle.qcow2"), { size: 65536, backing: "bases/base.raw", backingFormat: "raw" })
    createImage(join(directory, "top.qcow2"), { size: 65536, backing: "images/middle.qcow2", backingFormat: "qcow2", clusterSize: 512 })
    const disk = openImage(join(directory, "top.qcow2"))
    const content = new Uint8Array(65536)
    void disk.pread(content, 0)
    expect(Buffer.compare(content, new Rng(3).bytes(65536))).toBe(0)
    disk.close()
  })

  it("QC-BF-08 an image in its own chain, and an endless chain, are refused", () => {
    const directory = temporaryDirectory()
    const overlay = (name: string, backing: string): void => {
      const file = new MemoryFile()
      createQcow2(file, { size: 65536, clusterSize: 512, backing, backingFormat: "qcow2" })
      file.save(join(directory, name))
    }
    overlay("a", "b")
    overlay("b", "a")
    overlay("self", "./self")
    for (const name of ["a", "self"]) expect(() => openImage(join(directory, name))).toThrow(/own chain/)
    for (let depth = 0; depth < 100; depth++) overlay(`chain-${depth}`, `chain-${depth + 1}`)
    expect(() => openImage(join(directory, "chain-0"))).toThrow(/chain of backing files is longer than/)
  })

  it("QC-BF-07 QC-BF-08 a backing file without a stated format is refused, since its guest may have planted a header", () => {
    const directory = temporaryDirectory()
    writeFileSync(join(directory, "secret"), "secret")
    writeFileSync(join(directory, "base"), goldenBytes("v3-4k.qcow2"))
    const file = new MemoryFile()
    createQcow2(file, { size: 65536, clusterSize: 512, backing: "base", backingFormat: "raw" })
    // The format extension becomes an unknown one.
    file.save(join(directory, "stated"))
    const image = new Qcow2Bytes(file.toBytes())
    image.setU32(image.u32(100), 0x1111_1111)
    writeFileSync(join(directory, "unstated"), image.bytes)
    expect(() => openImage(join(directory, "unstated"))).toThrow(/does not say which format its backing file/)
    const raw = openImage(join(directory, "stated"), { readOnly: true })
    const start = new Uint8Array(4)
    void raw.pread(start, 0)
    expect([...start], "a raw base is raw, whatever it looks like").toEqual([0x51, 0x46, 0x49, 0xfb])
    raw.close()
  })

  it("QC-BF-08 names that look like protocols or options are never followed, and control characters never reach the message", () => {
    const directory = temporaryDirectory()
    const top = join(directory, "top")
    const names = [
      "json:{\"driver\":\"raw\"}", "nbd://localhost/x", "nbd+unix:///x?socket=/y", "fat:/etc", "host_device:/dev/sda", ":",
      "\u001b[31mred\nline",
    ]
    for (const name of names) {
      const file = new MemoryFile()
      createQcow2(file, { size: 65536, clusterSize: 512, backing: name, backingFormat: "raw" })
      file.save(top)
      expect(codeOf(() => openImage(top)), name).toBe(name.includes(":") ? "unsupported" : "not-found")
      expect(() => openImage(top)).toThrow(/^[^\u0000-\u001f]*$/)
    }
  })

  it("QC-HDR-12 names of up to 1023 bytes are read whole, longer ones refused", () => {
    const longest = new Uint8Array(1023).fill(0x61)
    const withName = (length: number) => (image: Qcow2Bytes): void => {
      image.bytes.set(longest, 1024)
      image.setU64(8, 1024n).setU32(16, length)
    }
    expectRefused(withName(1024), /backing file name/)
    const image = new Qcow2Bytes(goldenBytes("v3-4k.qcow2"))
    withName(1023)(image)
    let asked = ""
    const backing = openGolden("v3-4k.qcow2", { readOnly: true })
    openInMemory(MemoryFile.of(image.bytes), { openBacking: ({ name }) => ((asked = name), backing) })
    expect(asked).toBe("a".repeat(1023))
  })
})
