/** What every backing must do, whatever is behind it: the same tests for all (see backings.test.ts for who takes part). */
import { describe, expect, it, onTestFinished } from "vitest"
import { BackingError, type VirtioBacking } from "../../src/backing/backing.ts"
import { FlatModel } from "../support/flat-model.ts"
import { split } from "../support/random-operations.ts"
import { Rng } from "../support/rng.ts"

export interface Contestant {
  readonly name: string
  /** A fresh disk and what it holds. `size` is what the suite would like; a disk may have another one. */
  open(size: number): Opened | Promise<Opened>
}

interface Opened {
  readonly disk: VirtioBacking
  readonly model: FlatModel
}

const SIZE = 300_000 - (300_000 % 512)

/** Resolves to the code of the BackingError that `work` throws or rejects with; fails when it does neither. */
async function codeOf(work: () => void | Promise<void>): Promise<string> {
  try {
    await work()
  } catch (error) {
    if (error instanceof BackingError) {
      expect(error.message, "an error is one line").not.toMatch(/\n/)
      return error.code
    }
    throw error
  }
  throw new Error("expected a BackingError, got none")
}

export function contractSuite({ name, open }: Contestant): void {
  const start = async (): Promise<Opened> => {
    const opened = await open(SIZE)
    onTestFinished(async () => await opened.disk.close())
    return opened
  }

  const expectAll = async (disk: VirtioBacking, model: FlatModel): Promise<void> => {
    const content = new Uint8Array(disk.size)
    await disk.pread(content, 0)
    expect(model.firstDifference(content, 0)).toBe(-1)
  }

  describe(`contract: ${name}`, () => {
    it("has the size and the content that it was made with", async () => {
      const { disk, model } = await start()
      expect(disk.size).toBe(model.size)
      expect(disk.readOnly).toBe(false)
      await expectAll(disk, model)
    })

    it("QC-L1-01 reads back what was written, at any offset and of any length, and nothing else changes", async () => {
      const { disk, model } = await start()
      const rng = new Rng(1)
      const edges = [0, 1, 511, 512, 513, 4095, 4096, 32767, 65535, 65536, 131072, model.size - 513, model.size - 1]
      for (const offset of edges) {
        for (const length of [1, 511, 512, 513, 5000, 66000]) {
          const data = rng.bytes(Math.min(length, model.size - offset))
          await disk.pwrite(data, offset)
          model.write(data, offset)
          const back = new Uint8Array(data.length)
          await disk.pread(back, offset)
          expect(Buffer.compare(back, data)).toBe(0)
        }
      }
      await expectAll(disk, model)
    })

    it("keeps no reference to a buffer: changing it after a write changes nothing, and a write does not change it", async () => {
      const { disk, model } = await start()
      const data = new Rng(2).bytes(70_000)
      const copy = data.slice()
      await disk.pwrite(data, 1000)
      expect(Buffer.compare(data, copy)).toBe(0)
      data.fill(7)
      model.write(copy, 1000)
      await expectAll(disk, model)
    })

    it("vectored reads and writes move the same bytes as plain ones, however they are split", async () => {
      const { disk, model } = await start()
      const rng = new Rng(3)
      for (const parts of [1, 2, 7, 1500]) {
        const data = rng.bytes(rng.between(parts, 80_000))
        const offset = rng.below(model.size - data.length)
        await (disk.pwritev === undefined ? disk.pwrite(data, offset) : disk.pwritev(split(data, parts), offset))
        model.write(data, offset)
        const back = new Uint8Array(data.length)
        await (disk.preadv === undefined ? disk.pread(back, offset) : disk.preadv(split(back, parts + 1), offset))
        expect(Buffer.compare(back, data)).toBe(0)
      }
      await expectAll(disk, model)
    })

    it("reads and writes of a part of a larger array move the same bytes, and touch nothing beside it", async () => {
      const { disk, model } = await start()
      if (disk.preadInto === undefined || disk.pwriteFrom === undefined) {
        expect([disk.preadInto, disk.pwriteFrom]).toEqual([undefined, undefined])
        return
      }
      const rng = new Rng(7)
      // Guest RAM may itself begin inside of a buffer.
      const ram = new Uint8Array(new ArrayBuffer(250_000), 100, 249_900)
      for (const length of [0, 1, 512, 4096, 65_537, 200_000]) {
        const [start, offset] = [rng.below(ram.length - length), rng.below(model.size - length)]
        ram.set(rng.bytes(ram.length))
        const before = ram.slice()
        disk.pwriteFrom(ram, start, length, offset)
        model.write(ram.subarray(start, start + length), offset)
        expect(Buffer.compare(ram, before)).toBe(0)
        ram.fill(0, start, start + length)
        disk.preadInto(ram, start, length, offset)
        expect(Buffer.compare(ram, before)).toBe(0)
      }
      for (const offset of [model.size - 511, -1, 0.5, Number.NaN]) {
        const before = ram.slice()
        expect(await codeOf(() => disk.preadInto?.(ram, 10, 512, offset))).toBe("out-of-bounds")
        expect(await codeOf(() => disk.pwriteFrom?.(ram, 10, 512, offset))).toBe("out-of-bounds")
        expect(Buffer.compare(ram, before)).toBe(0)
      }
      await expectAll(disk, model)
    })

    it("seed defect 9: an invalid range, or one beyond the end, is refused whole, and nothing changes", async () => {
      const { disk, model } = await start()
      const size = model.size
      const ranges: [offset: number, length: number][] = [
        [size, 1], [size - 1, 2], [size + 512, 512], [-1, 1], [-512, 512], [0.5, 1], [Number.NaN, 1],
        [Number.MAX_SAFE_INTEGER, 1], [2 ** 63, 512], [2 ** 64 - 512, 1024], [Number.POSITIVE_INFINITY, 1],
      ] // prettier-ignore
      for (const [offset, length] of ranges) {
        const buffer = new Uint8Array(length).fill(0xaa)
        expect(await codeOf(() => disk.pread(buffer, offset))).toBe("out-of-bounds")
        expect(buffer.every((byte) => byte === 0xaa)).toBe(true)
        expect(await codeOf(() => disk.pwrite(buffer, offset))).toBe("out-of-bounds")
        if (disk.preadv !== undefined) expect(await codeOf(() => disk.preadv?.([buffer, buffer], offset))).toBe("out-of-bounds")
        if (disk.pwritev !== undefined) expect(await codeOf(() => disk.pwritev?.([buffer, buffer], offset))).toBe("out-of-bounds")
        if (disk.discard !== undefined) expect(await codeOf(() => disk.discard?.(offset, length))).toBe("out-of-bounds")
        if (disk.writeZeroes !== undefined) expect(await codeOf(() => disk.writeZeroes?.(offset, length, true))).toBe("out-of-bounds")
      }
      await expectAll(disk, model)
    })

    it("reads and writes of no bytes succeed, also at the end", async () => {
      const { disk, model } = await start()
      await disk.pread(new Uint8Array(0), model.size)
      await disk.pwrite(new Uint8Array(0), model.size)
      await expectAll(disk, model)
    })

    it("QC-DZ-06 writeZeroes zeroes exactly its range, allocated or not, unmapping or not", async () => {
      const { disk, model } = await start()
      if (disk.writeZeroes === undefined) return
      const rng = new Rng(4)
      const data = rng.bytes(200_000)
      await disk.pwrite(data, 0)
      model.write(data, 0)
      for (const [offset, length] of [
        [0, 1], [700, 513], [4096, 4096], [10_000, 70_000], [131_072, 65_536], [199_000, 90_000], [0, 0],
      ] as const) {
        for (const mayUnmap of [false, true]) {
          await disk.writeZeroes(offset, length, mayUnmap)
          model.zero(offset, length)
        }
        await expectAll(disk, model)
      }
    })

    it("QC-DZ-01 discard changes nothing outside its range, which can be read and written again", async () => {
      const { disk, model } = await start()
      if (disk.discard === undefined) return
      const data = new Rng(5).bytes(model.size)
      await disk.pwrite(data, 0)
      model.write(data, 0)
      for (const [offset, length] of [[1, 100], [5000, 70_000], [131_072, 65_536], [model.size - 3000, 3000]] as const) {
        await disk.discard(offset, length)
        const inside = new Uint8Array(length)
        await disk.pread(inside, offset)
        model.write(inside, offset)
        await expectAll(disk, model)
        const again = new Rng(offset).bytes(length)
        await disk.pwrite(again, offset)
        model.write(again, offset)
      }
      await expectAll(disk, model)
    })

    it("flush keeps everything, and may be called at any time", async () => {
      const { disk, model } = await start()
      await disk.flush?.()
      const data = new Rng(6).bytes(10_000)
      await disk.pwrite(data, 100_000)
      model.write(data, 100_000)
      await disk.flush?.()
      await disk.flush?.()
      await expectAll(disk, model)
    })

    it("QC-L2-02 `allocation` has no gaps, and is right about zeroes and data", async () => {
      const { disk } = await start()
      if (disk.allocation === undefined) return
      const rng = new Rng(8)
      const written = rng.bytes(40_000)
      await disk.pwrite(written, 100_000)
      if (disk.writeZeroes !== undefined) {
        await disk.writeZeroes(10_000, 90_000, true)
        await disk.writeZeroes(200_000, 30_000, false)
      }
      await disk.discard?.(240_000, 20_000)
      for (let round = 0; round < 20; round++) {
        const begin = rng.chance(0.3) ? 0 : rng.below(disk.size)
        const end = rng.chance(0.3) ? disk.size : rng.between(begin + 1, disk.size)
        for (let at = begin; at < end;) {
          const { length, isAllocated, isZero } = await disk.allocation(at, end - at)
          expect(length, `from ${at} to ${end}`).toBeGreaterThan(0)
          expect(length, `from ${at} to ${end}`).toBeLessThanOrEqual(end - at)
          const content = new Uint8Array(length)
          await disk.pread(content, at)
          if (isZero) expect(content.findIndex((byte) => byte !== 0), `zeroes from ${at}`).toBe(-1)
          if (at < 140_000 && at + length > 100_000) expect({ at, isAllocated, isZero }).toEqual({ at, isAllocated: true, isZero: false })
          at += length
        }
      }
    })

    it("close may be called twice, and every other call fails with `closed` afterwards", async () => {
      const { disk } = await start()
      await disk.close()
      await disk.close()
      const buffer = new Uint8Array(512)
      expect(await codeOf(() => disk.pread(buffer, 0))).toBe("closed")
      expect(await codeOf(() => disk.pwrite(buffer, 0))).toBe("closed")
      if (disk.preadInto !== undefined) expect(await codeOf(() => disk.preadInto?.(buffer, 0, 512, 0))).toBe("closed")
      if (disk.pwriteFrom !== undefined) expect(await codeOf(() => disk.pwriteFrom?.(buffer, 0, 512, 0))).toBe("closed")
      if (disk.preadv !== undefined) expect(await codeOf(() => disk.preadv?.([buffer, buffer], 0))).toBe("closed")
      if (disk.pwritev !== undefined) expect(await codeOf(() => disk.pwritev?.([buffer, buffer], 0))).toBe("closed")
      if (disk.flush !== undefined) expect(await codeOf(() => disk.flush?.())).toBe("closed")
      if (disk.discard !== undefined) expect(await codeOf(() => disk.discard?.(0, 512))).toBe("closed")
      if (disk.writeZeroes !== undefined) expect(await codeOf(() => disk.writeZeroes?.(0, 512, true))).toBe("closed")
      if (disk.allocation !== undefined) expect(await codeOf(async () => void (await disk.allocation?.(0, 512)))).toBe("closed")
    })
  })
}
