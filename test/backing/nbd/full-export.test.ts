/**
 * An image in a file that cannot grow beyond a size: a full one refuses what needs more room, as a full host does, and goes on with the
 * rest.
 */
import { describe, expect, it, onTestFinished } from "vitest"
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import { nbdSettings } from "../../../src/backing/nbd/client/options.ts"
import { parseNbdUri } from "../../../src/backing/nbd/client/uri.ts"
import { NbdFile } from "../../../src/backing/nbd/nbd-file.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { createQcow2, type CreateQcow2Options, MemoryFile, openDisk } from "../../../src/index.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { FakeServer, FakeTimer } from "./fake-server.ts"

const seed = seedFromEnvironment(91)

interface Full {
  readonly disk: VirtioBacking
  /** What is left when the disk has been closed. */
  readonly content: () => MemoryFile
}

const KINDS: readonly (readonly [string, (size: number, options: CreateQcow2Options) => Promise<Full>])[] = [
  ["an NBD export", async (size, options) => {
    const server = new FakeServer({ size })
    const image = new MemoryFile()
    createQcow2(image, options)
    server.content.set(image.bytes())
    server.stable.set(image.bytes())
    const host = { dial: server.dial, timer: new FakeTimer() }
    const file = new NbdFile(parseNbdUri("nbd://localhost/image"), nbdSettings("test", {}), host)
    onTestFinished(() => file.close())
    return { disk: await openDisk(file, { format: "qcow2" }), content: () => MemoryFile.from(server.content.slice()) }
  }],
  ["a MemoryFile with a largest size", async (largestSize, options) => {
    const file = new MemoryFile({ largestSize })
    createQcow2(file, options)
    return { disk: await openDisk(file, { format: "qcow2" }), content: () => MemoryFile.from(file.bytes()) }
  }],
]

/** What the write came to. */
async function outcome(work: void | Promise<void> | (() => void | Promise<void>)): Promise<string> {
  try {
    await (typeof work === "function" ? work() : work)
    return "done"
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    return error.code
  }
}

async function expectContent(content: MemoryFile, expected: Uint8Array): Promise<void> {
  expect(checkQcow2(content)).toMatchObject({ exitCode: 0, leaks: 0, corruptions: 0 })
  const disk = await openDisk(content, { format: "qcow2", readOnly: true })
  const back = new Uint8Array(expected.length)
  await disk.pread(back, 0)
  expect(Buffer.compare(back, expected)).toBe(0)
  await disk.close()
}

describe.each(KINDS)("an image in %s", (_kind, open) => {
  it("still works when it is full: allocated clusters are read and written, and freed ones are used again", async () => {
    const cluster = 4096
    const { disk, content } = await open(40 * cluster + 1000, { size: 100 * cluster, clusterSize: cluster })
    const expected = new Uint8Array(100 * cluster)
    const write = async (index: number, value: number): Promise<string> => {
      const data = new Uint8Array(cluster).fill(value)
      const result = await outcome(() => disk.pwrite(data, index * cluster))
      if (result === "done") expected.set(data, index * cluster)
      return result
    }
    let last = 0
    while ((await write(last, 1)) === "done") last++
    expect(last).toBeGreaterThan(30)
    expect(await write(last, 1)).toBe("no-space")
    expect(await write(last - 1, 2)).toBe("done")
    expect(await outcome(disk.flush?.())).toBe("done")
    await disk.discard?.(0, 4 * cluster)
    expected.fill(0, 0, 4 * cluster)
    expect(await outcome(disk.flush?.())).toBe("done")
    const again = await Promise.all([0, 1, 2, 3].map((index) => write(60 + index, 3)))
    expect(again.filter((result) => result === "done").length).toBeGreaterThanOrEqual(3)
    expect(await write(90, 1)).toBe("no-space")
    await disk.close()
    await expectContent(content(), expected)
  })

  it("whose size is not a multiple of its clusters is closed without an error", async () => {
    const { disk, content } = await open((1 << 20) + 1000, { size: 4 << 20 })
    const data = new Rng(1).bytes(300_000)
    await disk.pwrite(data, 0)
    expect(await outcome(disk.flush?.())).toBe("done")
    expect(await outcome(disk.close())).toBe("done")
    const expected = new Uint8Array(4 << 20)
    expected.set(data)
    await expectContent(content(), expected)
  })

  it.each(Array.from({ length: 8 }, (_, index) => seed + index))("loses nothing when writes find it full (SEED=%i)", async (own) => {
    const rng = new Rng(own)
    const clusterSize = rng.pick([512, 1024, 4096])
    const size = 512 * rng.between(600, 2000)
    const { disk, content } = await open(rng.between(80_000, Math.floor(size * 0.6)), {
      size, clusterSize, refcountBits: rng.pick([16, 64]),
    })
    const expected = new Uint8Array(size)
    const outcomes = new Map<string, number>()
    for (let step = 0; step < 250; step++) {
      const length = 512 * rng.between(1, 32)
      const offset = 512 * rng.below((size - length) / 512 + 1)
      const roll = rng.below(20)
      if (roll < 13) {
        const data = rng.bytes(length)
        const result = await outcome(() => disk.pwrite(data, offset))
        outcomes.set(result, (outcomes.get(result) ?? 0) + 1)
        // A write that fails may have changed a part of its range: the guest does not know which.
        if (result !== "done") await disk.pread(data, offset)
        expected.set(data, offset)
      } else if (roll < 16) {
        if ((await outcome(disk.discard?.(offset, length))) === "done") await disk.pread(expected.subarray(offset, offset + length), offset)
      } else if (roll < 18) {
        expect(await outcome(disk.flush?.())).toBe("done")
      } else {
        const data = new Uint8Array(length)
        await disk.pread(data, offset)
        expect(Buffer.compare(data, expected.subarray(offset, offset + length))).toBe(0)
      }
    }
    expect([...outcomes.keys()].sort()).toEqual(["done", "no-space"])
    expect(await outcome(disk.flush?.())).toBe("done")
    await disk.close()
    await expectContent(content(), expected)
  })
})

it("an invalid largest size is refused", () => {
  expect(() => new MemoryFile({ largestSize: -1 })).toThrow(RangeError)
  expect(() => new MemoryFile({ largestSize: 1.5 })).toThrow(RangeError)
})
