/** Stream: the disk stands on its own afterwards, and what a guest writes meanwhile stays. */
import { describe, expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { streamDisk } from "../../../src/backing/operations/stream.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { Chain, fails, layerName } from "./chains.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { applyOperation, type Operation, randomOperation } from "../../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(701)
const ROUNDS = Number(process.env["ROUNDS"] ?? 4)
const SIZES = [100, 400] as const

/** The image as the next opening finds it, over what its header names. */
function reopened(chain: Chain): Qcow2Image {
  return openInMemory(chain.copyOf(), { openBacking: ({ name }) => chain.open(Number(name.slice(5)), { writable: [] }) })
}

/** What a guest does between two steps. */
function guest(disk: Qcow2Image, model: FlatModel, rng: Rng): () => void {
  return () => {
    for (let count = rng.below(3); count > 0; count--) {
      applyOperation(disk, model, randomOperation(rng, { size: disk.size, longest: 6000 }), "anything")
    }
  }
}

describe("stream", () => {
  for (let round = 0; round < ROUNDS; round++) {
    it(`a guest that writes at every step reads back what it wrote, also when the stream is done (seed ${seed + round})`, async () => {
      const rng = new Rng(seed + round)
      const chain = Chain.random(rng, { layers: rng.between(2, 4), sizes: SIZES })
      const model = chain.model()
      const image = chain.openTop()
      const base = rng.chance(0.4) && chain.top > 1 ? rng.below(chain.top) : -1
      await streamDisk(image, { ...(base < 0 ? {} : { base: layerName(base) }), progress: guest(image, model, rng) })
      for (let count = 0; count < 10; count++) guest(image, model, rng)()
      expect(model.firstDifferenceOf(image)).toBe(-1)
      image.close()
      expect(checkQcow2(chain.copyOf()).findings).toEqual([])
      const again = reopened(chain)
      expect(model.firstDifferenceOf(again)).toBe(-1)
      const name = again.header.backingFile
      expect(name === undefined ? undefined : new TextDecoder().decode(name)).toBe(base < 0 ? undefined : layerName(base))
    })
  }

  it("a stop at any step leaves the disk as the guest knows it, and the next stream completes it", async () => {
    const rng = new Rng(seed + 100)
    const chain = Chain.random(rng, { layers: 3, sizes: [300, 400], top: { clusterSize: 4096 } })
    const model = chain.model()
    const image = chain.openTop()
    const write = guest(image, model, rng)
    const reason = new Error("enough")
    let stops = 0
    for (let most = 1; image.backing !== undefined; most++) {
      let steps = 0
      const signal = { get aborted() { return steps >= most }, reason }
      const progress = (): void => {
        steps++
        write()
      }
      await streamDisk(image, { signal: signal as never, progress }).catch((error: unknown) => {
        expect(error).toBe(reason)
        stops++
      })
      expect(model.firstDifferenceOf(image)).toBe(-1)
    }
    expect(stops).toBeGreaterThan(1)
    image.close()
    expect(model.firstDifferenceOf(openInMemory(chain.copyOf()))).toBe(-1)
  })

  for (const [code, failing] of [["io", 1], ["no-space", 1], ["io", 0]] as const) {
    it(`a failing call (${code}) of the ${failing === 1 ? "disk" : "image behind it"} is made good by the next stream`, async () => {
      const made = Chain.random(new Rng(seed + 200), { layers: 2, sizes: [64, 100], top: { clusterSize: 1024, size: 60 << 10 } })
      const before = made.model()
      for (let at = 1, failed = true; failed; at += 1 + Math.floor(at / 3)) {
        const chain = made.clone()
        const file = new FailingFile(chain.fileOf(failing))
        const image = chain.openTop({ writable: [0, 1], fileOf: (index) => (index === failing ? file : chain.fileOf(index)) })
        const calls = code === "io" ? ["write", "truncate", "sync", "read"] as const : ["write", "truncate"] as const
        file.plan = { at, code, calls, duration: code === "io" ? "once" : "for-good", partial: 0.5 }
        failed = await fails(() => streamDisk(image), code)
        file.plan = undefined
        expect(before.firstDifferenceOf(image)).toBe(-1)
        if (failed) await streamDisk(image)
        image.close()
        expect(before.firstDifferenceOf(openInMemory(chain.copyOf()))).toBe(-1)
      }
    })
  }

  it("copies no faster than `rate`, and heeds the signal while it waits", async () => {
    const base = MemoryFile.of(new Rng(seed).bytes(2 << 20), { path: "layer0" })
    const top = new MemoryFile({ path: "layer1" })
    createQcow2(top, { size: 2 << 20, backing: "layer0", backingFormat: "raw" })
    const chain = new Chain([{ format: "raw", file: base }, { format: "qcow2", file: top }])
    let time = 0
    const clock = {
      now: () => time,
      sleep: async (ms: number) => {
        time += ms
      },
    }
    const reason = new Error("enough")
    const image = chain.openTop()
    const signal = { get aborted() { return time >= 150 }, reason }
    await expect(streamDisk(image, { rate: 1 << 20, clock, signal: signal as never })).rejects.toBe(reason)
    expect(time).toBeLessThan(300)
    expect(owned(image)).toBe(1 << 19)
    time = 0
    await streamDisk(image, { rate: 1 << 20, clock })
    // The rest, at 1 MiB a second.
    expect(Math.round(time)).toBe(1500)
  })

  it("works over files that answer late, under a guest's requests", async () => {
    const rng = new Rng(seed + 400)
    const chain = Chain.random(rng, { layers: 3, sizes: [200, 300], top: { clusterSize: 1024 } })
    const model = chain.model()
    const files = chain.layers.map((_, index) => lateFile(chain.fileOf(index), index === chain.top))
    const disk = await openDisk(files[2] as AsyncImageFile, {
      backing: ({ name }) => files[Number(name.slice(5))] as AsyncImageFile, pageCacheSize: 1,
    })
    const pending: Promise<unknown>[] = []
    await streamDisk(disk, {
      progress: () => {
        const operation = randomOperation(rng, { size: disk.size, longest: 4000 })
        if (operation.kind === "write") {
          pending.push(Promise.resolve(disk.pwrite(operation.data, operation.offset)))
          model.write(operation.data, operation.offset)
        } else if (operation.kind === "read") pending.push(readBack(disk, operation))
      },
    })
    await Promise.all(pending)
    const content = new Uint8Array(disk.size)
    await disk.pread(content, 0)
    expect(model.firstDifference(content, 0)).toBe(-1)
    await disk.close()
    const alone = openInMemory(chain.copyOf())
    expect(alone.header.backingFile).toBe(undefined)
    expect(model.firstDifferenceOf(alone)).toBe(-1)
  })

  it("a snapshot that is applied meanwhile undoes nothing of it, and one that stays keeps its content", async () => {
    for (const stays of [false, true]) {
      const chain = Chain.random(new Rng(seed + 600), { layers: 2, sizes: [2000, 2000], top: { clusterSize: 4096 } })
      const before = chain.model()
      const image = chain.openTop()
      image.discard(0, 4096)
      before.zero(0, 4096)
      let steps = 0
      const progress = (): void => {
        steps++
        if (steps === 1) image.snapshots.create({ name: "s" })
        if (steps === 4 && !stays) {
          image.snapshots.apply("s")
          image.snapshots.delete("s")
        }
      }
      const streamed = streamDisk(image, { progress })
      await streamed
      expect(steps).toBeGreaterThan(4)
      expect(image.backing).toBe(undefined)
      expect(before.firstDifferenceOf(image)).toBe(-1)
      image.close()
      const again = reopened(chain)
      expect(before.firstDifferenceOf(again)).toBe(-1)
      if (stays) expect(before.firstDifferenceOf(again.snapshots.open("s"))).toBe(-1)
    }
  })

  it("QC-SNAP-06 QC-SNAP-11 a snapshot that takes over the id of a deleted one keeps its content", async () => {
    const base = MemoryFile.of(new Rng(seed).bytes(64 << 10), { path: "layer0" })
    const file = new MemoryFile({ path: "layer1" })
    createQcow2(file, { size: 64 << 10, clusterSize: 4096, backing: "layer0", backingFormat: "raw" })
    const chain = new Chain([{ format: "raw", file: base }, { format: "qcow2", file }])
    const before = chain.model()
    const image = chain.openTop()
    image.snapshots.create({ name: "one" })
    let time = 0
    const clock = {
      now: () => time,
      sleep: async (ms: number) => {
        // The only snapshot has taken over all of its disk.
        if (time === 0) {
          image.snapshots.delete("one")
          image.snapshots.create({ name: "another" })
        }
        time += ms
      },
    }
    await streamDisk(image, { rate: 1 << 20, clock })
    expect(time).toBeGreaterThan(0)
    image.close()
    const again = reopened(chain)
    expect([before.firstDifferenceOf(again), before.firstDifferenceOf(again.snapshots.open("another"))]).toEqual([-1, -1])
  })

  it("is refused for a disk that cannot be streamed", async () => {
    const chain = Chain.random(new Rng(seed + 500), { layers: 2, sizes: SIZES })
    await expect(streamDisk(chain.openTop({ writable: [] }))).rejects.toThrow(/open for writing/)
    await expect(streamDisk(chain.openTop(), { base: "elsewhere" })).rejects.toThrow(/not in its chain/)
    await expect(streamDisk(chain.open(0) as Qcow2Image, { rate: 0 })).rejects.toThrow(RangeError)
    await expect(streamDisk({ size: 3 } as never)).rejects.toThrow(TypeError)
  })
})

function readBack(
  disk: { pread(buffer: Uint8Array, offset: number): void | Promise<void> },
  operation: Extract<Operation, { kind: "read" }>,
): Promise<unknown> {
  return Promise.resolve(disk.pread(new Uint8Array(operation.length), operation.offset))
}

/** Guest bytes that the image holds itself. */
function owned(image: Qcow2Image): number {
  return [...image.map(0, image.size)].filter(({ kind }) => kind !== "backing").reduce((sum, { length }) => sum + length, 0)
}

/** Answers each call after a turn of the event loop. */
function lateFile(file: MemoryFile, isWritable: boolean): AsyncImageFile {
  const later = async <T>(work: () => T): Promise<T> => {
    await new Promise((resolve) => setImmediate(resolve))
    return work()
  }
  return {
    path: file.path,
    readOnly: !isWritable,
    size: () => later(() => file.size()),
    read: (buffer, offset) => later(() => file.read(buffer, offset)),
    ...(isWritable ? {
      write: (buffer: Uint8Array, offset: number) => later(() => file.write(buffer, offset)),
      truncate: (size: number) => later(() => file.truncate(size)),
      sync: () => later(() => file.sync()),
    } : {}),
    close: () => later(() => undefined),
  }
}
