/** Conversions whose source is read ahead on another thread: the same content, memory, errors and crashes as when it is read at once. */
import { closeSync, readdirSync, readlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import { HostFile } from "../../../src/backing/host/host-file.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { convertDisk } from "../../../src/backing/operations/convert/convert.ts"
import { convertImage } from "../../../src/backing/operations/convert/convert-image.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { crashesOf } from "../../crash/crashed-files.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { applyOperation, randomOperation } from "../../support/random-operations.ts"
import { itWithQemu, qemuCheck, qemuImg } from "../../support/qemu.ts"
import { RecordingFile } from "../../support/recording-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { makeShape, qcow2Shapes } from "../../support/shapes.ts"
import { temporaryDirectory } from "../../support/temporary.ts"
import { newImage } from "../qcow2/small-images.ts"

const seed = seedFromEnvironment(53)
const MIB = 1 << 20
/** Six pieces of a copy that is read ahead. */
const LARGE = 12 * MIB

/** A file in memory that also reads as a thread does: the bytes come while others are at work. */
class LateFile extends MemoryFile {
  reads = 0
  underWay = 0
  mostUnderWay = 0
  /** The read that fails, from 1. */
  failAt = 0
  readonly buffers = new Set<ArrayBufferLike>()

  async readLater(buffer: Uint8Array, offset: number): Promise<number> {
    const number = ++this.reads
    this.mostUnderWay = Math.max(this.mostUnderWay, ++this.underWay)
    this.buffers.add(buffer.buffer)
    buffer.fill(0xee)
    for (let turns = 1 + (number % 3); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve))
    this.underWay--
    if (number === this.failAt) throw new BackingError("io", "injected: a late read failed", { path: this.path, offset })
    return this.read(buffer, offset)
  }
}

function lateCopy(file: MemoryFile): LateFile {
  const late = new LateFile({ path: file.path, readOnly: true })
  late.adopt(file)
  return late
}

/** `LARGE` bytes of noise, with zeroes between. */
function lateSource(): { readonly file: LateFile; readonly disk: RawBacking; readonly content: Buffer } {
  const content = Buffer.alloc(LARGE)
  const rng = new Rng(seed)
  for (let at = 0; at < LARGE; at += MIB) content.set(rng.bytes(MIB - rng.below(200_000)), at)
  const file = lateCopy(MemoryFile.of(content))
  return { file, disk: new RawBacking(file), content }
}

function bytesOf(disk: VirtioBacking): Buffer {
  const bytes = Buffer.alloc(disk.size)
  void disk.pread(bytes, 0)
  return bytes
}

describe("a conversion that reads ahead", () => {
  const size = 2.5 * MIB
  for (const shape of qcow2Shapes) {
    it(`seed ${seed}: ${shape.name} is converted to raw and to qcow2 with the same content`, async () => {
      const { file, model, opening } = makeShape(shape, size)
      const rng = new Rng(seed)
      const image = openInMemory(file, opening)
      applyOperation(image, model, { kind: "write", offset: 0, data: rng.bytes(size), parts: 1 }, "anything")
      for (let index = 0; index < 6; index++) {
        applyOperation(image, model, randomOperation(rng, { size, longest: 20_000 }), "anything")
      }
      const before = bytesOf(image)
      image.flush()
      const late = lateCopy(file)
      const source = openInMemory(late, { ...opening, readOnly: true })
      const raw = new MemoryFile()
      raw.truncate(size)
      const plain = newImage({ size, clusterSize: 8192 })
      for (const target of [new RawBacking(raw), openQcow2(plain)]) {
        await convertDisk(source, target, { targetIsZero: true })
        expect(bytesOf(target).equals(before)).toBe(true)
        target.close()
      }
      expect(checkQcow2(plain.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
      if (shape.name === "qcow2 as by default") expect(late.reads).toBeGreaterThan(0)
    })
  }

  it("holds two buffers of 2 MiB, whatever the size, and reads nothing ahead from a disk that may be written", async () => {
    const { file, disk, content } = lateSource()
    const target = newImage({ size: LARGE })
    await convertDisk(disk, openQcow2(target), { targetIsZero: true })
    expect([file.reads, file.mostUnderWay, file.buffers.size]).toEqual([6, 2, 2])
    expect(Math.max(...[...file.buffers].map(({ byteLength }) => byteLength))).toBe(2 * MIB)
    const writable = new LateFile()
    writable.adopt(MemoryFile.of(content))
    await convertDisk(new RawBacking(writable), openQcow2(newImage({ size: LARGE })))
    expect(writable.reads).toBe(0)
  })

  it("reads ahead one run of the file at a time, and short runs at once", async () => {
    const file = newImage({ size: 4 * MIB })
    const image = openQcow2(file)
    const content = Buffer.from(new Rng(seed).bytes(4 * MIB))
    for (let cluster = 31; cluster >= 0; cluster--) image.pwrite(content.subarray(cluster << 16, (cluster + 1) << 16), cluster << 16)
    image.pwrite(content.subarray(2 * MIB), 2 * MIB)
    image.flush()
    const late = lateCopy(file)
    const target = new MemoryFile()
    target.truncate(4 * MIB)
    const steps: number[] = []
    await convertDisk(openQcow2(late, { readOnly: true }), new RawBacking(target), { progress: (done) => void steps.push(done) })
    expect(Buffer.from(target.toBytes()).equals(content)).toBe(true)
    expect(steps).toEqual([...Array.from({ length: 32 }, (_, cluster) => (cluster + 1) << 16), 4 * MIB])
    expect(late.reads).toBe(1)
  })

  it("stops at any step, with no call under way and no more bytes written", async () => {
    for (let stopAt = 1; stopAt < 6; stopAt++) {
      const { file, disk, content } = lateSource()
      const stop = new AbortController()
      const steps: number[] = []
      const progress = (done: number): void => {
        if (steps.push(done) === stopAt) stop.abort(new Error("stopped"))
      }
      const target = openQcow2(newImage({ size: LARGE }))
      await expect(convertDisk(disk, target, { signal: stop.signal, progress, targetIsZero: true })).rejects.toThrow("stopped")
      expect(file.underWay).toBe(0)
      expect(steps).toEqual(Array.from({ length: stopAt }, (_, step) => (step + 1) * 2 * MIB))
      expect(
        bytesOf(target).equals(Buffer.concat([content.subarray(0, stopAt * 2 * MIB), Buffer.alloc(LARGE - stopAt * 2 * MIB)])),
      ).toBe(true)
      expect(Buffer.from(file.toBytes()).equals(content)).toBe(true)
    }
  })

  it("reports an error of any late read, and writes what was read before it", async () => {
    for (let failAt = 1; failAt <= 6; failAt++) {
      const { file, disk, content } = lateSource()
      file.failAt = failAt
      const image = newImage({ size: LARGE })
      const target = openQcow2(image)
      await expect(convertDisk(disk, target, { targetIsZero: true })).rejects.toThrow("injected: a late read failed")
      expect(file.underWay).toBe(0)
      target.close()
      expect(checkQcow2(image.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
      const written = (failAt - 1) * 2 * MIB
      const expected = Buffer.concat([content.subarray(0, written), Buffer.alloc(LARGE - written)])
      expect(bytesOf(openQcow2(image.clone())).equals(expected)).toBe(true)
    }
  })

  it("QC-L2-11 reports an error of any write after the last read has ended, and leaves no leak", async () => {
    let failures = 0
    for (let at = 1; ; at++) {
      const { file, disk } = lateSource()
      const image = newImage({ size: LARGE })
      const failing = new FailingFile(image)
      const target = openQcow2(failing)
      failing.plan = { at, code: "no-space", calls: ["write", "sync"], duration: "once", partial: 0.5 }
      const done = convertDisk(disk, target, { targetIsZero: true })
      const failed = await done.then(() => undefined, (error: unknown) => error)
      expect(file.underWay).toBe(0)
      if (failing.failures === 0) break
      expect(failed).toMatchObject({ code: "no-space" })
      failures++
      failing.plan = undefined
      target.close()
      expect(checkQcow2(image.clone())).toMatchObject({ corruptions: 0, leaks: 0 })
    }
    expect(failures).toBeGreaterThan(6)
  })

  it(`seed ${seed}: a power cut after every write leaves an image that opens, with leaks at worst`, async () => {
    const { disk, content } = lateSource()
    const base = newImage({ size: LARGE })
    const file = new RecordingFile(base.clone())
    const target = openQcow2(file)
    await convertDisk(disk, target, { targetIsZero: true })
    const flushed = file.log.length
    target.close()
    let points = 0
    for (const crash of crashesOf(file.log, { base, rng: new Rng(seed) })) {
      points++
      expect(checkQcow2(crash.file.clone()).corruptions, crash.where).toBe(0)
      if (crash.length >= flushed) expect(bytesOf(openQcow2(crash.file)).equals(content), crash.where).toBe(true)
    }
    expect(points).toBeGreaterThan(20)
  })
})

/** Where a link leads; the directory listing's own descriptor is gone by now. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return ""
    throw error
  }
}

describe("HostFile.readLater", () => {
  it("fills the buffer up to the end of the file, and reports errors", async () => {
    const path = join(temporaryDirectory(), "file")
    const content = Buffer.from(new Rng(seed).bytes(300_000))
    writeFileSync(path, content)
    const file = new HostFile(path, { readOnly: true })
    const buffer = Buffer.alloc(200_000, 1)
    expect(await file.readLater(buffer, 50_000)).toBe(200_000)
    expect(buffer.equals(content.subarray(50_000, 250_000))).toBe(true)
    expect(await file.readLater(buffer, 250_000)).toBe(50_000)
    expect(await file.readLater(buffer, 300_000)).toBe(0)
    const disk = new RawBacking(file)
    writeFileSync(path, "cut")
    await expect(disk.preadLater(buffer, 0)).rejects.toThrow("somebody has cut the file while it was open")
    // Somebody closes the descriptor behind our back: the host reports it.
    const descriptors = readdirSync("/proc/self/fd").filter((fd) => linkOf(`/proc/self/fd/${fd}`) === path)
    expect(descriptors).toHaveLength(1)
    for (const fd of descriptors) closeSync(Number(fd))
    await expect(file.readLater(buffer, 0)).rejects.toMatchObject({ name: "BackingError", path })
    expect(() => file.readLater(buffer, -1)).toThrow("not a byte position")
  })

  itWithQemu("images of the host that are converted there and back hold the same, also to qemu-img", async () => {
    const folder = temporaryDirectory()
    const names = ["source.raw", "there.qcow2", "other.qcow2", "back.raw"].map((name) => join(folder, name))
    const [source, there, other, back] = names as [string, string, string, string]
    const { content } = lateSource()
    writeFileSync(source, content)
    await convertImage(source, there, { source: { format: "raw" } })
    await convertImage(there, other, { clusterSize: 4096 })
    await convertImage(other, back, { format: "raw" })
    const disk = new RawBacking(new HostFile(back, { readOnly: true }))
    expect(bytesOf(disk).equals(content)).toBe(true)
    disk.close()
    for (const image of [there, other]) {
      expect(qemuImg("compare", "-f", "raw", "-F", "qcow2", source, image)).toContain("Images are identical")
      expect(qemuCheck(image)).toMatchObject({ corruptions: 0, leaks: 0 })
    }
  })
})
