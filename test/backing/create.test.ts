/** createImage: new images by path, and what is refused. */
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { BackingError } from "../../src/backing/backing.ts"
import { createImage, type CreateImageOptions } from "../../src/backing/create.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { openImage } from "../../src/backing/open.ts"
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import { itWithQemu, qemuCheck, qemuImg } from "../support/qemu.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { failureOf, filled } from "./qcow2/small-images.ts"

const shapes: readonly CreateImageOptions[] = [
  { size: 0 },
  { size: 1000 },
  { size: 1 << 30 },
  { size: 1 << 30, compat: "0.10" },
  { size: 1 << 30, lazyRefcounts: true },
  { size: 8 << 20, clusterSize: 512 },
  { size: 1 << 30, clusterSize: 2 << 20 },
  { size: 2 ** 42, clusterSize: 65536 },
  { size: 100_000, clusterSize: 512, preallocation: "metadata" },
  { size: 5 << 20, clusterSize: 512, refcountBits: 64, preallocation: "metadata" },
  { size: (1 << 20) + 512, preallocation: "metadata" },
  ...[1, 2, 4, 8, 16, 32, 64].map((refcountBits) => ({ size: 1 << 20, clusterSize: 4096, refcountBits })),
]

describe("createImage", () => {
  it.each(shapes)("QC-REF-11 %j is consistent, reads as zeroes, and can be written at both ends", (options) => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    createImage(path, options)
    const file = new HostFile(path, { readOnly: true })
    expect(checkQcow2(file)).toMatchObject({ exitCode: 0, findings: [] })
    file.close()
    const image = openImage(path)
    const size = Math.ceil((options.size ?? 0) / 512) * 512
    expect(image.size).toBe(size)
    if (size > 0) {
      image.pwrite(filled(1, 5), 0)
      image.pwrite(filled(1, 6), size - 1)
      const ends = [new Uint8Array(1), new Uint8Array(1)]
      image.pread(ends[0] ?? new Uint8Array(0), 0)
      image.pread(ends[1] ?? new Uint8Array(0), size - 1)
      expect(ends.map((end) => end[0])).toEqual([5, 6])
    }
    image.close()
  })

  itWithQemu.each(
    shapes.filter((options) => options.size !== 2 ** 42),
  )("QC-REF-11 QC-EXT-09 QEMU finds %j as good as its own", (options) => {
    const directory = temporaryDirectory()
    const [ours, theirs] = [join(directory, "ours.qcow2"), join(directory, "theirs.qcow2")]
    createImage(ours, options)
    const words = [
      `cluster_size=${options.clusterSize ?? 65536}`,
      `compat=${options.compat ?? "1.1"}`,
      `preallocation=${options.preallocation ?? "off"}`,
    ]
    if (options.compat !== "0.10") {
      words.push(`refcount_bits=${options.refcountBits ?? 16}`, `lazy_refcounts=${options.lazyRefcounts === true ? "on" : "off"}`)
    }
    qemuImg("create", "-q", "-f", "qcow2", "-o", words.join(","), theirs, String(Math.ceil((options.size ?? 0) / 512) * 512))
    const information = (path: string): object => {
      const { "actual-size": _, filename, children, ...rest }: Record<string, unknown> = JSON.parse(qemuImg("info", "--output=json", path))
      void [filename, children]
      return rest
    }
    expect(information(ours)).toEqual(information(theirs))
    expect(qemuCheck(ours).exitCode).toBe(0)
    if (options.preallocation !== "metadata") {
      expect(Buffer.compare(readFileSync(ours).subarray(0, 512), readFileSync(theirs).subarray(0, 512))).toBe(0)
    }
  })

  it("QC-REF-11 a fresh image: header, refcount table, refcount block, L1 table, each with the refcount 1", () => {
    const file = new MemoryFile()
    createQcow2(file, { size: 1 << 20 })
    const image = new Qcow2Bytes(file.toBytes())
    expect([image.refcountTableOffset, image.refcountBlock(0), image.l1Offset, file.size()]).toEqual([65536, 131072, 196608, 262144])
    expect([0, 1, 2, 3, 4].map((cluster) => image.refcount(cluster))).toEqual([1n, 1n, 1n, 1n, 0n])
  })

  it("a backing file gives the size; it must exist and have the stated format", () => {
    const directory = temporaryDirectory()
    createImage(join(directory, "base.qcow2"), { size: 3 << 20 })
    createImage(join(directory, "top.qcow2"), { backing: "base.qcow2", backingFormat: "qcow2" })
    const top = openImage(join(directory, "top.qcow2"))
    expect(top.size).toBe(3 << 20)
    top.close()
    const none = join(directory, "none.qcow2")
    expect(failureOf(() => createImage(none, { backing: "missing", backingFormat: "raw" })).code).toBe("not-found")
    expect(failureOf(() => createImage(none, { size: 512, backing: "missing", backingFormat: "raw" })).code).toBe("not-found")
    expect(failureOf(() => createImage(none, { size: 512, backing: "base.qcow2" })).code).toBe("invalid-argument")
    expect(existsSync(none)).toBe(false)
  })

  it("never overwrites a file, and leaves none behind when it fails", () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    writeFileSync(path, "precious")
    const { code, message } = failureOf(() => createImage(path, { size: 512 }))
    expect([code, message]).toEqual(["exists", expect.stringContaining("exists already; choose another name")])
    expect(readFileSync(path, "utf8")).toBe("precious")
    const other = join(temporaryDirectory(), "other.qcow2")
    expect(failureOf(() => createImage(other, { size: 2 ** 50, clusterSize: 512 })).code).toBe("invalid-argument")
    expect(existsSync(other)).toBe(false)
  })

  it("a size that the host refuses is refused before any table is written", () => {
    class SmallDisk extends MemoryFile {
      override truncate(): void {
        throw new BackingError("no-space", "larger than the file system allows", { path: this.path })
      }
    }
    const file = new SmallDisk()
    expect(failureOf(() => createQcow2(file, { size: 1 << 30, preallocation: "metadata" })).code).toBe("no-space")
    expect(file.changes).toBe(0)
  })

  it("makes sparse raw images of whole sectors", () => {
    const path = join(temporaryDirectory(), "disk.raw")
    createImage(path, { format: "raw", size: 1_000_000_001 })
    expect([statSync(path).size, statSync(path).blocks]).toEqual([1_000_000_512, 0])
  })

  it.each<[string, CreateImageOptions]>([
    ["no size", {}],
    ["a negative size", { size: -1 }],
    ["a fractional size", { size: 0.5 }],
    ["version 2 with lazy refcounts", { size: 512, compat: "0.10", lazyRefcounts: true }],
    ["version 2 with refcounts of 8 bits", { size: 512, compat: "0.10", refcountBits: 8 }],
    ["a backing format alone", { size: 512, backingFormat: "raw" }],
    ["refcounts of 3 bits", { size: 512, refcountBits: 3 }],
    ["refcounts of 128 bits", { size: 512, refcountBits: 128 }],
    ["clusters of 256 bytes", { size: 512, clusterSize: 256 }],
    ["clusters of 4 MiB", { size: 512, clusterSize: 4 << 20 }],
    ["clusters of 1000 bytes", { size: 512, clusterSize: 1000 }],
    ["128 GiB and a sector of 512-byte clusters", { size: 2 ** 37 + 512, clusterSize: 512 }],
    ["raw of 2^53 bytes, rounded up to a sector", { format: "raw", size: 2 ** 53 - 1 }],
    ["raw with a cluster size", { format: "raw", size: 512, clusterSize: 512 }],
  ])("QC-LIM-03 QC-LIM-04 refuses %s", (_, options) => {
    const path = join(temporaryDirectory(), "disk")
    expect(failureOf(() => createImage(path, options)).code).toBe("invalid-argument")
    expect(existsSync(path)).toBe(false)
  })

  it("QC-LIM-03 a disk with clusters of 512 bytes has at most 128 GiB", () => {
    const file = new MemoryFile()
    createQcow2(file, { size: 2 ** 37, clusterSize: 512 })
    expect(new Qcow2Bytes(file.toBytes()).l1Size).toBe(4_194_304)
  })

  it("QC-LIM-01 preallocation that would need more than 8 MiB of refcount table is refused", () => {
    const file = new MemoryFile()
    expect(
      failureOf(() => createQcow2(file, { size: 2 ** 36, clusterSize: 512, refcountBits: 64, preallocation: "metadata" })).code,
    ).toBe("invalid-argument")
    expect(file.size()).toBe(0)
  })

  it("QC-LUKS-01 the size of an encrypted backing file, at any depth of the chain, is found without a passphrase", () => {
    const directory = temporaryDirectory()
    const at = (name: string): string => join(directory, name)
    const encryption = { passphrase: "secret", iterTime: 1 }
    createImage(at("base.luks"), { format: "luks", size: 300_032, encryption })
    createImage(at("base.qcow2"), { size: 400_384, encryption })
    createImage(at("mid.qcow2"), { backing: "base.luks", backingFormat: "luks" })
    createImage(at("top.qcow2"), { backing: "mid.qcow2", backingFormat: "qcow2" })
    createImage(at("over.qcow2"), { backing: "base.qcow2", backingFormat: "qcow2" })
    createImage(at("longer.qcow2"), { backing: "base.qcow2", backingFormat: "qcow2", size: 1 << 20 })
    const sizes = ["top.qcow2", "over.qcow2", "longer.qcow2"].map((name) => {
      using disk = openImage(at(name), { passphrase: "secret", readOnly: true })
      return disk.size
    })
    expect(sizes).toEqual([300_032, 400_384, 1 << 20])
    expect(failureOf(() => openImage(at("over.qcow2"))).message).toMatch(/passphrase is needed/)
  })

  it("QC-BF-09 metadata is not preallocated over a backing file", () => {
    const file = new MemoryFile()
    expect(
      failureOf(() => createQcow2(file, { size: 512, backing: "b", backingFormat: "raw", preallocation: "metadata" })).code,
    ).toBe("invalid-argument")
  })
})
