/** Comparing two disks: where they first differ, in content, size or allocation. */
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { compareDisks } from "../../../src/backing/operations/compare.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { filled, newImage } from "../qcow2/small-images.ts"

const seed = seedFromEnvironment(43)
const SIZE = 1 << 20
const SAME = { same: true, sizesDiffer: false }

function rawOf(content: Uint8Array): RawBacking {
  return new RawBacking(MemoryFile.of(content))
}

function qcow2Of(content: Uint8Array, clusterSize = 4096): VirtioBacking {
  const disk = openQcow2(newImage({ size: content.length, clusterSize }))
  disk.pwrite(content, 0)
  return disk
}

describe("compareDisks", () => {
  it(`seed ${seed}: finds the first byte that differs, wherever it is, in whatever stores the disks`, async () => {
    const rng = new Rng(seed)
    const content = new Uint8Array(SIZE)
    content.set(rng.bytes(400_000), 300_000)
    const disk = qcow2Of(content)
    expect(await compareDisks(rawOf(content), disk)).toEqual(SAME)
    for (const offset of [0, 1, 262_143, 262_144, 299_999, 300_000, 700_000, SIZE - 1, rng.below(SIZE), rng.below(SIZE)]) {
      const other = content.slice()
      other[offset] = (other[offset] ?? 0) ^ 0x10
      const found = { same: false, difference: "content", offset, sizesDiffer: false }
      expect(await compareDisks(disk, rawOf(other))).toEqual(found)
      expect(await compareDisks(qcow2Of(other, 512), disk)).toEqual(found)
    }
  })

  it("beyond the end of the smaller disk, anything but zeroes differs; in strict mode the size differs too", async () => {
    const content = filled(10_000, 3)
    const longer = new Uint8Array(SIZE)
    longer.set(content)
    expect(await compareDisks(rawOf(content), rawOf(longer))).toEqual({ same: true, sizesDiffer: true })
    expect(await compareDisks(rawOf(longer), rawOf(content), { strict: true })).toEqual({
      same: false, difference: "size", sizesDiffer: true,
    })
    longer[700_001] = 1
    const found = { same: false, difference: "content", offset: 700_001, sizesDiffer: true }
    expect(await compareDisks(rawOf(longer), rawOf(content))).toEqual(found)
    expect(await compareDisks(rawOf(content), qcow2Of(longer))).toEqual(found)
  })

  it("in strict mode zeroes that are allocated in one disk only are a difference", async () => {
    const [one, other] = [openQcow2(newImage({ size: SIZE })), openQcow2(newImage({ size: SIZE }))]
    one.pwrite(filled(65536, 1), 0)
    other.pwrite(filled(65536, 1), 0)
    other.pwrite(new Uint8Array(65536), 131_072)
    expect(await compareDisks(one, other)).toEqual(SAME)
    expect(await compareDisks(one, other, { strict: true })).toEqual({
      same: false, difference: "allocation", offset: 131_072, sizesDiffer: false,
    })
  })

  it("disks of 2^50 bytes are compared by their allocated parts alone, and progress ends at their size", async () => {
    const size = 2 ** 50
    const [one, other] = [openQcow2(newImage({ size, clusterSize: 1 << 20 })), openQcow2(newImage({ size, clusterSize: 2 << 20 }))]
    one.pwrite(filled(512, 1), 2 ** 49)
    other.pwrite(filled(512, 1), 2 ** 49)
    let last: readonly number[] = []
    expect(await compareDisks(one, other, { progress: (done, total) => (last = [done, total]) })).toEqual(SAME)
    expect(last).toEqual([2 ** 50, 2 ** 50])
  })

  it("a signal stops it", async () => {
    const stop = new AbortController()
    const progress = (): void => stop.abort(new Error("enough"))
    const disk = rawOf(filled(SIZE, 1))
    await expect(compareDisks(disk, rawOf(filled(SIZE, 1)), { signal: stop.signal, progress })).rejects.toThrow("enough")
  })
})
