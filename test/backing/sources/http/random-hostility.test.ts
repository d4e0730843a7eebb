/**
 * httpFile against a server that does anything at any time, and reads of every kind, under a clock that runs: each read gives the file's
 * bytes or fails with a `BackingError`, all come to an end, closing too, and no rejection is left to nobody.
 */
import { afterEach, beforeEach, expect, it } from "vitest"
import { openDisk } from "../../../../src/backing/open-disk-on-node.ts"
import { BackingError } from "../../../../src/backing/backing.ts"
import { HttpFile } from "../../../../src/backing/sources/http/http-file.ts"
import type { HttpFetch, HttpRequestInit, HttpResponse } from "../../../../src/backing/sources/http/types.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"
import { FakeClock } from "./test-server.ts"

const MIB = 1 << 20
const SIZE = 9 * MIB + 4321
const CONTENT = new Uint8Array(SIZE)
for (let at = 0; at < SIZE; at++) CONTENT[at] = (at * 13 + (at >> 9) * 5 + (at >> 17)) & 0xff
/** The file as another version of it. */
const OTHER = CONTENT.map((byte) => byte ^ 1)
const seed = seedFromEnvironment(20_261_126)

const unhandled: unknown[] = []
const note = (reason: unknown): void => void unhandled.push(reason)
beforeEach(() => void process.on("unhandledRejection", note))
afterEach(() => {
  process.off("unhandledRejection", note)
  expect(unhandled.splice(0)).toEqual([])
})

/** How a body goes wrong, if it does, once `after` bytes have come. */
interface Trouble {
  readonly kind: "none" | "ends" | "breaks" | "stalls" | "goes on" | "drips"
  readonly after: number
}

/** Answers one in `calm` requests in any way, and the others as it should. */
class HostileServer {
  readonly clock = new FakeClock(0)
  readonly #rng: Rng
  readonly #calm: number
  #last: HttpResponse | undefined

  constructor(rng: Rng, calm: number) {
    this.#rng = rng
    this.#calm = calm
  }

  readonly fetch: HttpFetch = (_, init) => {
    const rng = this.#rng
    if (rng.below(this.#calm) > 0) return Promise.resolve(this.#answer(init, {}))
    switch (rng.below(12)) {
      case 0: throw new Error("thrown at once")
      case 1: return Promise.reject(new TypeError("rejected"))
      case 2: return new Promise(() => undefined)
      case 3: return Promise.resolve(this.#last ?? this.#answer(init, {}))
      case 4: return Promise.resolve(this.#answer(init, { status: [200, 404, 416, 500, 503, 429][rng.below(6)] ?? 500 }))
      case 5: return Promise.resolve(this.#answer(init, { etag: '"v2"' }))
      case 6: return Promise.resolve(this.#answer(init, { shift: rng.below(3) - 1, total: SIZE + rng.below(2) }))
      case 7: return Promise.resolve(this.#answer(init, { most: 1 + rng.below(100_000) }))
      default: {
        const kinds = ["ends", "breaks", "stalls", "goes on", "drips"] as const
        return Promise.resolve(
          this.#answer(init, {
            trouble: { kind: kinds[rng.below(5)] ?? "ends", after: rng.below(rng.below(2) === 0 ? 3 * MIB : 100_000) },
          }),
        )
      }
    }
  }

  #answer(
    init: HttpRequestInit,
    how: {
      readonly status?: number; readonly etag?: string; readonly shift?: number; readonly total?: number; readonly most?: number
      readonly trouble?: Trouble
    },
  ): HttpResponse {
    const [, from = NaN, last = NaN] = (/^bytes=(\d+)-(\d+)$/.exec(init.headers["Range"] ?? "") ?? []).map(Number)
    const first = from + (how.shift ?? 0)
    const end = Math.min(last + 1, SIZE, from + (how.most ?? SIZE))
    const response: HttpResponse = {
      status: how.status ?? 206, redirected: false, type: "basic", url: "",
      headers: new Headers({ "Content-Range": `bytes ${first}-${end - 1}/${how.total ?? SIZE}`, ETag: how.etag ?? '"v1"' }),
      body: this.#body(init, { start: first, end }, how.trouble ?? { kind: "none", after: 0 }, how.etag === undefined ? CONTENT : OTHER),
    }
    this.#last = response
    return response
  }

  /** A stream as the platform's: it breaks off when the request is aborted, and can be read once. */
  #body(
    { signal }: HttpRequestInit, { start, end }: { readonly start: number; readonly end: number }, trouble: Trouble, content: Uint8Array,
  ): ReadableStream {
    let at = start
    return new ReadableStream({
      start: (controller) => signal.addEventListener("abort", () => controller.error(new Error("aborted"))),
      pull: async (controller) => {
        const isDue = trouble.kind !== "none" && at - start >= trouble.after
        if (isDue && trouble.kind === "breaks") return controller.error(new Error("connection reset"))
        if (isDue && trouble.kind === "ends") return controller.close()
        if (isDue && trouble.kind === "stalls") return new Promise(() => undefined)
        if (isDue && trouble.kind === "drips") await new Promise<void>((resolve) => this.clock.after(20_000, resolve))
        if (at === end && trouble.kind === "goes on") return controller.enqueue(new Uint8Array(1000))
        if (at >= end) return controller.close()
        const count = Math.min(end - at, isDue && trouble.kind === "drips" ? 1 : 1 + this.#rng.below(150_000))
        controller.enqueue(content.slice(at, at + count))
        at += count
      },
    }, { highWaterMark: 0 })
  }
}

/** Lets time pass until `work` has come to an end. */
async function whileTimePasses<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  let isOver = false
  const over = work.finally(() => { isOver = true })
  over.catch(() => undefined)
  for (let turn = 0; !isOver; turn++) {
    if (turn > 50_000) throw new Error("it does not come to an end")
    await new Promise((resolve) => setImmediate(resolve))
    if (turn % 4 === 3) clock.advance(2000)
  }
  return over
}

async function check(read: () => void | Promise<void>, buffer: Uint8Array, offset: number): Promise<"read" | "failed"> {
  try {
    await read()
  } catch (error) {
    expect(error).toBeInstanceOf(BackingError)
    return "failed"
  }
  expect(Buffer.compare(buffer, CONTENT.subarray(offset, offset + buffer.length))).toBe(0)
  return "read"
}

it.each(
  Array.from({ length: 16 }, (_, index) => seed + index),
)("random damage to answers gives right bytes or an error in bounded time (SEED=%i)", async (own) => {
  const rng = new Rng(own)
  const server = new HostileServer(rng, [2, 3, 5, 10][own % 4] ?? 5)
  const options = { fetch: server.fetch, maxParallel: 1 + rng.below(6), retries: rng.below(4) }
  const file = new HttpFile("http://hostile/disk.img", options, server.clock, 2 * MIB)
  const paged = new HttpFile("http://hostile/disk.img", options, server.clock, 2 * MIB)
  const opening = openDisk(paged, { format: "raw" }).catch((error: unknown) => {
    expect(error).toBeInstanceOf(BackingError)
  })
  const disk = await whileTimePasses(server.clock, opening)
  const outcomes: Promise<string>[] = []
  let next = 0
  for (let round = 0; round < 60; round++) {
    const isInOrder = rng.below(3) > 0
    const length = isInOrder ? MIB : 1 + rng.below(200_000)
    if (next + length > SIZE) next = 0
    const offset = isInOrder ? next : rng.below(SIZE - length)
    if (isInOrder) next = offset + length
    const buffer = new Uint8Array(length)
    const read = disk !== undefined && rng.below(8) === 0 ? disk.pread.bind(disk) : async (into: Uint8Array, at: number): Promise<void> => {
      expect(await file.read(into, at)).toBe(into.length)
    }
    outcomes.push(check(() => read(buffer, offset), buffer, offset))
    if (rng.below(3) === 0) await whileTimePasses(server.clock, Promise.all(outcomes))
  }
  // Now and then in the middle of it.
  if (rng.below(2) === 0) await whileTimePasses(server.clock, Promise.all(outcomes))
  await whileTimePasses(server.clock, Promise.all([disk?.close() ?? paged.close(), file.close()]))
  const results = await whileTimePasses(server.clock, Promise.all(outcomes))
  expect(results.filter((result) => result === "read").length).toBeGreaterThan(0)
})
