/** MemoryBacking: sparse to the chunk, whatever its size. The contract suite has the rest. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

const CHUNK = 65536
const TIB = 2 ** 40

function read(disk: MemoryBacking, offset: number, length: number): Uint8Array {
  const buffer = new Uint8Array(length).fill(0xee)
  disk.pread(buffer, offset)
  return buffer
}

const isZero = (bytes: Uint8Array) => bytes.every((byte) => byte === 0)

function codeOf(work: () => unknown): string {
  try {
    work()
  } catch (error) {
    if (error instanceof BackingError) return error.code
    throw error
  }
  throw new Error("expected a BackingError, got none")
}

describe("a disk in memory", () => {
  it("of 1 TiB takes no room; a byte takes a chunk of 64 KiB, wherever it is", () => {
    const disk = new MemoryBacking({ size: TIB })
    expect([disk.size, disk.allocated, isZero(read(disk, TIB - 100_000, 100_000))]).toEqual([TIB, 0, true])
    const places = [0, 1, CHUNK, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 39 + 5, TIB - 1]
    for (const [index, place] of places.entries()) disk.pwrite(Uint8Array.of(index + 1), place)
    for (const [index, place] of places.entries()) expect(read(disk, place, 1)).toEqual(Uint8Array.of(index + 1))
    expect(disk.allocated).toBe(7 * CHUNK)
  })

  it("zeroes and discards free whole chunks and leave the rest, also over a range of nearly the whole disk", () => {
    const disk = new MemoryBacking({ size: TIB })
    for (const chunk of [0, 1, 2, 3, 1000, 2 ** 20, 2 ** 24 - 1]) disk.pwrite(new Uint8Array(CHUNK).fill(7), chunk * CHUNK)
    disk.writeZeroes(CHUNK + 1, 2 * CHUNK - 1)
    expect(disk.allocated).toBe(6 * CHUNK)
    expect([read(disk, CHUNK, 2), read(disk, 3 * CHUNK - 1, 2)]).toEqual([Uint8Array.of(7, 0), Uint8Array.of(0, 7)])
    disk.discard(1, TIB - 2)
    expect(disk.allocated).toBe(2 * CHUNK)
    expect([
      read(disk, 0, 2), read(disk, TIB - 2, 2), isZero(read(disk, 1, 5 * CHUNK)),
    ]).toEqual([Uint8Array.of(7, 0), Uint8Array.of(0, 7), true])
    disk.writeZeroes(0, TIB)
    expect(disk.allocated).toBe(0)
  })

  it("grows by zeroes; what is cut off is gone, also when it grows again", () => {
    const disk = new MemoryBacking({ size: 3 * CHUNK })
    disk.pwrite(new Uint8Array(3 * CHUNK).fill(7), 0)
    disk.resize(CHUNK + 100)
    expect([disk.size, disk.allocated, codeOf(() => read(disk, CHUNK + 100, 1))]).toEqual([CHUNK + 100, 2 * CHUNK, "out-of-bounds"])
    disk.resize(2 ** 45)
    expect([read(disk, CHUNK + 99, 2), isZero(read(disk, CHUNK + 100, 2 * CHUNK))]).toEqual([Uint8Array.of(7, 0), true])
    disk.resize(0)
    expect([disk.allocated, codeOf(() => read(disk, 0, 1))]).toEqual([0, "out-of-bounds"])
  })

  it("that is read-only refuses every change", () => {
    const disk = new MemoryBacking({ size: CHUNK, readOnly: true })
    const one = Uint8Array.of(1)
    for (const work of [
      () => disk.pwrite(one, 0),
      () => disk.pwritev([one, one], 0),
      () => disk.writeZeroes(0, 1),
      () => disk.discard(0, 1),
    ]) {
      expect(codeOf(work)).toBe("read-only")
    }
    expect(isZero(read(disk, 0, CHUNK))).toBe(true)
  })

  it.each([-1, 0.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY])("a size of %d is refused", (size) => {
    expect(codeOf(() => new MemoryBacking({ size }))).toBe("invalid-argument")
    const disk = new MemoryBacking({ size: 512 })
    expect(codeOf(() => disk.resize(size))).toBe("invalid-argument")
    expect(disk.size).toBe(512)
  })

  it("a vector that reaches beyond the end is refused whole", () => {
    const disk = new MemoryBacking({ size: 1000 })
    expect(codeOf(() => disk.pwritev([new Uint8Array(600).fill(1), new Uint8Array(401).fill(1)], 0))).toBe("out-of-bounds")
    expect(isZero(read(disk, 0, 1000))).toBe(true)
  })

  it("random writes, zeroes and sizes agree with a flat array", () => {
    const rng = new Rng(seedFromEnvironment(20260811))
    const disk = new MemoryBacking({ size: 5 * CHUNK })
    let model = new Uint8Array(5 * CHUNK)
    for (let round = 0; round < 300; round++) {
      const offset = rng.below(model.length)
      const length = rng.below(Math.min(model.length - offset, rng.pick([10, CHUNK, 3 * CHUNK])) + 1)
      const data = rng.bytes(length)
      const kind = rng.below(10)
      if (kind < 4) {
        disk.pwrite(data, offset)
        model.set(data, offset)
      } else if (kind < 7) {
        const cut = rng.below(length + 1)
        disk.pwritev([data.subarray(0, cut), data.subarray(cut)], offset)
        model.set(data, offset)
      } else if (kind < 9) {
        disk.writeZeroes(offset, length)
        model.fill(0, offset, offset + length)
      } else {
        const size = rng.between(1, 6 * CHUNK)
        disk.resize(size)
        const grown = new Uint8Array(size)
        grown.set(model.subarray(0, size))
        model = grown
      }
      expect(Buffer.compare(read(disk, 0, disk.size), model)).toBe(0)
    }
  })
})
