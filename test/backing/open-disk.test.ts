/** openDisk: any mixture of sources, what it refuses, and what it closes. */
import { describe, expect, it } from "vitest"
import { BackingError, createQcow2, type DiskSource, MemoryBacking, MemoryFile, openDisk, type OpenDiskOptions } from "../../src/index.ts"
import type { AsyncImageFile } from "../../src/backing/async-image-file.ts"
import { goldenBytes } from "../support/golden.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { LateFile } from "./paging/late-file.ts"

const seed = seedFromEnvironment(31)
const SIZE = 256 << 10

function overlay(options: { readonly backing?: string; readonly format?: "raw" | "qcow2" } = {}): MemoryFile {
  const file = new MemoryFile({ path: "overlay.qcow2" })
  const { backing, format = "raw" } = options
  createQcow2(file, { size: SIZE, clusterSize: 4096, ...(backing === undefined ? {} : { backing, backingFormat: format }) })
  return file
}

function late(file: MemoryFile, readOnly = false): LateFile {
  return new LateFile(file, new Rng(seed), { readOnly })
}

async function contentOf(source: DiskSource, options: OpenDiskOptions = {}): Promise<Uint8Array> {
  const disk = await openDisk(source, options)
  const content = new Uint8Array(disk.size)
  await disk.pread(content, 0)
  await disk.close()
  return content
}

async function failure(work: () => Promise<unknown>): Promise<BackingError> {
  const error = await work().then(() => undefined, (reason: unknown) => reason)
  if (!(error instanceof BackingError)) throw error ?? new Error("it succeeded")
  expect(error.message).not.toContain("\n")
  return error
}

describe("openDisk with an aborted signal", () => {
  const signal = AbortSignal.abort(new Error("enough"))

  it.each<[string, DiskSource, OpenDiskOptions]>([
    ["of a raw image, of which nothing is read", new MemoryFile({ path: "disk.raw" }), { format: "raw" }],
    ["of a disk as it is", new MemoryBacking({ size: SIZE }), {}],
    ["of a qcow2 image", overlay(), {}],
  ])("opens nothing %s", async (_, source, options) => {
    await expect(openDisk(source, { ...options, signal })).rejects.toThrow("enough")
  })
})

describe(`openDisk, seed ${seed}`, () => {
  const base = new Rng(seed).bytes(SIZE)

  it("returns a disk with a map for qcow2, sources at once or later, and one without for raw", async () => {
    for (const source of [overlay(), late(overlay())]) {
      const disk = await openDisk(source)
      await disk.pwrite(new Uint8Array(4096).fill(1), 8192)
      const extents = [...(await disk.map?.(0, disk.size)) ?? []]
      expect(extents.filter(({ kind }) => kind === "data").map(({ offset, length }) => [offset, length])).toEqual([[8192, 4096]])
      await disk.close()
    }
    expect((await openDisk(MemoryFile.from(base), { format: "raw" })).map).toBeUndefined()
  })

  it("is synchronous where its sources are, and asynchronous where one is not", async () => {
    const sync = await openDisk(overlay({ backing: "base" }), { backing: () => MemoryFile.from(base) })
    expect(sync.asynchronous).not.toBe(true)
    expect(sync.pread(new Uint8Array(512), 0)).toBeUndefined()
    const mixed = await openDisk(overlay({ backing: "base" }), { backing: () => late(MemoryFile.from(base), true) })
    expect(mixed.asynchronous).toBe(true)
    const content = new Uint8Array(SIZE)
    await mixed.pread(content, 0)
    expect(Buffer.compare(content, base)).toBe(0)
    await mixed.close()
    sync.close()
  })

  const layers: Record<string, () => DiskSource | Promise<DiskSource>> = {
    "a file in memory": () => MemoryFile.from(base),
    "a late file": () => late(MemoryFile.from(base), true),
    "a promise of a late file": async () => late(MemoryFile.from(base), true),
    "a disk": () => MemoryBacking.from(base),
    "a disk that answers later": () => openDisk(late(MemoryFile.from(base)), { format: "raw" }),
  }
  for (const [name, backing] of Object.entries(layers)) {
    for (const isLate of [false, true]) {
      it(`QC-BF-01 overlay ${isLate ? "in a late file" : "in memory"} over ${name}: reads, writes, flushes and opens again`, async () => {
        const file = overlay({ backing: "base" })
        const disk = await openDisk(isLate ? late(file) : file, { backing, pageCacheSize: 1 })
        const model = base.slice()
        const data = new Rng(seed + 1).bytes(70_000)
        await disk.pwrite(data, 33_333)
        model.set(data, 33_333)
        await disk.flush?.()
        await disk.close()
        expect(Buffer.compare(await contentOf(MemoryFile.from(file.bytes(), { path: "again" }), { backing }), model)).toBe(0)
      })
    }
  }

  it("detects the format of a file that answers later, and a raw disk of a guessed format refuses the first bytes of another", async () => {
    const disk = await openDisk(late(MemoryFile.from(base.slice())))
    const error = await failure(async () => await disk.pwrite(Uint8Array.from("QFI\xfb", (char) => char.charCodeAt(0)), 0))
    expect(error.code).toBe("permission")
    await disk.close()
    expect((await contentOf(late(overlay()))).every((byte) => byte === 0)).toBe(true)
  })

  it("QC-FEAT-04 repairs a dirty image while its bytes come in, with the smallest cache", async () => {
    const file = MemoryFile.from(goldenBytes("dirty.qcow2").slice())
    const content = await contentOf(late(file), { pageCacheSize: 1 })
    expect(Buffer.compare(content, await contentOf(MemoryFile.from(file.bytes())))).toBe(0)
  })

  it("takes the disk that a file offers by itself if the format is stated raw, and only then", async () => {
    const disk = MemoryBacking.from(base)
    const asked: boolean[] = []
    const file: AsyncImageFile = Object.assign(late(MemoryFile.from(base)), {
      disk: async ({ readOnly }: { readonly readOnly: boolean }) => (asked.push(readOnly), disk),
    })
    expect(await openDisk(file, { format: "raw", readOnly: true })).toBe(disk)
    expect(await openDisk(file)).not.toBe(disk)
    expect(asked).toEqual([true])
  })

  it("returns a source that is a disk as it is", async () => {
    const disk = MemoryBacking.from(base)
    expect(await openDisk(disk)).toBe(disk)
    expect((await failure(() => openDisk(disk, { format: "qcow2" }))).code).toBe("invalid-argument")
    expect((await failure(() => openDisk(disk, { readOnly: true }))).code).toBe("invalid-argument")
  })

  it("with readOnly refuses writes, whatever the source allows", async () => {
    for (const source of [MemoryFile.from(base.slice()), late(MemoryFile.from(base.slice())), overlay(), late(overlay())]) {
      const disk = await openDisk(source, { readOnly: true })
      expect(disk.readOnly).toBe(true)
      expect((await failure(async () => await disk.pwrite(new Uint8Array(512), 0))).code).toBe("read-only")
      await disk.close()
    }
  })
})

describe("openDisk refuses", () => {
  const chained = (): MemoryFile => overlay({ backing: "next", format: "qcow2" })

  it("QC-BF-08 an image in its own chain and an endless chain, and closes what `backing` returned", async () => {
    const itself = chained()
    expect((await failure(() => openDisk(itself, { backing: () => itself }))).message).toContain("in its own chain of backing images")
    const given: LateFile[] = []
    const backing = (): LateFile => {
      const file = late(chained())
      given.push(file)
      return file
    }
    const first = late(chained())
    expect((await failure(() => openDisk(first, { backing }))).message).toContain("longer than 64 images")
    expect(given.length).toBe(63)
    expect(given.every(({ isClosed }) => isClosed)).toBe(true)
    expect(first.isClosed).toBe(false)
  })

  it("a chain for its first reason when images also fail to close, and closes the others", async () => {
    const given = [late(chained()), late(chained()), late(MemoryFile.from(new Uint8Array(100)))]
    const [first] = given
    if (first !== undefined) {
      const close = first.close.bind(first)
      first.close = async () => {
        await close()
        throw new TypeError("no second image closes after this one")
      }
    }
    let next = 0
    const error = await failure(() => openDisk(chained(), { backing: () => given[next++] ?? new MemoryFile() }))
    expect(error.message).toContain("cannot open its backing image")
    expect(given.map(({ isClosed }) => isClosed)).toEqual([true, true, true])
  })

  it("a backing image with the names of both images", async () => {
    const backing = (): MemoryFile => MemoryFile.from(new Uint8Array(100).fill(1), { path: "next.qcow2" })
    const error = await failure(() => openDisk(chained(), { backing }))
    expect(error.code).toBe("invalid-format")
    expect(error.message).toMatch(/^overlay\.qcow2: cannot open its backing image: next\.qcow2: /)
    const links = [chained(), chained(), chained(), backing()]
    const deep = await failure(() => openDisk(chained(), { backing: () => links.shift() ?? backing() }))
    const innermost = "overlay\\.qcow2: cannot open its backing image: next\\.qcow2: (?!.*cannot open)"
    expect(deep.message).toMatch(new RegExp(`^overlay\\.qcow2: cannot open its chain of backing images: ${innermost}`))
    const none = await failure(() => openDisk(chained()))
    expect(none.message).toContain('needs its backing file "next", which was not supplied')
  })

  it("a source that fails with a plain error by an io error with that cause", async () => {
    const cause = new TypeError("fetch failed")
    for (let at = 1; ; at++) {
      const source = late(overlay())
      source.failing = (_, number) => (number === at ? cause : undefined)
      const error = await openDisk(source).then(() => undefined, (reason: unknown) => reason)
      if (error === undefined) {
        expect(at).toBeGreaterThan(2)
        break
      }
      expect(error).toMatchObject({ name: "BackingError", code: "io", cause })
    }
  })

  it("readOnly: false for a read-only source at once", async () => {
    const bytes = new Uint8Array(4096)
    const sources = [
      MemoryFile.from(bytes, { readOnly: true }),
      late(MemoryFile.from(bytes), true),
      MemoryBacking.from(bytes, { readOnly: true }),
    ]
    for (const source of sources) {
      expect((await failure(() => openDisk(source, { readOnly: false }))).code).toBe("read-only")
      expect((await openDisk(source)).readOnly).toBe(true)
    }
  })

  it("QC-BF-07 to guess the format of a backing image, unless it is allowed", async () => {
    const file = overlay({ backing: "base" })
    const bytes = file.bytes()
    // The header extension that states the format: its type becomes an unknown one.
    const at = Buffer.from(bytes).indexOf(Buffer.from([0xe2, 0x79, 0x2a, 0xca]))
    bytes.set([0x12, 0x34, 0x56, 0x78], at)
    const open = (probeBackingFormat: boolean): Promise<Uint8Array> =>
      contentOf(late(MemoryFile.from(bytes.slice())), {
        backing: () => late(MemoryFile.from(new Uint8Array(512).fill(3)), true), probeBackingFormat,
      })
    expect((await failure(() => open(false))).message).toContain("guessing is not safe")
    expect((await open(true)).subarray(0, 513)).toEqual(Uint8Array.from({ length: 513 }, (_, index) => (index < 512 ? 3 : 0)))
  })

  it("a Blob and a URL, with the name of what makes a source of them", async () => {
    const [blob, url]: readonly unknown[] = [new Blob(["disk"]), new URL("https://example.org/disk.img")]
    await expect(openDisk(blob as DiskSource)).rejects.toThrow("openDisk: source is an object of class Blob; blobFile makes a source of it")
    await expect(openDisk(url as DiskSource)).rejects.toThrow("openDisk: source is an object of class URL; httpFile makes a source of it")
  })

  it("wrong arguments", async () => {
    const open = openDisk as (source: unknown, options?: unknown) => Promise<unknown>
    await expect(open("disk.qcow2")).rejects.toThrow("openDisk: source must be an AsyncImageFile, an ImageFile or a VirtioBacking")
    await expect(open({ path: "x", readOnly: true })).rejects.toThrow("openDisk: source has no size")
    await expect(open(overlay(), { formta: "raw" })).rejects.toThrow('did you mean "format"?')
    await expect(open(overlay(), { pageCacheSize: -1 })).rejects.toThrow(RangeError)
    await expect(open(chained(), { backing: () => 7 })).rejects.toThrow("what the option backing returned must be")
  })
})
