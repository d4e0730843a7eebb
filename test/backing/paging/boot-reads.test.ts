/**
 * What a booting guest costs: the reads of one (boot-reads.txt, see test/linux/http/record.ts) over a source that counts what it is asked
 * for.
 */
import { readFileSync } from "node:fs"
import { expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../../src/backing/sources/http/http-file.ts"

const MIB = 1 << 20
const SECTOR = 512
const [first = "", ...lines] = readFileSync(new URL("boot-reads.txt", import.meta.url), "utf8").trim().split("\n")
const SIZE = Number(first.split(" ").at(-1))
const READS = lines.map((line) => {
  const [offset = NaN, length = NaN] = line.split(" ").map(Number)
  return { offset, length }
})

/** A file of zeroes, as long as the one that the guest booted from. Answers in another turn of the event loop. */
class CountingFile implements AsyncImageFile {
  readonly path = "boot.raw"
  readonly readOnly = true
  readonly preferredRead = 65_536
  requests = 0
  bytes = 0

  async size(): Promise<number> {
    return SIZE
  }

  async read(buffer: Uint8Array): Promise<number> {
    this.requests++
    this.bytes += buffer.length
    await new Promise((resolve) => setImmediate(resolve))
    return buffer.length
  }

  async close(): Promise<void> {}
}

/** Bytes that the guest has read, each counted once. */
function distinctBytes(): number {
  const isRead = new Uint8Array(SIZE / SECTOR)
  for (const { offset, length } of READS) isRead.fill(1, offset / SECTOR, (offset + length) / SECTOR)
  return isRead.reduce((sum, one) => sum + one, 0) * SECTOR
}

it.each([1, 4])("a boot fetches at most twice the bytes that it reads and 1 MiB, %i reads at a time", async (atOnce) => {
  const source = new CountingFile()
  const disk = await openDisk(source, { format: "raw" })
  for (let at = 0; at < READS.length; at += atOnce) {
    await Promise.all(READS.slice(at, at + atOnce).map(({ offset, length }) => disk.pread(new Uint8Array(length), offset)))
  }
  await disk.close()
  const read = distinctBytes()
  expect(read).toBeGreaterThan(7 * MIB)
  // Before its first sixteen single reads have been of use, each brings 64 KiB.
  expect(source.bytes).toBeLessThan(2 * read + MIB)
  // As recorded, that are 7.7 MiB read and 12.1 MiB fetched in 23 requests.
  expect(source.bytes).toBeLessThan(12.5 * MIB)
  expect(source.requests).toBeLessThanOrEqual(23)
})

it("a boot over HTTP fetches no more than that, nor does it begin a long request", async () => {
  const asked: number[] = []
  const disk = await openDisk(httpFile("http://boot/disk.raw", {
    fetch: async (_, { headers }) => {
      const [, start = NaN, last = NaN] = (/^bytes=(\d+)-(\d+)$/.exec(headers["Range"] ?? "") ?? []).map(Number)
      asked.push(last + 1 - start)
      const status = { status: 206, headers: { "Content-Range": `bytes ${start}-${last}/${SIZE}`, ETag: '"1"' } }
      return new Response(new Uint8Array(last + 1 - start), status)
    },
  }), { format: "raw" })
  for (const { offset, length } of READS) await disk.pread(new Uint8Array(length), offset)
  await disk.close()
  expect(asked.reduce((sum, length) => sum + length, 0)).toBeLessThan(12.5 * MIB)
  expect(asked.length).toBeLessThanOrEqual(23)
})
