/** Copying one disk to another: any to any, with zeroes left out, compressed or not, stopped or failing anywhere. */
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { BackingError } from "../../../src/backing/backing.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { convertDisk } from "../../../src/backing/operations/convert/convert.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { FailingFile, type FileCall } from "../../support/failing-file.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { openInMemory } from "../../support/images.ts"
import { makeShape, qcow2Shapes } from "../../support/shapes.ts"
import { applyOperation, randomOperation } from "../../support/random-operations.ts"
import { filled, newImage, newOverlay } from "../qcow2/small-images.ts"

const seed = seedFromEnvironment(41)
const SIZE = 300_032
/** Six pieces of a copy. */
const LARGE = 6 << 18

/** Data, zeroes in it, and much that was never written. */
function fill(disk: VirtioBacking, seed: number): void {
  const rng = new Rng(seed)
  disk.pwrite(rng.bytes(50_000), 1000)
  disk.pwrite(filled(9000, 0x42), 100_000)
  disk.pwrite(new Uint8Array(70_000), 110_000)
  disk.pwrite(rng.bytes(512), disk.size - 512)
}

function bytesOf(disk: VirtioBacking, length = disk.size): Buffer {
  const bytes = Buffer.alloc(length)
  void disk.pread(bytes, 0)
  return bytes
}

function rawOf(size: number, path = "raw"): RawBacking {
  const file = new MemoryFile({ path })
  file.truncate(size)
  return new RawBacking(file)
}

/** The same disk, whose answers come later. */
function later(disk: VirtioBacking): VirtioBacking {
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  return {
    size: disk.size,
    readOnly: disk.readOnly,
    asynchronous: true,
    discardGranularity: disk.discardGranularity ?? 512,
    pread: async (buffer, offset) => (await turn(), disk.pread(buffer, offset)),
    pwrite: async (buffer, offset) => (await turn(), disk.pwrite(buffer, offset)),
    flush: async () => (await turn(), disk.flush?.()),
    close: () => disk.close(),
  }
}

describe("convertDisk", () => {
  for (const shape of qcow2Shapes) {
    it(`seed ${seed}: QC-CMP-12 ${shape.name} goes to raw, qcow2 and compressed qcow2, and holds the same`, async () => {
      const { file, model, opening } = makeShape(shape, SIZE)
      const source = openInMemory(file, opening)
      const rng = new Rng(seed)
      for (let index = 0; index < 30; index++) {
        applyOperation(source, model, randomOperation(rng, { size: SIZE, longest: 20_000 }), "anything")
      }
      const before = bytesOf(source)
      const [raw, plain, small] = [rawOf(SIZE), newImage({ size: SIZE, clusterSize: 8192 }), newImage({ size: SIZE, clusterSize: 2048 })]
      await convertDisk(source, raw, { targetIsZero: true })
      expect(bytesOf(raw).equals(before)).toBe(true)
      for (const [target, compressed] of [[plain, false], [small, true]] as const) {
        const disk = openQcow2(target)
        await convertDisk(source, disk, { targetIsZero: true, compressed })
        disk.close()
        expect(checkQcow2(target.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
        expect(bytesOf(openQcow2(target.clone())).equals(before)).toBe(true)
      }
      expect(bytesOf(source).equals(before)).toBe(true)
    })
  }

  it("zeroes take no space in a new image, whether the source reports them or has them as data", async () => {
    const source = rawOf(SIZE)
    fill(source, 1)
    const file = newImage({ size: SIZE, clusterSize: 4096 })
    const target = openQcow2(file)
    await convertDisk(source, target, { targetIsZero: true })
    const kinds = [...target.map(0, SIZE)].map(({ offset, length, kind }) => [offset, length, kind])
    expect(kinds).toEqual([
      [0, 53_248, "data"], [53_248, 45_056, "backing"], [98_304, 12_288, "data"], [110_592, 188_416, "backing"], [299_008, 1024, "data"],
    ])
    const all = openQcow2(newImage({ size: SIZE, clusterSize: 4096 }))
    await convertDisk(source, all, { targetIsZero: true, sparseSize: 0 })
    expect([...all.map(0, SIZE)].map(({ kind }) => kind)).toEqual(["data"])
  })

  it("everything up to the source's end is overwritten, zeroes included, and the target's bytes behind it stay", async () => {
    const source = rawOf(200_000)
    fill(source, 1)
    const target = new MemoryBacking({ size: SIZE })
    target.pwrite(filled(SIZE, 9), 0)
    await convertDisk(source, target)
    expect(bytesOf(target, 200_000).equals(bytesOf(source))).toBe(true)
    expect(bytesOf(target).subarray(200_000).equals(Buffer.alloc(SIZE - 200_000, 9))).toBe(true)
    const qcow2 = openQcow2(newOverlay(filled(SIZE, 7), { size: SIZE, clusterSize: 2048 }).file, {
      openBacking: newOverlay(filled(SIZE, 7)).openBacking,
    })
    await convertDisk(source, qcow2)
    expect(bytesOf(qcow2, 200_000).equals(bytesOf(source))).toBe(true)
  })

  it("QC-CMP-12 a source that ends within a cluster or a sector is compressed too, and the rest of the target stays", async () => {
    for (const [size, targetSize] of [[10_000, 10_240], [10_000, 40_960], [700, 1024]] as const) {
      const source = rawOf(size)
      source.pwrite(filled(size, 5), 0)
      const { open } = newOverlay(filled(targetSize, 7), { size: targetSize, clusterSize: 4096 })
      const target = open()
      await convertDisk(source, target, { compressed: true })
      expect(bytesOf(target).equals(Buffer.concat([Buffer.alloc(size, 5), Buffer.alloc(targetSize - size, 7)]))).toBe(true)
    }
  })

  it("a disk that answers later is copied in several lanes, as source and as target", async () => {
    const source = rawOf(3 << 20)
    fill(source, 2)
    source.pwrite(new Rng(3).bytes(2 << 20), 1 << 20)
    const target = new MemoryBacking({ size: 3 << 20 })
    await convertDisk(later(source), later(target), { parallel: 3, targetIsZero: true })
    expect(bytesOf(target).equals(bytesOf(source))).toBe(true)
    const other = openQcow2(newImage({ size: 3 << 20 }))
    await convertDisk(later(source), other, { compressed: true })
    expect(bytesOf(other).equals(bytesOf(source))).toBe(true)
  })

  it("onlyOwn copies what the image holds itself: data and zeroes, not what shows from its backing file", async () => {
    const { openBacking, open } = newOverlay(filled(SIZE, 7), { size: SIZE, clusterSize: 4096 })
    const source = open()
    source.pwrite(filled(4096, 1), 8192)
    source.writeZeroes(40_960, 8192, true)
    const target = openQcow2(newOverlay(new Uint8Array(0), { size: SIZE, clusterSize: 4096 }).file, { openBacking })
    await convertDisk(source, target, { onlyOwn: true })
    expect([...target.map(0, SIZE)].map(({ offset, kind }) => [offset, kind])).toEqual([
      [0, "backing"], [8192, "data"], [12_288, "backing"], [40_960, "zero"], [49_152, "backing"],
    ])
    expect(bytesOf(target).equals(bytesOf(source))).toBe(true)
  })

  it("progress rises in steps to the size, a signal stops at any step, and the source does not change", async () => {
    const source = rawOf(LARGE)
    source.pwrite(new Rng(1).bytes(LARGE), 0)
    const steps: number[] = []
    const note = (done: number, total: number): void => {
      expect(total).toBe(LARGE)
      steps.push(done)
    }
    await convertDisk(source, new MemoryBacking({ size: LARGE }), { progress: note })
    expect(steps.length).toBe(6)
    expect(steps.at(-1)).toBe(LARGE)
    const before = bytesOf(source)
    for (let stopAt = 0; stopAt < steps.length; stopAt++) {
      const stop = new AbortController()
      if (stopAt === 0) stop.abort(new Error("stopped"))
      let seen = 0
      const progress = (): void => {
        if (++seen === stopAt) stop.abort(new Error("stopped"))
      }
      const target = openQcow2(newImage({ size: LARGE }))
      await expect(convertDisk(source, target, { signal: stop.signal, progress, compressed: stopAt % 2 === 1 })).rejects.toThrow("stopped")
      expect(seen).toBe(stopAt)
      target.close()
    }
    expect(bytesOf(source).equals(before)).toBe(true)
  })

  it("QC-CMP-13 a target that is too small, read-only or cannot take compressed clusters is refused before any write", async () => {
    const source = rawOf(SIZE)
    const target = new MemoryBacking({ size: SIZE - 512 })
    await expect(convertDisk(source, target)).rejects.toMatchObject({ code: "invalid-argument" })
    await expect(convertDisk(source, rawOf(SIZE), { compressed: true })).rejects.toThrow("only a qcow2 image can have compressed clusters")
    await expect(convertDisk(source, rawOf(SIZE), { onlyOwn: true })).rejects.toThrow("onlyOwn needs a qcow2 image")
    await expect(convertDisk(source, rawOf(SIZE), { sparseSize: 1000 })).rejects.toThrow("multiple of 512")
    const encrypted = qcow2Shapes.find(({ name }) => name === "qcow2 with LUKS")
    if (encrypted === undefined) throw new Error("no such shape")
    const { file, opening } = makeShape(encrypted, SIZE)
    const secret = openInMemory(file, opening)
    await expect(convertDisk(source, secret, { compressed: true })).rejects.toThrow("compressed clusters cannot be encrypted")
    const readOnly = new RawBacking(MemoryFile.of(new Uint8Array(SIZE), { readOnly: true }))
    await expect(convertDisk(source, readOnly)).rejects.toMatchObject({ code: "read-only" })
  })
})

/** Converts into a failing file. Returns whether call `at` was reached. */
async function failingRound(calls: readonly FileCall[], at: number, compressed: boolean): Promise<boolean> {
  const source = rawOf(12_000)
  for (let offset = 0; offset < 10_000; offset += 4000) source.pwrite(filled(3000, 3), offset)
  const file = newImage({ size: 12_288, clusterSize: 512, refcountBits: 64 })
  const failing = new FailingFile(file)
  const target: Qcow2Image = openQcow2(failing, { cacheSize: 4096 })
  failing.plan = { at, code: "io", calls, duration: "once", partial: 0.5 }
  let failed: unknown
  try {
    await convertDisk(source, target, { targetIsZero: true, compressed })
  } catch (error) {
    failed = error
  }
  if (failing.failures > 0) expect(failed).toBeInstanceOf(BackingError)
  failing.plan = undefined
  target.close()
  expect(checkQcow2(file.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
  if (failing.failures === 0) expect(bytesOf(openQcow2(file.clone()), 12_000).equals(bytesOf(source))).toBe(true)
  return failing.failures > 0
}

describe("convertDisk over a failing file", () => {
  it.each([
    ["plain", false],
    ["compressed", true],
  ])("QC-L2-11 %s: an error at any call is reported, and leaves an image without leaks", async (_, compressed) => {
    let reached = 0
    for (const calls of [["read"], ["write", "sync"]] as const) {
      for (let at = 1; await failingRound(calls, at, compressed); at++) reached++
    }
    expect(reached).toBeGreaterThan(5)
  })
})
