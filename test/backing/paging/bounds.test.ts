/** What a hostile guest or source cannot make grow: changes that a load keeps, reads ahead, marks of readers; and closing that fails. */
import { expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { BackingError } from "../../../src/backing/backing.ts"
import { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import { PageCache } from "../../../src/backing/paging/page-cache.ts"
import { PageLoader } from "../../../src/backing/paging/page-loader.ts"
import { PagedFile } from "../../../src/backing/paging/paged-file.ts"
import { ReadAhead } from "../../../src/backing/paging/read-ahead.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { MemoryFile } from "../../support/memory-file.ts"

const PAGE = 4096

/** Stores at once; reads are answered when `answer` is called. */
function slowToRead(inner: MemoryFile): { readonly source: AsyncImageFile; readonly answer: () => void } {
  const waiting: (() => void)[] = []
  const source: AsyncImageFile = {
    path: "slow", readOnly: false, preferredRead: PAGE,
    size: async () => inner.size(),
    read: async (buffer, offset) => {
      const count = inner.read(buffer, offset)
      await new Promise<void>((resolve) => waiting.push(resolve))
      return count
    },
    write: async (buffer, offset) => inner.write(buffer, offset),
    truncate: async (size) => inner.truncate(size),
    sync: async () => undefined,
    close: async () => undefined,
  }
  return { source, answer: () => waiting.splice(0).forEach((resolve) => resolve()) }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

it("writes to a page that a slow read loads count against the bound of the log, even once the source has stored them", async () => {
  const { source, answer } = slowToRead(MemoryFile.of(new Uint8Array(16 * PAGE).fill(1)))
  const file = await PagedFile.open(source, { pageSize: PAGE, cacheSize: 4 * PAGE, logSize: 32 << 10 })
  const disk = new AwaitedDisk(new RawBacking(file), [file])
  const first = new Uint8Array(PAGE)
  const reading = disk.pread(first, 0)
  let atOnce = 0
  let waiting: void | Promise<void> = undefined
  for (let value = 2; waiting === undefined && value < 202; value++) {
    waiting = disk.pwrite(new Uint8Array(1024).fill(value), 1024 * (value % 3))
    if (waiting === undefined) atOnce++
    await turn()
  }
  expect(atOnce).toBeGreaterThan(20)
  expect(atOnce).toBeLessThan(40)
  answer()
  await Promise.all([reading, waiting])
  const now = new Uint8Array(PAGE)
  await disk.pread(now, 0)
  expect([...new Set(now)].sort((a, b) => a - b)).toEqual([1, atOnce, atOnce + 1, atOnce + 2])
  expect(disk.pwriteNow([new Uint8Array(1024)], 0)).toBe(true)
  await disk.close()
})

it("reading ahead pauses while many needed reads wait", async () => {
  const { source } = slowToRead(MemoryFile.of(new Uint8Array(PAGE)))
  const loader = new PageLoader({ source, cache: new PageCache({ pageSize: PAGE, capacity: 8 }), log: undefined, size: 2 ** 40 })
  for (let index = 0; index < 8; index++) loader.load(index * 100, index * 100, { stop: index * 100, end: 2 ** 40 }).catch(() => undefined)
  for (let index = 10; index < 1000; index++) {
    loader.loadAhead({ first: index * 100, end: index * 100 + 4, isPassing: false }, 2 ** 40)
  }
  expect(Array.from({ length: 990 }, (_, index) => (index + 10) * 100).filter((index) => loader.isLoading(index))).toHaveLength(16)
  loader.close()
})

it("a reader that skips what was read ahead leaves one mark, not one for each skip", () => {
  const ahead = new ReadAhead(64)
  let next = 0
  for (let skips = 0; skips < 1000; skips++) next = ahead.missed(next, next).end
  expect(Array.from({ length: next + 1 }, (_, index) => index).filter((index) => ahead.isMarker(index))).toHaveLength(1)
})

it("the other files are released although one fails to close", async () => {
  const inner = MemoryFile.of(new Uint8Array(PAGE))
  const failure = new BackingError("io", "it does not close")
  const released: string[] = []
  const late = (name: string, close: () => void) => ({
    hasRoom: true, room: async () => undefined, stable: () => undefined, close, released: async () => void released.push(name),
  })
  const fails = (): void => {
    throw failure
  }
  const disk = new AwaitedDisk(new RawBacking(inner), [late("first", fails), late("second", () => undefined)])
  await expect(disk.close()).rejects.toBe(failure)
  expect(released).toEqual(["second"])
})

it("zeroes over a long range are written piece by piece, with few pages in memory, if the source cannot zero", async () => {
  const MIB = 1 << 20
  const inner = MemoryFile.of(new Uint8Array(8 * MIB).fill(1))
  const source: AsyncImageFile = {
    path: "no holes", readOnly: false,
    size: async () => inner.size(),
    read: async (buffer, offset) => inner.read(buffer, offset),
    write: async (buffer, offset) => inner.write(buffer, offset),
    truncate: async (size) => inner.truncate(size),
    sync: async () => undefined,
    close: async () => undefined,
  }
  const file = await PagedFile.open(source, { pageSize: PAGE, cacheSize: 16 * PAGE })
  let most = 0
  class Watched extends RawBacking {
    override writeZeroes(offset: number, length: number, mayUnmap: boolean): void {
      most = Math.max(most, file.cachedBytes)
      super.writeZeroes(offset, length, mayUnmap)
    }
  }
  const disk = new AwaitedDisk(new Watched(file), [file])
  await disk.writeZeroes?.(PAGE + 512, 7 * MIB, false)
  await disk.flush?.()
  expect(most).toBeLessThan(2 * MIB)
  const expected = new Uint8Array(8 * MIB).fill(1).fill(0, PAGE + 512, PAGE + 512 + 7 * MIB)
  expect(Buffer.compare(inner.toBytes(), expected)).toBe(0)
  await disk.close()
})

it("a hole is punched only once the source's file reaches that far, and no read fails as if the file had been truncated", async () => {
  const inner = MemoryFile.of(new Uint8Array(PAGE))
  const calls: string[] = []
  let store = (): void => undefined
  const source: AsyncImageFile = {
    path: "growing", readOnly: false,
    size: async () => inner.size(),
    read: async (buffer, offset) => inner.read(buffer, offset),
    write: async (buffer, offset) => {
      await new Promise<void>((resolve) => (store = resolve))
      inner.write(buffer, offset)
      calls.push(`write to ${inner.size()}`)
    },
    truncate: async (size) => inner.truncate(size),
    sync: async () => undefined,
    punchHole: async () => (calls.push(`hole in ${inner.size()}`), true),
    close: async () => undefined,
  }
  const file = await PagedFile.open(source, { pageSize: PAGE, cacheSize: PAGE })
  file.write(new Uint8Array(PAGE).fill(1), 8 * PAGE)
  file.punchHole?.(3 * PAGE, PAGE)
  await turn()
  expect(calls).toEqual([])
  store()
  file.sync()
  await file.stable()
  expect(calls).toEqual([`write to ${9 * PAGE}`, `hole in ${9 * PAGE}`])
  file.close()
  await file.released()
})
