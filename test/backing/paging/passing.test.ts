/** Whoever reads much in order: the pages that were passed make room, and those of others stay. */
import { expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import { PageCache } from "../../../src/backing/paging/page-cache.ts"
import { PagedFile } from "../../../src/backing/paging/paged-file.ts"
import { RawBacking } from "../../../src/backing/raw.ts"

const MIB = 1 << 20
const PAGE = 1 << 14
const CACHE = 32 * MIB
const SMALL_CACHE = 8 * MIB

/** Each page holds its number; counts what is read. */
async function open(cacheSize: number): Promise<{ readonly disk: AwaitedDisk; readonly reads: string[]; readonly file: PagedFile }> {
  const reads: string[] = []
  const source: AsyncImageFile = {
    path: "pages", readOnly: true, preferredRead: PAGE, size: async () => 1024 * MIB, close: async () => undefined,
    read: async (buffer, offset) => {
      reads.push(`${offset}+${buffer.length}`)
      for (let at = 0; at < buffer.length; at += PAGE) new DataView(buffer.buffer, buffer.byteOffset + at).setFloat64(0, offset + at)
      return buffer.length
    },
  }
  const file = await PagedFile.open(source, { cacheSize })
  return { disk: new AwaitedDisk(new RawBacking(file), [file]), reads, file }
}

async function readAt(disk: AwaitedDisk, offset: number, length: number): Promise<void> {
  const buffer = new Uint8Array(length)
  await disk.pread(buffer, offset)
  for (let at = 0; at < length; at += PAGE) {
    if ((offset + at) % PAGE === 0) expect(new DataView(buffer.buffer).getFloat64(at)).toBe(offset + at)
  }
}

async function readInOrder(disk: AwaitedDisk, { from, to, step = MIB }: { from: number; to: number; step?: number }): Promise<void> {
  for (let at = from; at < to; at += step) await readAt(disk, at, step)
}

/** Places of others: 1 MiB of pages, far from each other and behind where anybody reads in order. */
const OTHERS = Array.from({ length: 64 }, (_, index) => 512 * MIB + index * MIB)

it.each([4096, 65_536, MIB, 3 * MIB])("a read of 48 MiB in order, %i bytes at a time, evicts no page of other readers", async (step) => {
  const { disk, reads, file } = await open(SMALL_CACHE)
  for (const at of OTHERS) await readAt(disk, at, 4096)
  await readInOrder(disk, { from: 0, to: 48 * MIB, step })
  const before = reads.length
  for (const at of OTHERS) await readAt(disk, at, 4096)
  expect(reads.length - before).toBe(0)
  expect(file.cachedBytes).toBeLessThanOrEqual(SMALL_CACHE + 4 * MIB)
  await disk.close()
})

it("a reader that goes back finds the last 2 MiB in memory", async () => {
  const { disk, reads } = await open(CACHE)
  await readInOrder(disk, { from: 0, to: 20 * MIB })
  for (let at = 20 * MIB; at < 60 * MIB; at += MIB) {
    await readAt(disk, at, MIB)
    const before = reads.length
    await readInOrder(disk, { from: at - MIB, to: at + MIB })
    expect(reads.length - before).toBe(0)
  }
  await disk.close()
})

it("a reader that starts a long file again finds its beginning in memory", async () => {
  const { disk, reads } = await open(CACHE)
  await readInOrder(disk, { from: 0, to: 100 * MIB })
  const before = reads.length
  await readInOrder(disk, { from: 0, to: 16 * MIB })
  expect(reads.length - before).toBe(0)
  await disk.close()
})

it("for two readers in order at a time no byte is read twice", async () => {
  const { disk, reads } = await open(CACHE)
  for (let at = 0; at < 60 * MIB; at += MIB) {
    await Promise.all([readAt(disk, at, MIB), readAt(disk, 256 * MIB + at, MIB)])
  }
  const counted = reads.reduce((sum, text) => sum + Number(text.split("+")[1]), 0)
  expect(counted).toBeLessThanOrEqual(120 * MIB + 4 * 4 * MIB)
  await disk.close()
})

it("a passed page that is in use or was used again is not evicted, and the next one is", () => {
  const cache = new PageCache({ pageSize: 16, capacity: 8 })
  const [needed, again, gone, other, ...rest] = Array.from({ length: 8 }, (_, index) => cache.add(index, new Uint8Array(16)))
  if (needed === undefined || again === undefined || gone === undefined || other === undefined) throw new Error("there are eight pages")
  // The last of them stays among the recent ones.
  for (const page of [other, needed, again, gone, ...rest.slice(0, 1)]) cache.passed(page)
  cache.pin(0, 0)
  again.passing = undefined
  cache.remove(gone)
  cache.add(100, new Uint8Array(16))
  expect([0, 1, 3, 100].map((index) => cache.has(index))).toEqual([true, true, true, true])
  cache.add(101, new Uint8Array(16))
  expect([0, 1, 3, 100, 101].map((index) => cache.has(index))).toEqual([true, true, false, true, true])
})
