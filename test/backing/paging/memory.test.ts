/** How much memory a huge file that answers later takes up: the cache's bound, and what is on its way. Counted in bytes, not measured. */
import { expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import { PagedFile } from "../../../src/backing/paging/paged-file.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { MemoryFile } from "../../../src/backing/memory-file.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(19)
const TIB = 2 ** 40

/** Each 8 bytes are their own place; counts the bytes of the buffers that it has been lent. */
class HugeSource implements AsyncImageFile {
  readonly path = "huge"
  readonly readOnly = false
  lent = 0
  written = 0

  async size(): Promise<number> {
    return TIB
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    this.lent += buffer.buffer.byteLength
    await new Promise((resolve) => setImmediate(resolve))
    const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.length)
    for (let at = 0; at + 8 <= buffer.length; at += 4096) view.setFloat64(at, offset + at)
    this.lent -= buffer.buffer.byteLength
    return buffer.length
  }

  async write(buffer: Uint8Array): Promise<void> {
    this.lent += buffer.length
    await new Promise((resolve) => setImmediate(resolve))
    this.written += buffer.length
    this.lent -= buffer.length
  }

  async truncate(): Promise<void> {}
  async sync(): Promise<void> {}
  async close(): Promise<void> {}
}

it(`random requests over 1 TiB, sixty-four at a time, take at most the cache's bound and 64 MiB, seed ${seed}`, async () => {
  const cacheSize = 8 << 20
  const source = new HugeSource()
  const file = await PagedFile.open(source, { cacheSize })
  const disk = new AwaitedDisk(new RawBacking(file), [file])
  const rng = new Rng(seed)
  let most = 0
  const one = async (): Promise<void> => {
    const length = rng.pick([4096, 4096, 65_536, 1 << 20])
    const offset = rng.below((TIB - length) / 4096) * 4096
    const buffer = new Uint8Array(length)
    if (rng.chance(0.3)) await disk.pwrite(buffer, offset)
    else {
      await disk.pread(buffer, offset)
      expect(new DataView(buffer.buffer).getFloat64(0)).toBe(offset)
    }
    most = Math.max(most, file.cachedBytes + source.lent)
  }
  await Promise.all(Array.from({ length: 64 }, async () => {
    for (let index = 0; index < 20; index++) await one()
  }))
  expect(source.written).toBeGreaterThan(1 << 20)
  expect(most).toBeGreaterThan(cacheSize)
  expect(most).toBeLessThan(cacheSize + (64 << 20))
  // What operations needed goes when they are through.
  expect(file.cachedBytes).toBeLessThanOrEqual(cacheSize + (4 << 20))
  await disk.close()
})

it(`small writes into clusters of 2 MiB, each filled from a late backing image, keep the same bound, seed ${seed}`, async () => {
  const cacheSize = 4 << 20
  const source = new HugeSource()
  const base = await PagedFile.open(source, { cacheSize, readOnly: true })
  const overlay = new MemoryFile()
  createQcow2(overlay, { size: TIB, clusterSize: 2 << 20, backing: "base", backingFormat: "raw" })
  const image = openQcow2(overlay, { openBacking: () => new RawBacking(base) })
  const disk = new AwaitedDisk(image, [base])
  const rng = new Rng(seed)
  let most = 0
  await Promise.all(Array.from({ length: 64 }, async (_, index) => {
    const offset = (index * 1000 + rng.below(1000)) * (2 << 20) + 4096
    await disk.pwrite(new Uint8Array(512).fill(7), offset)
    most = Math.max(most, base.cachedBytes + source.lent)
    const around = new Uint8Array(8192)
    await disk.pread(around, offset - 4096)
    expect([new DataView(around.buffer).getFloat64(0), around[4096], around[4607]]).toEqual([offset - 4096, 7, 7])
  }))
  expect(most).toBeLessThan(cacheSize + (64 << 20))
  await disk.close()
})
