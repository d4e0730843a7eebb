/** Long sequential reads bypass the pages: they come from the source's stream. */
import { afterEach, describe, expect, it } from "vitest"
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import type { BackingError } from "../../../src/backing/backing.ts"
import { openDisk } from "../../../src/backing/open-disk-on-node.ts"
import { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import { PagedFile } from "../../../src/backing/paging/paged-file.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { HttpFile } from "../../../src/backing/sources/http/http-file.ts"
import type { HttpFetch } from "../../../src/backing/sources/http/types.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { FakeClock } from "../sources/http/test-server.ts"

const MIB = 1 << 20
const KIB = 1 << 10
const SIZE = 24 * MIB + 512
const SEED = seedFromEnvironment(20_261_127)
/** Each word tells where it is. */
const CONTENT = new Uint8Array(new Uint32Array(SIZE / 4).map((_, index) => Math.imul(index, 0x9e37_79b1)).buffer)

interface ServerOptions {
  readonly size?: number
  /** Bytes of the next piece; 0 breaks the answer off. */
  readonly piece?: () => number
}

/** Answers to Range requests, without a network. Counts them, and what is read of them. */
class Server {
  readonly ranges: string[] = []
  sent = 0
  /** While true nothing more comes. */
  isStalled = false
  readonly #stalled: (() => void)[] = []
  readonly #options: ServerOptions

  constructor(options: ServerOptions = {}) {
    this.#options = options
  }

  resume(): void {
    this.isStalled = false
    for (const wake of this.#stalled.splice(0)) wake()
  }

  readonly fetch: HttpFetch = async (_, { headers, signal }) => {
    const { size = SIZE, piece = () => 60_000 } = this.#options
    const text = headers["Range"] ?? ""
    this.ranges.push(text)
    const [, first = NaN, last = NaN] = (/^bytes=(\d+)-(\d+)$/.exec(text) ?? []).map(Number)
    const end = Math.min(last + 1, size)
    let at = first
    const read = async (): Promise<{ done: boolean; value?: Uint8Array }> => {
      if (this.isStalled) await new Promise<void>((resolve) => this.#stalled.push(resolve))
      const length = piece()
      if (signal.aborted || length === 0) throw new Error("the connection is lost")
      if (at === end) return { done: true }
      const value = CONTENT.slice(at, Math.min(end, at + length))
      at += value.length
      this.sent += value.length
      return { done: false, value }
    }
    return {
      status: 206, redirected: false, type: "basic", url: "", body: { getReader: () => ({ read, cancel: async () => undefined }) },
      headers: new Headers({ "Content-Range": `bytes ${first}-${end - 1}/${size}`, ETag: '"v1"' }),
    }
  }
}

interface Open {
  readonly disk: AwaitedDisk
  readonly pages: PagedFile
  readonly clock: FakeClock
}

const disks: AwaitedDisk[] = []

afterEach(async () => {
  for (const disk of disks.splice(0)) await disk.close()
})

async function over(source: AsyncImageFile, cacheSize = 8 * MIB): Promise<Omit<Open, "clock">> {
  const pages = await PagedFile.open(source, { cacheSize })
  const disk = new AwaitedDisk(new RawBacking(pages), [pages])
  disks.push(disk)
  return { disk, pages }
}

/** A stretch begins after 2 MiB. */
async function open(server: Server, options: { readonly maxParallel?: number; readonly cacheSize?: number } = {}): Promise<Open> {
  const clock = new FakeClock(1000)
  const { cacheSize, ...http } = options
  const file = new HttpFile("http://far/disk.img", { fetch: server.fetch, ...http }, clock, 2 * MIB)
  return { ...await over(file, cacheSize), clock }
}

async function check(disk: AwaitedDisk, offset: number, length: number): Promise<void> {
  const buffer = new Uint8Array(length).fill(0xee)
  await disk.pread(buffer, offset)
  if (Buffer.compare(buffer, CONTENT.subarray(offset, offset + length)) !== 0) throw new Error(`wrong bytes in ${offset}+${length}`)
}

async function checkInOrder(disk: AwaitedDisk, { from, to, step }: { from: number; to: number; step: number }): Promise<void> {
  for (let at = from; at < to; at += step) await check(disk, at, Math.min(step, to - at))
}

describe("long reads in order", () => {
  it.each([
    128 * KIB, 384 * KIB, MIB, 5 * MIB,
  ])("of %i bytes leave no pages and fetch no byte twice, up to the end of the file", async (step) => {
    const server = new Server()
    const { disk, pages } = await open(server)
    const half = Math.ceil((12 * MIB) / step) * step
    await checkInOrder(disk, { from: 0, to: half, step })
    const before = pages.cachedBytes
    await checkInOrder(disk, { from: half, to: SIZE, step })
    // The last read may be a short one.
    expect(pages.cachedBytes - before).toBeLessThanOrEqual(128 * KIB)
    expect(server.sent).toBeLessThan(SIZE + 512 * KIB)
  })

  it.each([128, 384, 640, 1024])("of %i KiB read nothing ahead once the stream runs, and are answered from it", async (step) => {
    const server = new Server()
    const { disk } = await open(server)
    let requests = 0
    for (let at = 0; at < 20 * MIB; at += step * KIB) {
      await check(disk, at, step * KIB)
      if (at < 12 * MIB) requests = server.ranges.length
      // What the reader has not read waits at the server.
      else expect(server.sent).toBeLessThan(at + step * KIB + 60_000 + 64 * KIB)
    }
    expect(server.ranges.length).toBe(requests)
  })

  it("begin a new stream when the last one has ended for lack of readers", async () => {
    const server = new Server()
    const { disk, pages, clock } = await open(server)
    await checkInOrder(disk, { from: 0, to: 12 * MIB, step: MIB })
    const [requests, cached] = [server.ranges.length, pages.cachedBytes]
    clock.advance(1000)
    for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
    await checkInOrder(disk, { from: 12 * MIB, to: 16 * MIB, step: 256 * KIB })
    expect(server.ranges.slice(requests)).toEqual([`bytes=${12 * MIB}-${SIZE - 1}`])
    expect(pages.cachedBytes).toBe(cached)
  })

  it("by a slow reader begin no stream, which would end before the next read", async () => {
    const server = new Server()
    const { disk, clock } = await open(server)
    await checkInOrder(disk, { from: 0, to: 2 * MIB, step: MIB })
    const requests = server.ranges.length
    for (let at = 2 * MIB; at < 6 * MIB; at += 128 * KIB) {
      await check(disk, at, 128 * KIB)
      clock.advance(1000)
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
    }
    expect(server.ranges.slice(requests).filter((range) => range.endsWith(`-${SIZE - 1}`)).length).toBeLessThanOrEqual(3)
  })

  it("go through pages that are read ahead if they begin inside a page, are short, or come over one request at a time", async () => {
    for (const { start, step, maxParallel } of [
      { start: 512, step: MIB, maxParallel: 6 }, { start: 0, step: 4096, maxParallel: 6 }, { start: 0, step: MIB, maxParallel: 1 },
    ]) {
      const server = new Server()
      const { disk } = await open(server, { maxParallel })
      await checkInOrder(disk, { from: start, to: 12 * MIB, step })
      expect(server.sent).toBeGreaterThan(13 * MIB)
      expect(server.ranges.length).toBeLessThan(40)
    }
  })

  it.each(Array.from({ length: 12 }, (_, index) => SEED + index))(
    "give the right bytes beside other readers while the server breaks off now and then (SEED=%i)", async (seed) => {
      const rng = new Rng(seed)
      const server = new Server({ piece: () => (rng.chance(0.004) ? 0 : rng.pick([1, 777, 16_384, 65_536, 300_000])) })
      const { disk } = await open(server, { cacheSize: rng.pick([16 * KIB, MIB, 8 * MIB]), maxParallel: rng.pick([1, 2, 6]) })
      const inOrder = async (): Promise<void> => {
        let at = rng.pick([0, 0, MIB, 3 * MIB + 512])
        while (at < SIZE) {
          const steps = Array.from({ length: rng.pick([1, 1, 1, 3]) }, () => {
            const [from, count] = [at, Math.min(SIZE - at, rng.pick([4096, 65_536, 262_144, MIB, MIB, MIB, 3 * MIB]))]
            at += count
            return count === 0 ? undefined : check(disk, from, count)
          })
          await Promise.all(steps)
        }
      }
      const elsewhere = async (): Promise<void> => {
        for (let index = 0; index < 30; index++) {
          const offset = rng.below(SIZE / 512) * 512
          await check(disk, offset, Math.min(SIZE - offset, rng.pick([512, 4096, 262_144, 2 * MIB])))
        }
      }
      await Promise.all([inOrder(), rng.chance(0.5) ? inOrder() : undefined, elsewhere()])
    })
})

describe("a long read in order", () => {
  it("rejects when the disk is closed, and its buffer does not change from then on", async () => {
    const server = new Server({ piece: () => 10_000 })
    const { disk } = await open(server)
    await checkInOrder(disk, { from: 0, to: 12 * MIB, step: MIB })
    server.isStalled = true
    const buffer = new Uint8Array(MIB)
    const failure = Promise.resolve(disk.pread(buffer, 12 * MIB)).then(() => "none", (error: BackingError) => {
      buffer.fill(0x55)
      // The next piece arrives in the same turn of the event loop.
      server.resume()
      return error.code
    })
    const closed = disk.close()
    server.resume()
    expect(await failure).toBe("closed")
    await closed
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve))
    expect(buffer.every((byte) => byte === 0x55)).toBe(true)
  })

  it("into a buffer that is detached meanwhile fails alone: the stream goes on, and no byte is requested again", async () => {
    const server = new Server({ piece: () => 10_000 })
    const { disk } = await open(server)
    await checkInOrder(disk, { from: 0, to: 12 * MIB, step: MIB })
    const requests = server.ranges.length
    const buffer = new Uint8Array(MIB)
    const failure = Promise.resolve(disk.pread(buffer, 12 * MIB)).then(() => "none", (error: unknown) => error)
    const next = check(disk, 13 * MIB, MIB)
    structuredClone(buffer, { transfer: [buffer.buffer] })
    expect(await failure).toBeInstanceOf(TypeError)
    await next
    expect(server.ranges.length).toBe(requests)
  })

  it("fails if the source's stream is too long, too short, or throws", async () => {
    const piece = new Uint8Array(MIB)
    const wrong: Readonly<Record<string, NonNullable<AsyncImageFile["readFlow"]>>> = {
      "too much": async (_, length, take) => {
        take(piece)
        take(piece)
        return length
      },
      "too little": async (_, length, take) => {
        take(piece.subarray(0, 512))
        return length
      },
      rejects: () => Promise.reject(new Error("no more")),
      throws: () => {
        throw new Error("no more")
      },
    }
    for (const [name, readFlow] of Object.entries(wrong)) {
      const source: AsyncImageFile = {
        path: "source", readOnly: true, flowsFrom: 0, readFlow,
        size: async () => 4 * MIB, read: async (buffer) => buffer.length, close: async () => undefined,
      }
      const { disk } = await over(source)
      const failure = await Promise.resolve(disk.pread(new Uint8Array(MIB), 0)).then(() => "none", (error: BackingError) => error.code)
      expect(failure, name).toBe("io")
    }
  })

  it("of a writable file goes through the pages, which hold what the source does not have yet", async () => {
    const source: AsyncImageFile = {
      path: "source", readOnly: false, flowsFrom: 0, readFlow: () => Promise.reject(new Error("was asked")),
      size: async () => 4 * MIB, read: async (buffer) => buffer.fill(1).length, close: async () => undefined,
      write: () => new Promise(() => undefined), truncate: async () => undefined, sync: async () => undefined,
    }
    const pages = await PagedFile.open(source)
    const disk = new AwaitedDisk(new RawBacking(pages), [pages])
    await disk.pwrite(new Uint8Array(MIB).fill(2), 0)
    const buffer = new Uint8Array(2 * MIB)
    await disk.pread(buffer, 0)
    expect([buffer[0], buffer[MIB - 1], buffer[MIB]]).toEqual([2, 2, 1])
  })

  it("uses the stream through openDisk as well", async () => {
    const server = new Server()
    const file = new HttpFile("http://far/disk.img", { fetch: server.fetch }, new FakeClock(1000), 2 * MIB)
    const disk = await openDisk(file, { format: "raw" })
    const buffer = new Uint8Array(MIB)
    for (let at = 0; at < 20 * MIB; at += MIB) {
      await disk.pread(buffer, at)
      expect(Buffer.compare(buffer, CONTENT.subarray(at, at + MIB))).toBe(0)
    }
    expect(server.sent).toBeLessThan(20 * MIB + 128 * KIB)
    await disk.close()
  })
})
