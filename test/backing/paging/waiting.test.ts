/** What waits and what does not: flushes, writers without room, loads that are shared, read-ahead, and closing in the middle of it. */
import { describe, expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { BackingError } from "../../../src/backing/backing.ts"
import { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import { PagedFile } from "../../../src/backing/paging/paged-file.ts"
import type { PagedFileOptions } from "../../../src/backing/paging/paged-file-options.ts"
import { untilLoaded } from "../../../src/backing/paging/until-loaded.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { LateFile, type LateFileOptions } from "./late-file.ts"
import { openLate, SMALLEST } from "./open-late.ts"

const seed = seedFromEnvironment(43)
const PAGE = 4096

interface Opened {
  readonly source: LateFile
  readonly inner: MemoryFile
  readonly disk: AwaitedDisk
}

async function open(size: number, options: PagedFileOptions = SMALLEST, late: LateFileOptions = {}): Promise<Opened> {
  const inner = MemoryFile.of(new Rng(seed).bytes(size))
  const source = new LateFile(inner, new Rng(seed), late)
  return { source, inner, disk: await openLate(source, (file) => new RawBacking(file), options) }
}

/** What a promise has come to by now. */
async function stateOf(promise: void | Promise<void>): Promise<"pending" | "done" | BackingError> {
  const later = new Promise<"pending">((resolve) => setImmediate(() => resolve("pending")))
  return await Promise.race([Promise.resolve(promise).then(() => "done" as const, (error: BackingError) => error), later])
}

describe(`files that answer late, seed ${seed}`, () => {
  it("BLK-15 a flush is answered once the source has synced every write before it, and not earlier", async () => {
    const { source, disk, inner } = await open(64 << 10)
    expect(disk.flush?.()).toBeUndefined()
    source.isStalled = true
    expect(disk.pwrite(new Uint8Array(PAGE).fill(7), 0)).toBeUndefined()
    const flushed = disk.flush?.()
    expect(await stateOf(flushed)).toBe("pending")
    expect(inner.changes).toBe(0)
    source.resume()
    await flushed
    expect([source.counts.write, source.counts.sync]).toEqual([1, 1])
    expect(inner.toBytes()[PAGE - 1]).toBe(7)
    expect(disk.flush?.()).toBeUndefined()
    await disk.close()
  })

  it("a read fails as soon as a part of it fails, whatever becomes of the other parts", async () => {
    const reads = new Map<number, { resolve: (count: number) => void; reject: (error: Error) => void }>()
    const source: AsyncImageFile = {
      path: "parts", readOnly: true, size: async () => 3 * PAGE, close: async () => undefined,
      read: (_, offset) => new Promise((resolve, reject) => reads.set(offset / PAGE, { resolve, reject })),
    }
    const disk = await openLate(source, (file) => new RawBacking(file), { pageSize: PAGE, cacheSize: 3 * PAGE })
    const middle = disk.pread(new Uint8Array(1), PAGE)
    reads.get(1)?.resolve(PAGE)
    await middle
    const read = disk.pread(new Uint8Array(3 * PAGE), 0)
    expect([...reads.keys()].sort()).toEqual([0, 1, 2])
    reads.get(2)?.reject(new BackingError("io", "lost"))
    expect(await stateOf(read)).toMatchObject({ code: "io", message: expect.stringContaining("lost") })
    reads.get(0)?.resolve(PAGE)
    await disk.close()
  })

  it("a hit is answered at once, also of bytes just written; a miss returns a promise", async () => {
    const { disk } = await open(64 << 10, { pageSize: PAGE })
    const buffer = new Uint8Array(PAGE)
    expect(disk.preadNow([buffer], 0)).toBe(false)
    await disk.pread(buffer, 0)
    expect(disk.preadNow([buffer], 0)).toBe(true)
    expect(disk.pread(buffer, 0)).toBeUndefined()
    expect(disk.pwriteNow([new Uint8Array(PAGE).fill(9)], 8 * PAGE)).toBe(true)
    expect(disk.preadNow([buffer.subarray(0, 10), buffer.subarray(10)], 8 * PAGE)).toBe(true)
    expect(buffer.every((byte) => byte === 9)).toBe(true)
    await disk.close()
  })

  it("while the source stalls, writers wait in order once the log is full, and memory is bounded", async () => {
    const { source, disk } = await open(1 << 20)
    source.isStalled = true
    const written: number[] = []
    const writes = Array.from({ length: 60 }, (_, index) => {
      const done = disk.pwrite(new Uint8Array(PAGE).fill(index + 1), index * PAGE)
      return { isNow: done === undefined, promise: Promise.resolve(done).then(() => void written.push(index)) }
    })
    const now = writes.filter(({ isNow }) => isNow).length
    // 32 KiB of log, and no more than one write beyond it.
    expect(now).toBeGreaterThanOrEqual(7)
    expect(now).toBeLessThanOrEqual(9)
    expect(disk.pwriteNow([new Uint8Array(512)], 0)).toBe(false)
    source.resume()
    await Promise.all(writes.map(({ promise }) => promise))
    expect(written).toEqual(Array.from({ length: 60 }, (_, index) => index))
    await disk.close()
  })

  it("neighbouring pages come with one read, and a page that is being read is not read twice", async () => {
    const { source, disk } = await open(256 << 10, { pageSize: PAGE }, { preferredRead: PAGE })
    const buffers = Array.from({ length: 5 }, () => new Uint8Array(10 * PAGE))
    await Promise.all(buffers.map((buffer) => disk.pread(buffer, 20 * PAGE + 100)))
    expect(source.reads).toEqual([{ offset: 20 * PAGE, length: 11 * PAGE }])
    await disk.pread(new Uint8Array(13 * PAGE), 19 * PAGE)
    expect(source.reads.slice(1)).toEqual([{ offset: 19 * PAGE, length: PAGE }, { offset: 31 * PAGE, length: PAGE }])
    await disk.close()
  })

  it("reads in order read ahead, more each time and no byte twice; random reads fetch only what they need", async () => {
    const size = 4 << 20
    for (const preferredRead of [PAGE, 64 << 10]) {
      const { source, disk } = await open(size, { pageSize: PAGE, cacheSize: 8 << 20 }, { preferredRead })
      for (let offset = 0; offset < size; offset += PAGE) await disk.pread(new Uint8Array(PAGE), offset)
      expect(source.reads.length).toBeLessThan(40)
      expect(source.reads.reduce((sum, { length }) => sum + length, 0)).toBe(size)
      await disk.close()
    }
    const other = await open(size, { pageSize: PAGE, cacheSize: 8 << 20 }, { preferredRead: PAGE })
    for (let index = 0; index < 100; index++) await other.disk.pread(new Uint8Array(100), ((index * 37) % 101) * 10 * PAGE)
    expect(other.source.reads.every(({ length }) => length === PAGE)).toBe(true)
    await other.disk.close()
  })

  it("a source that prefers long reads gets them", async () => {
    const { source, disk } = await open(4 << 20, { pageSize: PAGE, cacheSize: 8 << 20 }, { preferredRead: 64 << 10 })
    await disk.pread(new Uint8Array(10), 50 * PAGE)
    expect(source.reads).toEqual([{ offset: 50 * PAGE, length: 64 << 10 }])
    await disk.close()
  })

  it("neighbouring writes are sent as one, and several such at a time", async () => {
    const { source, disk } = await open(4 << 20, { pageSize: PAGE })
    source.isStalled = true
    for (let offset = 0; offset < 3 << 20; offset += PAGE) expect(disk.pwrite(new Uint8Array(PAGE).fill(3), offset)).toBeUndefined()
    await Promise.resolve()
    expect(source.calls - source.counts.size).toBe(3)
    source.resume()
    await disk.close()
    expect(source.counts.write).toBe(3)
  })

  it("a read does not fail because a page fails that was only to be read along with it", async () => {
    const inner = new LateFile(MemoryFile.of(new Rng(seed).bytes(64 << 10)), new Rng(seed), { preferredRead: 16 * PAGE })
    const source = Object.assign(inner, {
      read: async (buffer: Uint8Array, offset: number) => {
        if (offset >= 4 * PAGE) throw new Error("a bad spot")
        return buffer.fill(5).length
      },
    })
    const file = await PagedFile.open(source, { pageSize: PAGE })
    const disk = new AwaitedDisk(new RawBacking(file), [file])
    // On its way already when the second read is asked for, which would like it as well.
    const bad = disk.pread(new Uint8Array(PAGE), 5 * PAGE)
    const good = disk.pread(new Uint8Array(PAGE), 2 * PAGE)
    await expect(bad).rejects.toMatchObject({ code: "io" })
    await expect(good).resolves.toBeUndefined()
    await disk.close()
  })

  it.each([0, -5, 1.5, Number.NaN])("a source that prefers to be read %s bytes at a time is refused", async (preferredRead) => {
    await expect(PagedFile.open(new LateFile(new MemoryFile(), new Rng(1), { preferredRead }))).rejects.toThrow(TypeError)
  })

  it("at most eight reads are under way at a time", async () => {
    const { source, disk } = await open(1 << 20)
    source.isStalled = true
    const reads = Array.from({ length: 100 }, (_, index) => disk.pread(new Uint8Array(10), index * 2 * PAGE))
    expect(await stateOf(reads[0])).toBe("pending")
    expect(source.reads.length).toBe(8)
    source.resume()
    await Promise.all(reads)
    expect(source.reads.length).toBe(100)
    await disk.close()
  })

  it("a read behind the new end of a truncated file fails and gives no zeroes", async () => {
    const { inner, disk } = await open(64 << 10)
    inner.truncate(20_000)
    const error = await Promise.resolve(disk.pread(new Uint8Array(PAGE), 20_000)).catch((reason: unknown) => reason)
    expect(error).toMatchObject({ code: "io", message: expect.stringContaining("ends at byte 20000, but had 65536 bytes") })
    await disk.close()
  })

  it.each([
    -1, 1.5, Number.NaN, 5000, "4096" as unknown as number,
  ])("a source that claims to have read %s bytes of 4096 fails the read", async (count) => {
    const source = Object.assign(new LateFile(MemoryFile.of(new Uint8Array(8192)), new Rng(1)), { read: async () => count })
    const file = await PagedFile.open(source, SMALLEST)
    const disk = new AwaitedDisk(new RawBacking(file), [file])
    await expect(disk.pread(new Uint8Array(512), 0)).rejects.toMatchObject({ code: "io" })
    await disk.close()
  })
})

it("`allocation` and `map` answer later where metadata has to be read first", async () => {
  const file = new MemoryFile()
  createQcow2(file, { size: 32 << 20, clusterSize: 4096 })
  const plain = openInMemory(file)
  plain.pwrite(new Uint8Array(4096).fill(1), 8192)
  plain.pwrite(new Uint8Array(4096).fill(1), 24 << 20)
  plain.close()
  const stored = file.clone()
  const image = openInMemory(stored.clone())
  const disk = await openLate(new LateFile(stored, new Rng(seed)), (over) => openInMemory(over))
  expect(disk.allocation?.(24 << 20, 1 << 20)).toBeInstanceOf(Promise)
  for (const offset of [0, 8192, 24 << 20]) expect(await disk.allocation?.(offset, 8192)).toEqual(image.allocation(offset, 8192))
  expect(disk.allocation?.(24 << 20, 4096)).toEqual({ length: 4096, isAllocated: true, isZero: false })
  expect(await disk.map?.(0, disk.size)).toEqual([...image.map(0, image.size)])
  await disk.close()
  expect(() => disk.allocation?.(0, 1)).toThrow(BackingError)
})

describe("zeroes and holes", () => {
  it("a hole that the source declines is written as zeroes, and is the only one requested; until then a second one waits", async () => {
    const size = 64 << 20
    const inner = MemoryFile.of(new Rng(seed).bytes(1 << 20))
    inner.truncate(size)
    const source = new LateFile(inner, new Rng(seed), { canPunch: false })
    const disk = await openLate(source, (file) => new RawBacking(file), { ...SMALLEST, logSize: 1 << 20 })
    const { unmapsAtOnce } = disk
    expect(unmapsAtOnce).toBeLessThanOrEqual(16 << 20)
    expect(disk.canUnmap).toBe(true)
    const first = disk.discard?.(0, 1 << 20)
    // Until the first has been answered the second waits: each may have to be written.
    const second = disk.discard?.(4 << 20, 16 << 20)
    expect([first, await stateOf(second)]).toEqual([undefined, "pending"])
    await second
    await disk.flush?.()
    expect(disk.canUnmap).toBe(false)
    expect(source.counts).toMatchObject({ punch: 1, write: 4 })
    expect(inner.toBytes().subarray(0, 1 << 20).every((byte) => byte === 0)).toBe(true)
    await disk.close()
  })

  it("a hole that the source punches takes one call, however large it is", async () => {
    const { source, disk, inner } = await open(8 << 20)
    await disk.discard?.(0, 2 << 20)
    await disk.flush?.()
    expect(disk.unmapsAtOnce).toBeGreaterThan(2 ** 40)
    await disk.writeZeroes?.(2 << 20, 6 << 20, true)
    await disk.flush?.()
    expect(source.counts).toMatchObject({ punch: 2, write: 0 })
    expect(inner.toBytes().every((byte) => byte === 0)).toBe(true)
    await disk.close()
  })

  it("zeroes over a long cached range drop most of its pages, and the range reads as zeroes", async () => {
    const size = 24 << 20
    const inner = MemoryFile.of(new Rng(seed).bytes(size))
    const file = await PagedFile.open(new LateFile(inner, new Rng(seed)), { pageSize: PAGE, cacheSize: size })
    await untilLoaded(() => file.read(new Uint8Array(size), 0))
    expect(file.cachedBytes).toBeGreaterThanOrEqual(size)
    expect(file.punchHole?.(100, size - 200)).toBe(true)
    // Buffers for 4 MiB are kept for the pages that come next.
    expect(file.cachedBytes).toBeLessThan(21 << 20)
    const content = new Uint8Array(size)
    await untilLoaded(() => file.read(content, 0))
    expect([content[99], content[size - 100]]).toEqual([inner.toBytes()[99], inner.toBytes()[size - 100]])
    expect(content.subarray(100, size - 100).every((byte) => byte === 0)).toBe(true)
    file.close()
    await file.released()
  })

  it("a writable source without write, truncate or sync is refused, and accepted with readOnly", async () => {
    for (const name of ["write", "truncate", "sync"]) {
      const source = Object.assign(new LateFile(MemoryFile.of(new Uint8Array(8192)), new Rng(1)), { [name]: undefined })
      await expect(PagedFile.open(source)).rejects.toThrow(new RegExp(`memory.img: .* no ${name}`))
      await expect(PagedFile.open(source, { readOnly: true })).resolves.toBeDefined()
    }
  })
})

describe("when the disk is closed", () => {
  it("waiting requests fail with closed at once, although the source never answers them", async () => {
    const { source, disk } = await open(1 << 20, SMALLEST, { readOnly: true })
    source.isStalled = true
    const reads = Array.from({ length: 30 }, (_, index) => Promise.resolve(disk.pread(new Uint8Array(PAGE), index * PAGE)))
    const closed = disk.close()
    for (const read of reads) await expect(read).rejects.toMatchObject({ code: "closed" })
    await closed
    expect(source.isClosed).toBe(true)
    expect(() => disk.pread(new Uint8Array(1), 0)).toThrow(BackingError)
    expect(disk.close()).toBe(closed)
    source.resume()
  })

  it("accepted writes still reach the source, and writers that wait for room fail with closed", async () => {
    const { source, inner, disk } = await open(1 << 20)
    source.isStalled = true
    const writes = Array.from({ length: 60 }, (_, index) => disk.pwrite(new Uint8Array(PAGE).fill(7), index * PAGE))
    const accepted = writes.filter((write) => write === undefined).length
    const outcomes = Promise.allSettled(writes.slice(accepted))
    const closed = disk.close()
    expect((await outcomes).every((outcome) => outcome.status === "rejected" && outcome.reason.code === "closed")).toBe(true)
    source.resume()
    await closed
    expect(inner.clone().toBytes().subarray(0, accepted * PAGE).every((byte) => byte === 7)).toBe(true)
  })

  it("the source gets no more reads, not even for pages that were to come along", async () => {
    const source = new LateFile(MemoryFile.of(new Rng(seed).bytes(64 << 10)), new Rng(seed), { preferredRead: 4 * PAGE })
    const file = await PagedFile.open(source, { pageSize: PAGE })
    source.isStalled = true
    const read = untilLoaded(() => file.read(new Uint8Array(PAGE), 0))
    const failure = read.then(() => "none", (error: BackingError) => error.code)
    file.close()
    source.resume()
    expect(await failure).toBe("closed")
    expect(source.counts.read).toBe(1)
  })
})
