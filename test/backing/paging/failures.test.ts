/** Sources that fail: at every call, once and for good; what is told, what goes on, and what is left in the file. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import type { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Options } from "../../../src/backing/qcow2/open.ts"
import { DurableModel } from "../../support/durable-model.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { modelOf, openInMemory } from "../../support/images.ts"
import type { MemoryFile } from "../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { makeShape, type Qcow2Shape } from "../../support/shapes.ts"
import { LateFile } from "./late-file.ts"
import { openLate } from "./open-late.ts"

const seed = seedFromEnvironment(57)
const SIZE = 150_016
const shape: Qcow2Shape = { name: "", options: { clusterSize: 1024, refcountBits: 64 }, backing: { share: 0.5, format: "raw" } }

type Work = (disk: AwaitedDisk) => void | Promise<void>

interface Step {
  readonly work: Work
  readonly note: (model: FlatModel, durable: DurableModel) => void
  readonly flushes?: boolean
}

function write(offset: number, data: Uint8Array): Step {
  return {
    work: (disk) => disk.pwrite(data, offset),
    note: (model, durable) => (model.write(data, offset), durable.write(data, offset)),
  }
}

/** Allocates, overwrites, frees, flushes twice, and reads what is not in memory. */
function steps(): Step[] {
  const rng = new Rng(seed)
  const zero = (offset: number, length: number): Step => ({
    work: (disk) => disk.writeZeroes?.(offset, length, true),
    note: (model, durable) => (model.zero(offset, length), durable.zero(offset, length)),
  })
  const flush: Step = { work: (disk) => disk.flush?.(), note: () => undefined, flushes: true }
  const read = (offset: number): Step => ({ work: (disk) => disk.pread(new Uint8Array(9000), offset), note: () => undefined })
  return [
    write(5000, rng.bytes(3000)), read(70_000), write(100_000, rng.bytes(20_000)), read(20_000), read(130_000), flush, read(40_000),
    write(5500, rng.bytes(100)), zero(101_000, 9000), read(70_000), write(60_001, rng.bytes(30_000)), read(5000), flush, read(90_000),
    write(0, rng.bytes(500)),
  ]
}

/** Half of the disk is in the image, the other half in its backing image. */
function make(): { readonly file: MemoryFile; readonly options: Qcow2Options } {
  const { file, openBacking } = makeShape(shape, SIZE)
  const options = { cacheSize: 4096, ...(openBacking === undefined ? {} : { openBacking }) }
  const disk = openInMemory(file, options)
  for (let offset = 0; offset + 4096 <= SIZE; offset += 8192) disk.pwrite(new Rng(offset).bytes(4096), offset)
  disk.close()
  return { file: file.clone(), options }
}

async function open(source: LateFile, options: Qcow2Options): Promise<AwaitedDisk> {
  return await openLate(source, (file) => openInMemory(file, options))
}

async function errorOf(work: () => void | Promise<void>): Promise<BackingError | undefined> {
  try {
    await work()
    return undefined
  } catch (error) {
    if (error instanceof BackingError) return error
    throw error
  }
}

/** The file is sound, and holds what was flushed, and nothing that nobody wrote. */
function expectSound(
  left: MemoryFile,
  options: Qcow2Options,
  durable: DurableModel,
  where: string,
): void {
  const found = checkQcow2(left.clone())
  expect([found.corruptions, ...found.findings.map(({ message }) => message)].slice(0, found.corruptions + 1), where).toEqual([0])
  durable.check(openInMemory(left.clone({ readOnly: true }), options))
}

describe(`a source that fails, seed ${seed}`, () => {
  it("QC-L2-11 an error at any read fails the request that meets it, which succeeds when it is repeated", async () => {
    for (let at = 1; ; at++) {
      const { file, options } = make()
      const model = modelOf(openInMemory(file.clone(), options))
      const source = new LateFile(file, new Rng(seed))
      const cause = new TypeError("fetch failed")
      const disk = await open(source, options)
      let [reads, failures] = [0, 0]
      source.failing = (call) => (call === "read" && ++reads === at ? (failures++, cause) : undefined)
      let told = 0
      for (const { work, note } of steps()) {
        const error = await errorOf(() => work(disk))
        if (error !== undefined) {
          told++
          expect(error).toMatchObject({ code: "io", cause })
          await work(disk)
        }
        note(model, DurableModel.flushed(model))
      }
      const closing = await errorOf(() => disk.close())
      if (closing === undefined) {
        expect(model.firstDifferenceOf(openInMemory(file.clone(), options)), `read ${at}`).toBe(-1)
      }
      if (failures === 0) {
        expect(at).toBeGreaterThan(10)
        return
      }
      // Read ahead is nobody's.
      expect(told + (closing === undefined ? 0 : 1), `read ${at}`).toBeLessThanOrEqual(1)
    }
  })

  for (const duration of ["once", "for good"] as const) {
    it(`QC-WO-08 after an error at any write, sync or truncation, ${duration}, every flush fails, and reads go on`, async () => {
      for (let at = 1; ; at++) {
        const { file, options } = make()
        const model = modelOf(openInMemory(file.clone(), options))
        let durable = DurableModel.flushed(model)
        const source = new LateFile(file, new Rng(seed))
        const disk = await open(source, options)
        let [changes, failures] = [0, 0]
        source.failing = (call) => {
          if (call === "read" || call === "size") return undefined
          changes++
          if (duration === "once" ? changes !== at : changes < at) return undefined
          failures++
          return new BackingError("no-space", "the host is full", { path: "there" })
        }
        let isBroken = false
        for (const { work, note, flushes } of steps()) {
          const before = model.clone()
          note(model, durable)
          const error = await errorOf(() => work(disk))
          if (isBroken && flushes === true) expect(error, `call ${at}`).toMatchObject({ code: "no-space" })
          isBroken ||= error !== undefined
          if (error !== undefined) {
            expect(error.message, `call ${at}`).toContain("there: the host is full")
            // A request that failed has changed some of its bytes or none.
            const content = await contentOf(disk)
            expect(neitherOf(content, before, model), `call ${at}`).toBe(-1)
            model.write(content, 0)
          } else if (flushes === true) durable = DurableModel.flushed(model)
        }
        expect(model.firstDifference(await contentOf(disk), 0), `call ${at}`).toBe(-1)
        const closing = await errorOf(() => disk.close())
        expect(source.isClosed).toBe(true)
        if (failures === 0) {
          expect([at > 10, isBroken, closing]).toEqual([true, false, undefined])
          return
        }
        expect(closing?.message, `call ${at}`).toContain("the host is full")
        expectSound(file, options, durable, `call ${at}`)
      }
    })
  }
})

async function contentOf(disk: AwaitedDisk): Promise<Uint8Array> {
  const content = new Uint8Array(disk.size)
  await disk.pread(content, 0)
  return content
}

/** The first byte of `content` that is neither as in the one nor as in the other, or -1. */
function neitherOf(content: Uint8Array, one: FlatModel, other: FlatModel): number {
  const [first, second] = [one.read(0, content.length), other.read(0, content.length)]
  return content.findIndex((byte, offset) => byte !== first[offset] && byte !== second[offset])
}
