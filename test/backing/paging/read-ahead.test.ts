/** Reading in order: a source is asked for few long reads, whatever the length of those that it serves. */
import { expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"

const MIB = 1 << 20
const SIZE = 64 * MIB
const PAGE = 1 << 16

/** A file whose pages hold their number, and that writes down what is read: pages, as "first+count". */
class NumberedPages implements AsyncImageFile {
  readonly path = "pages"
  readonly readOnly = true
  readonly preferredRead = 4 * PAGE
  readonly reads: string[] = []

  async size(): Promise<number> {
    return SIZE
  }

  async read(buffer: Uint8Array, offset: number): Promise<number> {
    this.reads.push(`${offset / PAGE}+${buffer.length / PAGE}`)
    for (let at = 0; at < buffer.length; at += PAGE) buffer.fill((offset + at) / PAGE, at, at + PAGE)
    return buffer.length
  }

  async close(): Promise<void> {}
}

it.each([
  4096, 65_536, 131_072, 262_144, MIB, 4 * MIB,
])("reads in order, %i bytes at a time, fetch each byte once, in few long reads", async (step) => {
  const source = new NumberedPages()
  const disk = await openDisk(source, { format: "raw" })
  const buffer = new Uint8Array(step)
  for (let at = 0; at < SIZE; at += step) {
    await disk.pread(buffer, at)
    expect([buffer[0], buffer.at(-1)]).toEqual([(at / PAGE) & 0xff, Math.floor((at + step - 1) / PAGE) & 0xff])
  }
  const pages = source.reads.reduce((sum, text) => sum + Number(text.split("+")[1]), 0)
  expect(pages, source.reads.join(" ")).toBe(SIZE / PAGE)
  expect(source.reads.length, source.reads.join(" ")).toBeLessThan(30)
  await disk.close()
})

const seed = Number(process.env["SEED"] ?? 20_261_126)

it(`a reader that stops reading in order fetched at most twice as much, and twice the preferred read (SEED=${seed})`, async () => {
  let state = seed
  const below = (most: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * most)
  }
  for (let round = 0; round < 60; round++) {
    const source = new NumberedPages()
    const disk = await openDisk(source, { format: "raw" })
    const length = 1 + below(2 ** (10 + below(15)))
    const longest = 512 * (1 + below(2 ** below(10)))
    const buffer = new Uint8Array(longest)
    let at = 0
    while (at < length) {
      const step = 512 * (1 + below(longest / 512))
      await disk.pread(buffer.subarray(0, step), at)
      at += step
    }
    const fetched = source.reads.reduce((sum, text) => sum + Number(text.split("+")[1]) * PAGE, 0)
    expect(
      fetched, `${at} bytes, up to ${longest} at a time: ${source.reads.join(" ")}`,
    ).toBeLessThanOrEqual(2 * (at + source.preferredRead))
    await disk.close()
  }
})

/** Places 192 KiB apart or more, none of which is beside one that came before. */
const scattered = (count: number): number[] => Array.from({ length: count }, (_, index) => (((index * 97) % 331) + 1) * 3 * PAGE)

it("random reads fetch as much as the source prefers for a while, then only the pages that they need", async () => {
  const source = new NumberedPages()
  const disk = await openDisk(source, { format: "raw" })
  for (const at of scattered(40)) await disk.pread(new Uint8Array(4096), at)
  expect(source.reads).toHaveLength(40)
  expect(source.reads.slice(0, 10).every((text) => text.endsWith("+4"))).toBe(true)
  expect(source.reads.slice(20).every((text) => text.endsWith("+0.25"))).toBe(true)
  await disk.close()
})

it("once reads come back to what lies beside, they fetch as much as the source prefers again", async () => {
  const source = new NumberedPages()
  const disk = await openDisk(source, { format: "raw" })
  for (const at of scattered(40)) await disk.pread(new Uint8Array(4096), at)
  source.reads.length = 0
  const places = Array.from({ length: 40 }, (_, index) => 2 * PAGE + ((index * 13) % 60) * 16 * PAGE)
  for (const at of places) for (const beside of [0, 96, 32]) await disk.pread(new Uint8Array(4096), at + beside * 1024)
  // One read each, but for the first places; none of them has a page that comes next.
  expect(source.reads.length, source.reads.join(" ")).toBeLessThan(50)
  await disk.close()
})
