/** detectZeroes: zeroes that are written as data become zeroes of the disk; everything else is as without it. */
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { openQcow2 } from "../../src/backing/host/open-qcow2.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { openImage } from "../../src/backing/open.ts"
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { createImage } from "../../src/backing/create.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { detectZeroes } from "../../src/backing/zeroes/detect-zeroes.ts"
import type { OpenedDisk } from "../../src/backing/open-disk.ts"
import { streamDisk } from "../../src/backing/operations/stream.ts"
import { FlatModel } from "../support/flat-model.ts"
import { modelOf, openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { runOperations } from "../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { makeShape } from "../support/shapes.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { filled, newImage, newOverlay } from "./qcow2/small-images.ts"

const seed = seedFromEnvironment(47)
const SIZE = 1 << 20

function kindsOf(image: Qcow2Image): (string | number)[][] {
  return [...image.map(0, image.size)].map(({ offset, kind }) => [offset, kind])
}

/** A disk that notes the calls that change it. */
function noting(disk: VirtioBacking): { readonly disk: VirtioBacking; readonly calls: string[] } {
  const calls: string[] = []
  const noted: VirtioBacking = {
    size: disk.size,
    readOnly: disk.readOnly,
    pread: (buffer, offset) => disk.pread(buffer, offset),
    pwrite: (buffer, offset) => {
      calls.push(`write ${buffer.length} at ${offset}`)
      return disk.pwrite(buffer, offset)
    },
    writeZeroes: (offset, length, mayUnmap) => {
      calls.push(`zero ${length} at ${offset}${mayUnmap ? ", may unmap" : ""}`)
      return disk.writeZeroes?.(offset, length, mayUnmap)
    },
    close: () => disk.close(),
  }
  return { disk: noted, calls }
}

describe("detectZeroes", () => {
  it("zeroes take no cluster in a qcow2 image; with on, allocated clusters keep their place, with unmap they lose it", () => {
    for (const [mode, left] of [["on", ["zero", 65_536]], ["unmap", ["zero", undefined]]] as const) {
      const image = openQcow2(newImage({ size: SIZE }))
      const disk = detectZeroes(image, mode)
      disk.pwrite(filled(65_536, 1), 65_536)
      disk.pwrite(new Uint8Array(131_072), 0)
      disk.pwritev?.([new Uint8Array(65_536), filled(512, 2), new Uint8Array(65_024)], 262_144)
      expect(kindsOf(image)).toEqual([[0, "backing"], [65_536, "zero"], [131_072, "backing"], [327_680, "data"], [393_216, "backing"]])
      const [, zeroes] = [...image.map(0, SIZE)]
      expect([zeroes?.kind, zeroes?.hostOffset === undefined ? undefined : 65_536]).toEqual(left)
    }
  })

  it("zeroes hide the data of a backing image", () => {
    const { open } = newOverlay(filled(SIZE, 7), { size: SIZE })
    const image = open()
    detectZeroes(image, "unmap").pwrite(new Uint8Array(131_072), 0)
    expect(kindsOf(image)).toEqual([[0, "zero"], [131_072, "backing"]])
    const content = new Uint8Array(131_072).fill(9)
    image.pread(content, 0)
    expect(content.every((byte) => byte === 0)).toBe(true)
  })

  it("a write is split at multiples of 4 KiB; a write of data alone stays whole", () => {
    const { disk, calls } = noting(new MemoryBacking({ size: SIZE }))
    const detector = detectZeroes(disk, "on")
    const data = new Uint8Array(20_000)
    data[9000] = 1
    void detector.pwrite(data, 1000)
    void detector.pwrite(filled(20_000, 1), 1000)
    void detector.pwrite(new Uint8Array(512), 512)
    expect(calls).toEqual(["zero 7192 at 1000", "write 4096 at 8192", "zero 8712 at 12288", "write 20000 at 1000", "zero 512 at 512"])
  })

  it(`seed ${seed}: random operations over qcow2 and raw read back what the model holds`, () => {
    for (const mode of ["on", "unmap"] as const) {
      let [qcow2, raw] = [newImage({ size: 200_192, clusterSize: 4096 }), new MemoryFile()]
      raw.truncate(200_192)
      const openings = [
        () => openQcow2((qcow2 = qcow2.clone())), () => new RawBacking((raw = raw.clone())),
      ].map((open) => () => detectZeroes<VirtioBacking>(open(), mode))
      for (const open of openings) {
        runOperations({
          disk: open(),
          model: new FlatModel(200_192),
          rng: new Rng(seed),
          count: 60,
          limits: { size: 200_192, longest: 20_000 },
          discardRule: "anything",
          reopen: (old) => {
            void old.close()
            return open()
          },
        })
      }
    }
  })

  it("a disk that answers later gets one piece after the other; pwriteNow takes only data", async () => {
    const inner = new MemoryBacking({ size: SIZE })
    const { disk, calls } = noting(inner)
    const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
    const late: VirtioBacking = {
      ...disk,
      asynchronous: true,
      pwrite: async (buffer, offset) => (await turn(), disk.pwrite(buffer, offset)),
      writeZeroes: async (offset, length, mayUnmap) => (await turn(), disk.writeZeroes?.(offset, length, mayUnmap)),
      pwriteNow: () => true,
    }
    const detector = detectZeroes(late, "unmap")
    const data = new Uint8Array(12_288)
    data[5000] = 1
    await detector.pwrite(data, 0)
    expect(calls).toEqual(["zero 4096 at 0, may unmap", "write 4096 at 4096", "zero 4096 at 8192, may unmap"])
    expect(detector.pwriteNow?.([filled(8192, 1)], 0)).toBe(true)
    expect(detector.pwriteNow?.([new Uint8Array(4096)], 0)).toBe(false)
  })

  it("a disk that cannot write zeroes or is read-only, and any disk with mode off, is returned as it is", () => {
    const plain: VirtioBacking = { size: 512, readOnly: false, pread: () => undefined, pwrite: () => undefined, close: () => undefined }
    const memory = new MemoryBacking({ size: 512 })
    const readOnly = new MemoryBacking({ size: 512, readOnly: true })
    for (const [disk, mode] of [[plain, "on"], [memory, "off"], [readOnly, "on"]] as const) {
      expect(detectZeroes<VirtioBacking>(disk, mode)).toBe(disk)
    }
    // @ts-expect-error: not one of the words
    expect(() => detectZeroes(memory, "yes")).toThrow(TypeError)
    const { flush, allocation, preadInto, lifetime } = detectZeroes<VirtioBacking>(memory, "on")
    expect([flush, allocation, preadInto, lifetime].map((method) => typeof method)).toEqual(
      [memory.flush, memory.allocation, memory.preadInto, Reflect.get(memory, "lifetime")].map((method) => typeof method),
    )
  })

  it("openImage and openDisk take it as an option", async () => {
    const path = `${temporaryDirectory()}/disk.qcow2`
    createImage(path, { size: SIZE })
    const image = openImage(path, { detectZeroes: "unmap" })
    void image.pwrite(new Uint8Array(65_536), 0)
    void image.close()
    const plain = openImage(path)
    expect([...("map" in plain ? plain.map(0, SIZE) : [])].map(({ kind }) => kind)).toEqual(["backing"])
    plain.close()
    const disk = await openDisk(newImage({ size: SIZE }), { detectZeroes: "on" })
    await disk.pwrite(new Uint8Array(65_536), 0)
    expect([...await disk.map?.(0, SIZE) ?? []].map(({ kind }) => kind)).toEqual(["backing"])
  })

  it("an image keeps its size, snapshots and bitmaps, and can be streamed", async () => {
    const { file, opening } = makeShape({ name: "overlay", options: { clusterSize: 4096 }, backing: { share: 0.5, format: "raw" } }, SIZE)
    const image = openInMemory(file, opening)
    const model = modelOf(image)
    const disk = detectZeroes(image, "unmap") as OpenedDisk
    await disk.bitmaps?.add("changes")
    await disk.snapshots?.create({ name: "before" })
    await disk.pwrite(new Uint8Array(8192), 4096)
    await streamDisk(disk)
    expect(image.backing).toBe(undefined)
    await disk.resize?.(2 * SIZE)
    expect([disk.size, image.size]).toEqual([2 * SIZE, 2 * SIZE])
    await disk.snapshots?.apply("before")
    expect([image.size, model.firstDifferenceOf(image)]).toEqual([SIZE, -1])
    expect([...(await disk.bitmaps?.changed("changes") ?? [])]).toEqual([{ offset: 0, length: SIZE }])
  })
})
