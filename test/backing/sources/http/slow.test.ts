/** Servers that are slow: how long httpFile waits for them. All time is the clock's of the test. */
import { describe, expect, it } from "vitest"
import type { BackingError } from "../../../../src/backing/backing.ts"
import { HttpFile } from "../../../../src/backing/sources/http/http-file.ts"
import type { HttpFetch, HttpResponse } from "../../../../src/backing/sources/http/types.ts"
import { FakeClock } from "./test-server.ts"

const SIZE = 4 << 20
const HEAD = 65_536

/** What a server does with a request behind the head of the file: `pieces` of so many bytes, one each `pause` ms. */
interface Slowness {
  readonly piece: number
  readonly pause: number
  /** Bytes of one answer. Default: all that is asked for. */
  readonly answer?: number
}

class SlowServer {
  readonly clock = new FakeClock(0)
  requests = 0
  readonly #slowness: Slowness

  constructor(slowness: Slowness) {
    this.#slowness = slowness
  }

  readonly fetch: HttpFetch = async (_, { headers, signal }) => {
    const [, first = NaN, last = NaN] = (/^bytes=(\d+)-(\d+)$/.exec(headers["Range"] ?? "") ?? []).map(Number)
    if (first === 0) return answerOf(first, HEAD, async () => HEAD)
    this.requests++
    const { piece, pause, answer = SIZE } = this.#slowness
    const aborted = new Promise<never>((_resolve, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))))
    return answerOf(first, Math.min(last - first + 1, answer), async (left) => {
      await Promise.race([aborted, new Promise<void>((resolve) => this.clock.after(pause, resolve))])
      return Math.min(left, piece)
    })
  }

  /** Reads `length` bytes while time passes. Resolves to how it ended, and after how many seconds. */
  async read(length: number): Promise<{ readonly end: number | string; readonly seconds: number }> {
    const file = new HttpFile("http://slow/disk.img", { fetch: this.fetch }, this.clock)
    const start = this.clock.now()
    let end: number | string | undefined
    void file.read(new Uint8Array(length), HEAD).then(
      (count) => { end = count },
      (error: BackingError) => { end = `${error.code}: ${error.message}` },
    )
    while (end === undefined) {
      // All that can be done without time passing is done first.
      await new Promise((resolve) => setImmediate(resolve))
      this.clock.advance(500)
    }
    await file.close()
    return { end, seconds: Math.round((this.clock.now() - start) / 1000) }
  }
}

/** An answer of `length` bytes, of which `next` says how many come now. */
function answerOf(first: number, length: number, next: (left: number) => Promise<number>): HttpResponse {
  let left = length
  const read = async (): Promise<{ done: boolean; value?: Uint8Array }> => {
    if (left === 0) return { done: true }
    const count = await next(left)
    left -= count
    return { done: false, value: new Uint8Array(count) }
  }
  return {
    status: 206, redirected: false, type: "basic", url: "", body: { getReader: () => ({ read, cancel: async () => undefined }) },
    headers: new Headers({ "Content-Range": `bytes ${first}-${first + length - 1}/${SIZE}`, ETag: '"v1"' }),
  }
}

describe("a slow server", () => {
  it("that sends a byte every 29 s fails a read after a few tries", async () => {
    const server = new SlowServer({ piece: 1, pause: 29_000 })
    const { end, seconds } = await server.read(1000)
    expect(end).toBe("io: http://slow/disk.img: the server sends less than 16 KiB a second (after 6 tries)")
    // Six times 30 s, and the delays between.
    expect(seconds).toBeLessThan(220)
    expect(server.requests).toBe(6)
  })

  it("that sends a byte every 29 s, each as an answer of its own, fails a read as soon", async () => {
    const { end, seconds } = await new SlowServer({ piece: 1, pause: 29_000, answer: 1 }).read(1000)
    expect(end).toBe("io: http://slow/disk.img: the server sends less than 16 KiB a second (after 6 tries)")
    expect(seconds).toBeLessThan(220)
  })

  it("that sends nothing fails a read by the timeout, not by its rate", async () => {
    const { end } = await new SlowServer({ piece: 1, pause: 1e9 }).read(1000)
    expect(end).toBe("io: http://slow/disk.img: the server sent nothing for 30 s (after 6 tries)")
  })

  it("that sends 16 KiB a second may take as long as it needs", async () => {
    const server = new SlowServer({ piece: 8192, pause: 500 })
    const { end, seconds } = await server.read(2 << 20)
    expect([end, server.requests]).toEqual([2 << 20, 1])
    expect(seconds).toBeGreaterThan(100)
  })

  it("that is slower still finishes after several tries, which keep what has arrived", async () => {
    const server = new SlowServer({ piece: 5000, pause: 1000 })
    expect((await server.read(1 << 20)).end).toBe(1 << 20)
    expect(server.requests).toBe(4)
  })
})

describe("a fetch of the user's own that ignores its signal", () => {
  const never = new Promise<never>(() => undefined)
  const silent: HttpFetch = async (_, { headers }) => {
    const isHead = headers["Range"] === "bytes=0-65535"
    return answerOf(isHead ? 0 : HEAD, isHead ? HEAD : 1000, () => (isHead ? Promise.resolve(HEAD) : never))
  }
  const kinds: readonly (readonly [string, HttpFetch])[] = [["does not answer", () => never], ["sends no body", silent]]

  it.each(kinds)("and %s delays a read by the timeout at most, and none after closing", async (_, fetch) => {
    const clock = new FakeClock(30_000)
    const outcome = (file: HttpFile): Promise<string> =>
      file.read(new Uint8Array(1000), HEAD).then(() => "read", ({ code, message }: BackingError) => `${code}: ${message}`)
    const late = outcome(new HttpFile("http://deaf/disk.img", { fetch, retries: 0 }, clock))
    for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
    clock.advance(30_000)
    expect(await late).toBe("io: http://deaf/disk.img: the server sent nothing for 30 s")
    const closing = new HttpFile("http://deaf/disk.img", { fetch, retries: 0 }, clock)
    const closed = outcome(closing)
    for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
    await closing.close()
    expect(await closed).toBe("closed: http://deaf/disk.img: the file is closed")
  })
})
