/**
 * The golden images over files that answer late, in any order and in pieces, with one page and the smallest caches: what QEMU sees in them.
 */
import { basename } from "node:path"
import { expect, it } from "vitest"
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { LateFile } from "../backing/paging/late-file.ts"
import { goldenBytes, goldenImages, sha256 } from "../support/golden.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

const seed = seedFromEnvironment(41)
const READABLE = goldenImages.filter(({ file }) => !/cut/.test(file))

it.each(READABLE)(`$file, read by two to eight reads at a time, has its content, seed ${seed}`, async ({ file, size, sha256: wanted }) => {
  const rng = new Rng(seed)
  const late = (name: string): LateFile => new LateFile(MemoryFile.of(goldenBytes(name)), rng, { readOnly: true })
  const disk = await openDisk(late(file), {
    readOnly: true, cacheSize: 0, pageCacheSize: 1, backing: ({ name }) => late(basename(name)), probeBackingFormat: true,
  })
  expect(disk.size).toBe(size)
  const content = new Uint8Array(size)
  // In an order of chance, each piece once.
  const pieces: (readonly [start: number, end: number])[] = []
  for (let at = 0; at < size;) {
    const end = Math.min(size, at + rng.pick([512, 4096, 65_536, 1 << 18]))
    pieces.push([at, end])
    at = end
  }
  rng.shuffle(pieces)
  const lane = async (): Promise<void> => {
    for (let piece = pieces.pop(); piece !== undefined; piece = pieces.pop()) await disk.pread(content.subarray(...piece), piece[0])
  }
  await Promise.all(Array.from({ length: rng.between(2, 8) }, lane))
  await disk.close()
  expect(sha256(content)).toBe(wanted)
})
