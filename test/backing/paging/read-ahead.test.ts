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

it.each([4096, 65_536, 131_072, 262_144, MIB, 4 * MIB])("in order, %i bytes at a time", async (step) => {
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

it("at random reads no more than the source prefers at a time", async () => {
  const source = new NumberedPages()
  const disk = await openDisk(source, { format: "raw" })
  for (let index = 1; index < 12; index++) await disk.pread(new Uint8Array(4096), ((index * 5) % 12) * 5 * MIB)
  expect(source.reads).toHaveLength(11)
  expect(source.reads.every((text) => text.endsWith("+4"))).toBe(true)
  await disk.close()
})
