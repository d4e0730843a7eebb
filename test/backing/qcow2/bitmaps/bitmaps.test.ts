/** Persistent dirty bitmaps: what they record, how they are stored, and which are refused. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { openQcow2 } from "../../../../src/backing/host/open-qcow2.ts"
import { checkQcow2 } from "../../../../src/backing/qcow2/check/check.ts"
import type { CreateQcow2Options } from "../../../../src/backing/qcow2/create.ts"
import type { Qcow2Image } from "../../../../src/backing/qcow2/image.ts"
import { goldenBytes } from "../../../support/golden.ts"
import { FailingFile } from "../../../support/failing-file.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"
import { failureOf, filled, newImage } from "../small-images.ts"

const K = 1024
const seed = seedFromEnvironment(17)

/** An image in memory that is opened again and again. */
class Kept {
  file: MemoryFile

  constructor(options: Partial<CreateQcow2Options> = {}) {
    this.file = newImage({ size: 256 * K, clusterSize: 4 * K, ...options })
  }

  static of(bytes: Uint8Array): Kept {
    const kept = new Kept()
    kept.file = MemoryFile.of(bytes)
    return kept
  }

  use<T>(work: (image: Qcow2Image) => T): T {
    const image = openQcow2(this.file)
    try {
      return work(image)
    } finally {
      image.close()
      this.file = this.file.clone()
    }
  }

  /** What a process that ends now leaves. */
  crash(work: (image: Qcow2Image) => void): void {
    const image = openQcow2(this.file)
    work(image)
    image.flush()
    this.file = this.file.clone()
  }

  get bytes(): Qcow2Bytes {
    return new Qcow2Bytes(this.file.toBytes())
  }

  damage(work: (bytes: Qcow2Bytes) => void): this {
    const { bytes } = this
    work(bytes)
    this.file = MemoryFile.of(bytes.bytes)
    return this
  }
}

const changedIn = (image: Qcow2Image, name: string): [number, number][] =>
  [...image.bitmaps.changed(name)].map(({ offset, length }) => [offset, length])

/** Byte position of the data of the bitmaps extension, 0 without one. */
const extensionAt = (image: Qcow2Bytes): number => image.extensionAt(0x2385_2875)

/** Byte position of the first directory entry. */
function directoryAt(image: Qcow2Bytes): number {
  return Number(image.u64(extensionAt(image) + 16))
}

function withOne(options: Partial<CreateQcow2Options> = {}): Kept {
  const kept = new Kept(options)
  kept.use((image) => image.bitmaps.add("one", { granularity: 512 }))
  return kept
}

describe("what a bitmap records", () => {
  it("QC-BMP-10 writes, zeroes and discards, from the moment that it was made; a disabled one records nothing", () => {
    const kept = new Kept()
    kept.use((image) => {
      image.pwrite(filled(100, 1), 0)
      image.bitmaps.add("on", { granularity: 512 })
      image.bitmaps.add("off", { isEnabled: false })
      image.pwrite(filled(1, 1), 5 * K)
      image.pwritev([filled(600, 1), filled(600, 2)], 10 * K - 1)
      image.writeZeroes(40 * K, 3 * K, true)
      image.discard(100 * K, 8 * K)
      image.pwrite(new Uint8Array(0), 200 * K)
      expect(changedIn(image, "on")).toEqual([[5 * K, 512], [10 * K - 512, 2 * K], [40 * K, 3 * K], [100 * K, 8 * K]])
    })
    kept.use((image) => {
      expect(image.bitmaps.list()).toEqual([
        { name: "on", granularity: 512, isEnabled: true, isConsistent: true },
        { name: "off", granularity: 4 * K, isEnabled: false, isConsistent: true },
      ])
      expect(changedIn(image, "on")).toEqual([[5 * K, 512], [10 * K - 512, 2 * K], [40 * K, 3 * K], [100 * K, 8 * K]])
      expect(changedIn(image, "off")).toEqual([])
      image.bitmaps.enable("off")
      image.bitmaps.disable("on")
      image.pwrite(filled(1, 1), 255 * K)
    })
    kept.use((image) => {
      expect(changedIn(image, "off")).toEqual([[252 * K, 4 * K]])
      expect(changedIn(image, "on")).not.toContainEqual([255 * K, 512])
    })
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
  })

  it("QC-BMP-08 bit n is bit n mod 8, from the least significant, of byte n / 8; what is behind the disk's end stays clear", () => {
    const kept = withOne({ size: 10 * K + 512 })
    kept.use((image) => {
      image.pwrite(filled(512, 1), 512)
      image.pwrite(filled(512, 1), 9 * 512)
      image.pwrite(filled(512, 1), 10 * K)
    })
    const { bytes } = kept
    const table = Number(bytes.u64(directoryAt(bytes)))
    const data = Number(bytes.u64(table))
    expect([...bytes.bytes.subarray(data, data + 4)]).toEqual([2, 2, 16, 0])
    kept.use((image) => expect(changedIn(image, "one")).toEqual([[512, 512], [9 * 512, 512], [10 * K, 512]]))
  })

  it("QC-BMP-08 the last range ends with the disk, and a part of the disk can be queried", () => {
    const kept = new Kept({ size: 100 * K + 512 })
    kept.use((image) => {
      image.bitmaps.add("b", { granularity: 64 * K })
      image.pwrite(filled(1, 1), 100 * K)
      image.pwrite(filled(1, 1), 0)
      expect(changedIn(image, "b")).toEqual([[0, 100 * K + 512]])
      expect([...image.bitmaps.changed("b", 3, 5)]).toEqual([{ offset: 3, length: 5 }])
    })
  })

  it(`QC-BMP-10 random writes and reopenings leave the bits that a model has, seed ${seed}`, () => {
    const kept = new Kept({ size: 8 << 20, clusterSize: 512 })
    const expected = new Uint8Array((8 << 20) / 512)
    kept.use((image) => image.bitmaps.add("all", { granularity: 512 }))
    const rng = new Rng(seed)
    for (let round = 0; round < 6; round++) {
      kept.use((image) => {
        for (let count = 0; count < 20; count++) {
          const sector = rng.below(expected.length)
          const sectors = Math.min(expected.length - sector, 1 + rng.below(40))
          if (rng.chance(0.6)) image.pwrite(new Uint8Array(sectors * 512), sector * 512)
          else if (rng.chance(0.5)) image.discard(sector * 512, sectors * 512)
          else image.writeZeroes(sector * 512, sectors * 512, rng.chance(0.5))
          expected.fill(1, sector, sector + sectors)
        }
        const found = new Uint8Array(expected.length)
        for (const { offset, length } of image.bitmaps.changed("all")) found.fill(1, offset / 512, (offset + length) / 512)
        expect(Buffer.compare(found, expected)).toBe(0)
        if (rng.chance(0.2)) {
          image.bitmaps.clear("all")
          expected.fill(0)
        }
      })
      expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
    }
  })
})

describe("stored bitmaps", () => {
  it("QC-BMP-01 QC-BMP-04 QC-BMP-05 the extension and the directory have the bytes of the format", () => {
    const kept = withOne()
    const { bytes } = kept
    const at = extensionAt(bytes)
    const directory = directoryAt(bytes)
    expect([bytes.autoclear, bytes.u32(at - 4), bytes.u32(at), bytes.u32(at + 4), bytes.u64(at + 8)]).toEqual([1n, 24, 1, 0, 32n])
    expect(bytes.u64(directory) % 4096n).toBe(0n)
    const fields = [bytes.u32(directory + 8), bytes.u32(directory + 12), bytes.u8(directory + 16), bytes.u8(directory + 17)]
    expect(fields, "table entries, auto, type, granularity bits").toEqual([1, 2, 1, 9])
    expect([bytes.u32(directory + 18) >>> 16, bytes.u32(directory + 20)]).toEqual([3, 0])
    expect(new TextDecoder().decode(bytes.bytes.subarray(directory + 24, directory + 32))).toBe("one\0\0\0\0\0")
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
  })

  it("QC-BMP-09 a bitmap has in_use while the image is open for writing, and after a crash, when it can only be removed", () => {
    const kept = withOne()
    kept.crash((image) => image.pwrite(filled(1, 1), 0))
    expect(kept.bytes.u32(directoryAt(kept.bytes) + 12)).toBe(3)
    kept.use((image) => {
      expect(image.bitmaps.list()).toEqual([{ name: "one", granularity: 512, isEnabled: true, isConsistent: false }])
      for (const work of [
        () => changedIn(image, "one"), () => image.bitmaps.clear("one"), () => image.bitmaps.enable("one"),
        () => image.bitmaps.disable("one"),
        () => image.bitmaps.merge("one", "one"),
      ]) expect(failureOf(work)).toMatchObject({ code: "corrupt", message: expect.stringContaining("not consistent") })
      image.pwrite(filled(1, 1), 0)
    })
    expect(kept.bytes.u32(directoryAt(kept.bytes) + 12), "kept as it is").toBe(3)
    kept.use((image) => image.bitmaps.remove("one"))
    expect([kept.bytes.autoclear, extensionAt(kept.bytes)]).toEqual([0n, 0])
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
  })

  it("QC-BMP-09 a disabled bitmap survives a crash, since nothing changes it", () => {
    const kept = withOne()
    kept.use((image) => image.pwrite(filled(1, 1), 7 * K))
    kept.use((image) => image.bitmaps.disable("one"))
    kept.crash((image) => image.pwrite(filled(1, 1), 0))
    kept.use((image) => expect(changedIn(image, "one")).toEqual([[7 * K, 512]]))
  })

  it("QC-BMP-09 a bitmap does not change when the image is only read", () => {
    const kept = withOne()
    const file = kept.file.clone({ readOnly: true })
    const image = openQcow2(file)
    expect(changedIn(image, "one")).toEqual([])
    expect(failureOf(() => image.bitmaps.add("two")).code).toBe("read-only")
    image.close()
    expect(file.changes).toBe(0)
  })

  it("QC-BMP-07 table entries for all zeroes and all ones need no cluster, and clearing frees clusters", () => {
    const kept = withOne({ clusterSize: 512 })
    kept.use((image) => image.pwrite(filled(256 * K, 1), 0))
    const table = Number(kept.bytes.u64(directoryAt(kept.bytes)))
    expect(kept.bytes.u64(table)).not.toBe(0n)
    kept.use((image) => image.bitmaps.clear("one"))
    expect(kept.bytes.u64(Number(kept.bytes.u64(directoryAt(kept.bytes))))).toBe(0n)
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
    kept.damage((bytes) => bytes.setU64(Number(bytes.u64(directoryAt(bytes))), 1n))
    kept.use((image) => expect(changedIn(image, "one")).toEqual([[0, 256 * K]]))
  })

  it.each([2n, 1n << 8n, 1n << 56n, (1n << 63n) + 4096n, 4097n])("QC-BMP-07 a table entry with reserved bits is corruption: %i", (word) => {
    const kept = withOne().damage((bytes) => bytes.setU64(Number(bytes.u64(directoryAt(bytes))), word))
    const image = openQcow2(kept.file.clone({ readOnly: true }))
    expect(() => changedIn(image, "one")).toThrow(/the table of bitmap "one" is invalid/)
  })

  it("QC-BMP-07 bits are not written over metadata", () => {
    const kept = withOne()
    kept.use((image) => image.pwrite(filled(1, 1), 0))
    kept.damage((bytes) => bytes.setU64(Number(bytes.u64(directoryAt(bytes))), BigInt(bytes.l1Offset)))
    const image = openQcow2(kept.file)
    image.pwrite(filled(1, 1), 8 * K)
    expect(() => image.close()).toThrow(/has its bits at byte \d+, but the L1 table is there/)
  })

  it("merge with bitmaps of any granularity, of the image or of another one of the same size", () => {
    const [kept, other] = [new Kept(), new Kept()]
    other.use((image) => {
      image.bitmaps.add("theirs", { granularity: 512 })
      image.pwrite(filled(1, 1), 200 * K)
    })
    kept.use((image) => {
      image.bitmaps.add("fine", { granularity: 512 })
      image.bitmaps.add("coarse", { granularity: 16 * K, isEnabled: false })
      image.pwrite(filled(1, 1), 3 * K)
      image.bitmaps.merge("coarse", "fine")
      const from = openQcow2(other.file.clone({ readOnly: true }))
      image.bitmaps.merge("fine", "theirs", from.bitmaps)
      from.close()
      const small = openQcow2(newImage({ size: 512 }))
      expect(failureOf(() => image.bitmaps.merge("fine", "x", small.bitmaps)).code).toBe("invalid-argument")
    })
    kept.use((image) => {
      expect(changedIn(image, "coarse")).toEqual([[0, 16 * K]])
      expect(changedIn(image, "fine")).toEqual([[3 * K, 512], [200 * K, 512]])
    })
  })

  it("refuse forbidden names and granularities, and a name that is taken; a missing bitmap is an error", () => {
    const kept = withOne()
    kept.use(({ bitmaps }) => {
      expect(failureOf(() => bitmaps.add("")).code).toBe("invalid-argument")
      expect(failureOf(() => bitmaps.add("x".repeat(1024))).code).toBe("invalid-argument")
      for (const granularity of [256, 513, 2 ** 32]) {
        expect(failureOf(() => bitmaps.add("x", { granularity })).code).toBe("invalid-argument")
      }
      expect(failureOf(() => bitmaps.add("one")).code).toBe("exists")
      for (const work of [() => bitmaps.remove("two"), () => bitmaps.clear("two"), () => bitmaps.merge("one", "two")]) {
        expect(failureOf(work).code).toBe("not-found")
      }
    })
    const huge = new Kept({ size: 2 ** 45, clusterSize: 2 << 20 })
    huge.use(({ bitmaps }) => {
      expect(failureOf(() => bitmaps.add("fine", { granularity: 512 })).code).toBe("no-space")
      bitmaps.add("coarse", { granularity: 65536 })
    })
  })
})

describe("opening an image with bitmaps", () => {
  it("QC-BMP-02 QC-BMP-03 bitmaps without the autoclear bit are ignored, and a writer removes them; a bit alone is cleared", () => {
    const kept = withOne().damage((bytes) => bytes.setU64(88, 0n))
    const read = openQcow2(kept.file.clone({ readOnly: true }))
    expect(read.bitmaps.list()).toEqual([])
    kept.use((image) => expect(image.bitmaps.list()).toEqual([]))
    expect(extensionAt(kept.bytes)).toBe(0)
    const bare = new Kept().damage((bytes) => bytes.setU64(88, 1n))
    bare.use((image) => expect(image.bitmaps.list()).toEqual([]))
    expect(bare.bytes.autoclear).toBe(0n)
  })

  const first = (bytes: Qcow2Bytes): number => directoryAt(bytes)
  it.each<readonly [string, (bytes: Qcow2Bytes) => void]>([
    ["an extension of another length", (bytes) => bytes.setU32(extensionAt(bytes) - 4, 23)],
    ["no bitmaps", (bytes) => bytes.setU32(extensionAt(bytes), 0)],
    ["too many bitmaps", (bytes) => bytes.setU32(extensionAt(bytes), 65536)],
    ["a reserved word", (bytes) => bytes.setU32(extensionAt(bytes) + 4, 1)],
    ["a directory that is too long", (bytes) => bytes.setU64(extensionAt(bytes) + 8, 67107841n)],
    ["a directory that is not a cluster", (bytes) => bytes.setU64(extensionAt(bytes) + 16, 512n)],
    ["a directory beyond all offsets", (bytes) => bytes.setU64(extensionAt(bytes) + 16, 1n << 62n)],
    ["a directory that is longer than its entries", (bytes) => bytes.setU64(extensionAt(bytes) + 8, 40n)],
    ["a directory that is shorter", (bytes) => bytes.setU64(extensionAt(bytes) + 8, 24n)],
    ["more bitmaps than entries", (bytes) => bytes.setU32(extensionAt(bytes), 2)],
  ])("QC-BMP-01 an image with %s is refused for writing, and can be read", (_, damage) => {
    const kept = withOne().damage(damage)
    const { changes } = kept.file
    expect(failureOf(() => openQcow2(kept.file)).code).toBe("invalid-format")
    expect(kept.file.changes).toBe(changes)
    const image = openQcow2(kept.file.clone({ readOnly: true }))
    image.pread(new Uint8Array(512), 0)
    expect(failureOf(() => image.bitmaps.list()).code).toBe("invalid-format")
  })

  it.each<readonly [string, (bytes: Qcow2Bytes) => void]>([
    ["QC-BMP-05 a reserved flag", (bytes) => bytes.setU32(first(bytes) + 12, 8)],
    ["QC-BMP-05 type 2", (bytes) => bytes.setU8(first(bytes) + 16, 2)],
    ["QC-BMP-06 granularity bits 8", (bytes) => bytes.setU8(first(bytes) + 17, 8)],
    ["QC-BMP-06 granularity bits 32", (bytes) => bytes.setU8(first(bytes) + 17, 32)],
    ["QC-BMP-06 a name of 0 bytes", (bytes) => bytes.setU16(first(bytes) + 18, 0)],
    ["QC-BMP-06 no table", (bytes) => bytes.setU32(first(bytes) + 8, 0)],
    ["QC-BMP-06 a table of too many entries", (bytes) => bytes.setU32(first(bytes) + 8, 0x800_0001)],
    ["QC-BMP-06 more than 512 MiB of bits", (bytes) => bytes.setU32(first(bytes) + 8, 0x2_0001)],
    ["QC-BMP-08 a table of another length than the disk takes", (bytes) => bytes.setU32(first(bytes) + 8, 2)],
    ["QC-BMP-06 a table that is not a cluster", (bytes) => bytes.setU64(first(bytes), 4608n)],
    ["QC-BMP-06 no place for the table", (bytes) => bytes.setU64(first(bytes), 0n)],
  ])("%s is refused for writing", (_, damage) => {
    const kept = withOne().damage(damage)
    expect(failureOf(() => openQcow2(kept.file)).code).toBe("invalid-format")
  })

  it("QC-BMP-06 two bitmaps of one name are refused", () => {
    const kept = withOne()
    kept.use((image) => image.bitmaps.add("two"))
    kept.damage((bytes) => bytes.bytes.set(new TextEncoder().encode("one"), directoryAt(bytes) + 32 + 24))
    expect(failureOf(() => openQcow2(kept.file)).message).toContain('two bitmaps "one"')
  })

  it("QC-BMP-11 unknown extra data is kept as it is, and its bitmap is not used unless the flag allows that", () => {
    const extra = (flags: number): Kept =>
      withOne().damage((bytes) => {
        const at = directoryAt(bytes)
        bytes.bytes.copyWithin(at + 32, at + 24, at + 27)
        bytes.bytes.set([1, 2, 3, 4, 5, 6, 7, 8], at + 24)
        bytes.setU32(at + 20, 8).setU32(at + 12, flags).setU64(extensionAt(bytes) + 8, 40n)
      })
    const unknown = extra(2)
    const before = unknown.bytes.bytes.slice(directoryAt(unknown.bytes), directoryAt(unknown.bytes) + 40)
    unknown.use((image) => {
      expect(failureOf(() => changedIn(image, "one")).code).toBe("corrupt")
      image.pwrite(filled(1, 1), 0)
      image.bitmaps.add("two")
    })
    const after = unknown.bytes.bytes.slice(directoryAt(unknown.bytes), directoryAt(unknown.bytes) + 40)
    expect([...after.subarray(8)]).toEqual([...before.subarray(8)])
    const known = extra(6)
    known.use((image) => image.pwrite(filled(1, 1), 0))
    known.use((image) => expect(changedIn(image, "one")).toEqual([[0, 512]]))
    expect([...known.bytes.bytes.subarray(directoryAt(known.bytes) + 24, directoryAt(known.bytes) + 32)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
  })

  it("QC-BMP-12 version 2 has no bitmaps", () => {
    new Kept({ compat: "0.10" }).use(({ bitmaps }) => {
      expect(bitmaps.list()).toEqual([])
      expect(failureOf(() => bitmaps.add("one")).code).toBe("unsupported")
    })
  })

  it("QC-BMP-12 a resize keeps the bits up to the new end, and is refused with an inconsistent bitmap", () => {
    const kept = withOne({ clusterSize: 512 })
    kept.use((image) => {
      image.pwrite(filled(1, 1), 0)
      image.pwrite(filled(1, 1), 250 * K)
      image.resize(8 << 20)
      image.pwrite(filled(1, 1), 5 << 20)
    })
    kept.use((image) => expect(changedIn(image, "one")).toEqual([[0, 512], [250 * K, 512], [5 << 20, 512]]))
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
    kept.use((image) => image.resize(100 * K, { shrink: true }))
    kept.use((image) => image.resize(1 << 20))
    kept.use((image) => expect(changedIn(image, "one")).toEqual([[0, 512]]))
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
    kept.crash((image) => image.pwrite(filled(1, 1), 0))
    kept.use((image) => expect(failureOf(() => image.resize(2 << 20)).message).toContain("remove it first"))
  })

  for (const size of [1 << 20, 12 << 20]) {
    it(`QC-BMP-12 a call that fails while the size becomes ${size} leaves the old size or the new one, with its bitmaps`, () => {
      const kept = withOne({ clusterSize: 512, size: 5 << 20 })
      kept.use((image) => image.pwrite(filled(1, 1), 0))
      const before = kept.file
      for (let at = 1; ; at++) {
        kept.file = before.clone()
        const failing = new FailingFile(kept.file)
        const image = openQcow2(failing)
        failing.plan = { at, code: "io", calls: ["read", "write", "truncate", "sync"], duration: "once" }
        let failed = false
        try {
          image.resize(size, { shrink: true })
        } catch (error) {
          if (!(error instanceof BackingError)) throw error
          failed = true
        }
        failing.plan = undefined
        expect(failed ? [5 << 20, size] : [size], `call ${at}`).toContain(image.size)
        const found = image.size
        image.close()
        kept.file = kept.file.clone()
        kept.use((again) => expect([again.size, changedIn(again, "one")], `call ${at}`).toEqual([found, [[0, 512]]]))
        if (!failed) return expect(at).toBeGreaterThan(2)
      }
    })
  }

  it.each([
    "write", "sync",
  ] as const)("QC-BMP-09 QC-BMP-12 a %s that fails while the size changes leaves every bitmap consistent", (call) => {
    for (let at = 1; at <= 12; at++) {
      const kept = new Kept()
      kept.use(({ bitmaps }) => {
        bitmaps.add("on")
        bitmaps.add("off", { isEnabled: false })
      })
      const failing = new FailingFile(kept.file)
      const image = openQcow2(failing)
      failing.plan = { at, code: "io", calls: [call], duration: "once" }
      try {
        image.resize(512 * K)
      } catch (error) {
        if (!(error instanceof BackingError)) throw error
      }
      failing.plan = undefined
      image.close()
      kept.file = kept.file.clone()
      kept.use(({ bitmaps }) => expect(bitmaps.list().map(({ isConsistent }) => isConsistent), `call ${at}`).toEqual([true, true]))
    }
  })

  it("QC-BMP-10 QC-BMP-12 going back to a snapshot marks the whole disk as changed, at its new size", () => {
    const kept = withOne({ clusterSize: 512 })
    kept.use((image) => {
      image.bitmaps.add("off", { isEnabled: false })
      image.snapshots.create({ name: "small" })
      image.resize(4 << 20)
    })
    kept.use((image) => {
      expect(changedIn(image, "one")).toEqual([])
      image.snapshots.apply("small")
    })
    kept.use((image) => {
      expect([image.size, changedIn(image, "one"), changedIn(image, "off")]).toEqual([256 * K, [[0, 256 * K]], []])
    })
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
  })

  it("QC-BMP-04 bitmaps of QEMU are read, and record further writes", () => {
    const kept = Kept.of(goldenBytes("bitmap.qcow2"))
    kept.use((image) => {
      expect(image.bitmaps.list()).toEqual([{ name: "track", granularity: 512, isEnabled: true, isConsistent: true }])
      expect(changedIn(image, "track")).toEqual([[0, 3 * K]])
      image.pwrite(filled(1, 1), 10 * K)
    })
    kept.use((image) => expect(changedIn(image, "track")).toEqual([[0, 3 * K], [10 * K, 512]]))
    expect(checkQcow2(kept.file)).toMatchObject({ exitCode: 0 })
  })

  it("QC-BMP-06 the bits that a hostile image makes a writer keep in memory are bounded", () => {
    const kept = new Kept({ size: 2 ** 40, clusterSize: 65536 })
    kept.use(({ bitmaps }) => {
      for (const name of ["a", "b"]) bitmaps.add(name, { granularity: 512 })
      expect(failureOf(() => bitmaps.add("c", { granularity: 512 })).message).toContain("may record writes")
      bitmaps.add("off", { granularity: 512, isEnabled: false })
      expect(failureOf(() => bitmaps.enable("off")).message).toContain("may record writes")
    })
    kept.use(({ bitmaps }) => {
      expect(bitmaps.list().map(({ name, isEnabled }) => [name, isEnabled])).toEqual([["a", true], ["b", true], ["off", false]])
    })
  })

  it("QC-BMP-06 QC-BMP-12 a resize beyond what a bitmap can describe is refused: the image could not be opened again", () => {
    const kept = new Kept({ size: 2 ** 40, clusterSize: 65536 })
    const large = 2 ** 42
    kept.use((image) => {
      image.bitmaps.add("one", { granularity: 1024 })
      image.snapshots.create({ name: "small" })
      image.resize(2 ** 41)
      image.bitmaps.add("two", { granularity: 2048 })
      expect(failureOf(() => image.resize(large + 512))).toMatchObject({
        code: "unsupported", message: expect.stringMatching(/"one" would be too large/),
      })
      expect(failureOf(() => image.resize(large)).message).toContain("may record writes")
      image.bitmaps.disable("two")
      image.resize(large)
    })
    kept.use((image) => {
      expect([image.size, image.bitmaps.list().map(({ name }) => name)]).toEqual([large, ["one", "two"]])
      image.snapshots.apply("small")
      expect(image.size).toBe(2 ** 40)
    })
  })

  it("QC-BMP-09 an error at any write of closing loses no data, and at most leaves the bitmaps inconsistent", () => {
    const made = withOne()
    made.use((image) => image.pwrite(filled(3 * K, 1), 30 * K))
    for (let fails = 0, done = false; !done; fails++) {
      const file = new FailingWrites(made.file)
      const image = openQcow2(file)
      image.pwrite(filled(1, 9), 100 * K)
      image.bitmaps.add("two")
      image.flush()
      file.failAt = fails
      let isFailed = false
      try {
        image.close()
      } catch (error) {
        if (!(error instanceof BackingError)) throw error
        isFailed = true
      }
      done = !isFailed
      const left = Kept.of(file.toBytes())
      expect(checkQcow2(left.file).corruptions, `write ${fails}`).toBe(0)
      left.use((after) => {
        const byte = new Uint8Array(1)
        after.pread(byte, 100 * K)
        expect(byte[0]).toBe(9)
        const one = after.bitmaps.list().find(({ name }) => name === "one")
        if (one?.isConsistent === true) expect(changedIn(after, "one")).toContainEqual([100 * K, 512])
      })
    }
  })
})

/** Fails the n-th write from when it is told to, once. */
class FailingWrites extends MemoryFile {
  failAt = -1

  constructor(file: MemoryFile) {
    super()
    this.adopt(file)
  }

  override writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    if (this.failAt === 0) {
      this.failAt = -1
      throw new BackingError("no-space", "the disk is full")
    }
    this.failAt--
    super.writeFrom(buffer, start, length, offset)
  }
}
