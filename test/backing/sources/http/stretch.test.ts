/** httpFile read in order: one long request, as fast as reads come, and what becomes of it. */
import { afterEach, describe, expect, it } from "vitest"
import type { BackingError } from "../../../../src/backing/backing.ts"
import { HttpFile } from "../../../../src/backing/sources/http/http-file.ts"
import type { HttpFileOptions } from "../../../../src/backing/sources/http/options.ts"
import type { HttpFetch } from "../../../../src/backing/sources/http/types.ts"
import { FakeClock, TestServer } from "./test-server.ts"

const MIB = 1 << 20
const SIZE = 12 * MIB + 777
const HEAD = 65_536
const CONTENT = new Uint8Array(SIZE)
for (let at = 0; at < SIZE; at++) CONTENT[at] = (at * 7 + (at >> 8) * 3 + (at >> 16)) & 0xff

/** A server without a network, which sends pieces of so many bytes as `next` says. Counts what it is asked for. */
class PieceServer {
  requests = 0
  sent = 0
  readonly #next: (request: number) => number

  constructor(next: (request: number) => number) {
    this.#next = next
  }

  readonly fetch: HttpFetch = async (_, { headers, signal }) => {
    const [, first = NaN, last = NaN] = (/^bytes=(\d+)-(\d+)$/.exec(headers["Range"] ?? "") ?? []).map(Number)
    const end = Math.min(last + 1, SIZE)
    const request = ++this.requests
    let at = first
    const read = async (): Promise<{ done: boolean; value?: Uint8Array }> => {
      if (signal.aborted) throw new Error("aborted")
      if (at === end) return { done: true }
      const piece = CONTENT.subarray(at, Math.min(end, at + this.#next(request)))
      at += piece.length
      this.sent += piece.length
      return { done: false, value: piece }
    }
    return {
      status: 206, redirected: false, type: "basic", url: "", body: { getReader: () => ({ read, cancel: async () => undefined }) },
      headers: new Headers({ "Content-Range": `bytes ${first}-${end - 1}/${SIZE}`, ETag: '"v1"' }),
    }
  }
}

const servers: TestServer[] = []
const files: HttpFile[] = []

/** The clock stands still for whole seconds and more: a stretch ends by `advance`. */
async function open(options: HttpFileOptions = {}): Promise<{ server: TestServer; file: HttpFile; clock: FakeClock }> {
  const server = await TestServer.start(CONTENT)
  const clock = new FakeClock(1000)
  const file = new HttpFile(server.url, options, clock, 2 * MIB)
  servers.push(server)
  files.push(file)
  return { server, file, clock }
}

afterEach(async () => {
  for (const file of files.splice(0)) await file.close()
  for (const server of servers.splice(0)) await server.stop()
})

async function check(file: HttpFile, offset: number, length: number): Promise<void> {
  const buffer = new Uint8Array(length).fill(0xee)
  const count = await file.read(buffer, offset)
  expect(count).toBe(Math.min(length, SIZE - offset))
  expect(Buffer.compare(buffer.subarray(0, count), CONTENT.subarray(offset, offset + count))).toBe(0)
}

const range = (first: number, end: number): string => `bytes=${first}-${end - 1}`

/** The long request that begins at `first`. */
const longFrom = (first: number): string => range(first, SIZE)

describe("reads in order", () => {
  it("are served from the second long one on by one request to the end of the file, several at a time", async () => {
    const { server, file } = await open()
    await check(file, 0, MIB)
    await Promise.all([1, 2, 3].map((at) => check(file, at * MIB, MIB)))
    await Promise.all([4, 6, 9].map((at, index) => check(file, at * MIB, ([2, 3, 1][index] ?? 0) * MIB)))
    expect(server.ranges.slice(0, 3)).toEqual(["bytes=0-65535", range(HEAD, MIB), longFrom(MIB)])
  })

  it("may reach the end of the file and begin again", async () => {
    const { server, file } = await open()
    for (let at = 0; at < SIZE; at += 2 * MIB) await check(file, at, 2 * MIB)
    expect(server.ranges).toEqual(["bytes=0-65535", range(HEAD, 2 * MIB), longFrom(2 * MIB)])
    await check(file, 0, 2 * MIB)
    expect(server.ranges.length).toBe(4)
  })

  it("keep their long request while short reads and reads elsewhere get requests of their own", async () => {
    const { server, file } = await open()
    await check(file, 0, MIB)
    await check(file, MIB, MIB)
    await check(file, 8 * MIB, 4096)
    await check(file, 9 * MIB, MIB)
    await check(file, 2 * MIB, 5)
    await check(file, 2 * MIB + 5, MIB)
    expect(server.ranges.slice(2)).toEqual([longFrom(MIB), range(8 * MIB, 8 * MIB + 4096), range(9 * MIB, 10 * MIB)])
  })

  it("begin no long request if they are short, or long with gaps", async () => {
    const { server, file } = await open()
    for (let at = MIB; at < 2 * MIB; at += MIB / 4) await check(file, at, MIB / 4)
    for (const at of [2, 4, 6]) await check(file, at * MIB, MIB)
    expect(server.ranges.length).toBe(1 + 4 + 3)
  })

  it("begin no long request within the first MiB: a reader that stops would waste some MiB of it", async () => {
    const { server, clock } = await open()
    const file = new HttpFile(server.url, {}, clock)
    files.push(file)
    for (let at = 0; at < 12; at++) await check(file, at * MIB, MIB)
    expect(server.ranges).toHaveLength(13)
  })

  it("begin no long request if only one request may be under way at a time", async () => {
    const { server, file } = await open({ maxParallel: 1 })
    for (const at of [0, 1, 2]) await check(file, at * MIB, MIB)
    expect(server.ranges).toEqual(["bytes=0-65535", range(HEAD, MIB), range(MIB, 2 * MIB), range(2 * MIB, 3 * MIB)])
  })
})

describe("a long request", () => {
  it("ends when no read has come for a second, and the next reads begin another", async () => {
    const { server, file, clock } = await open()
    const ended = new Promise<void>((resolve) => {
      server.next.push(({ answer }) => answer(), ({ answer }) => answer(), ({ answer, response }) => {
        response.on("close", resolve)
        answer()
      })
    })
    await check(file, 0, MIB)
    await check(file, MIB, MIB)
    clock.advance(1000)
    await ended
    for (const at of [2, 3]) await check(file, at * MIB, MIB)
    expect(server.ranges.slice(2)).toEqual([longFrom(MIB), longFrom(2 * MIB)])
  })

  it("that breaks off is followed by requests for what is missing", async () => {
    for (const sent of [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB + 5]) {
      const { server, file } = await open()
      server.next.push(({ answer }) => answer(), ({ answer }) => answer(), ({ first, response }) => {
        const headers = { "Content-Range": `bytes ${first}-${SIZE - 1}/${SIZE}`, ETag: server.etag, "Last-Modified": server.lastModified }
        response.writeHead(206, { ...headers, "Content-Length": SIZE - first })
        response.write(CONTENT.subarray(first, first + sent), () => response.destroy())
      })
      await check(file, 0, MIB)
      for (const at of [1, 2, 3, 4]) await check(file, at * MIB, MIB)
      await Promise.all([5, 6, 7].map((at) => check(file, at * MIB, MIB)))
    }
  })

  it("that the server ends early is followed by them as well", async () => {
    const { server, file } = await open()
    server.always = ({ first, last, answer }) => {
      const end = Math.min(last, first + 1_500_000)
      answer({ headers: { "Content-Range": `bytes ${first}-${end}/${SIZE}` }, body: CONTENT.subarray(first, end + 1) })
    }
    for (let at = 0; at < SIZE; at += MIB) await check(file, at, MIB)
  })

  it("that a server refuses is not asked for again", async () => {
    const { server, file } = await open()
    server.always = ({ first, last, answer }) => answer(last - first >= 2 * MIB ? { status: 503 } : {})
    for (let at = 0; at < 6; at++) await check(file, at * MIB, MIB)
    expect(server.ranges.filter((text) => text === longFrom(MIB)).length).toBe(1)
    expect(server.ranges.length).toBe(2 + 1 + 5)
  })

  it("counts as refused neither after an expired redirect nor when another reader ended it before its first byte", async () => {
    const { server } = await open()
    const { server: home } = await open()
    home.always = ({ response }) => response.writeHead(302, { Location: server.url }).end()
    const redirected = new HttpFile(home.url, {}, new FakeClock(1000), 2 * MIB)
    files.push(redirected)
    await check(redirected, 0, MIB)
    server.next.push(({ response }) => response.writeHead(403).end())
    for (const at of [1, 2, 3, 4]) await check(redirected, at * MIB, MIB)
    expect(server.ranges.slice(2)).toEqual([longFrom(MIB), range(MIB, 2 * MIB), longFrom(2 * MIB)])

    const { server: silent, file, clock } = await open({ retries: 0 })
    await check(file, 0, MIB)
    silent.next.push(() => undefined)
    const waiting = check(file, MIB, MIB)
    while (silent.ranges.length < 3) await new Promise((resolve) => setImmediate(resolve))
    for (const at of [5, 6]) await check(file, at * MIB, MIB)
    clock.fire()
    await waiting
    for (const at of [2, 3]) await check(file, at * MIB, MIB)
    expect(silent.ranges.at(-1)).toBe(longFrom(3 * MIB))
  })

  it("that ends for lack of reads leaves a redirect in force until its address expires", async () => {
    const { server } = await open()
    const { server: home } = await open()
    home.always = ({ response }) => response.writeHead(302, { Location: server.url }).end()
    const clock = new FakeClock(1000)
    const file = new HttpFile(home.url, {}, clock, 2 * MIB)
    files.push(file)
    const ended = new Promise<void>((resolve) => {
      server.next.push(({ answer }) => answer(), ({ answer }) => answer(), ({ answer, response }) => {
        response.on("close", resolve)
        answer()
      })
    })
    for (const at of [0, 1]) await check(file, at * MIB, MIB)
    clock.advance(1000)
    await ended
    for (const at of [2, 3]) await check(file, at * MIB, MIB)
    expect(home.ranges).toEqual(["bytes=0-65535"])
    expect(server.ranges.slice(2)).toEqual([longFrom(MIB), longFrom(2 * MIB)])
    server.next.push(({ response }) => response.writeHead(403).end())
    await check(file, 8 * MIB, 1000)
    expect(home.ranges).toEqual(["bytes=0-65535", range(8 * MIB, 8 * MIB + 1000)])
  })

  it("notices a change of the file like any other", async () => {
    const { server, file } = await open()
    await check(file, 0, MIB)
    server.etag = '"v2"'
    const failure = await file.read(new Uint8Array(MIB), MIB).then(() => "none", (error: BackingError) => `${error.code} ${error.message}`)
    expect(failure).toContain("the file changed on the server while it was open: its ETag")
  })

  it("ends when the file is closed, and its waiting reads fail", async () => {
    const { server, file } = await open()
    await check(file, 0, MIB)
    server.always = () => undefined
    const waiting = file.read(new Uint8Array(MIB), MIB).then(() => "none", (error: BackingError) => error.code)
    await new Promise((resolve) => setImmediate(resolve))
    await file.close()
    expect(await waiting).toBe("closed")
  })

  it("is read only as far as reads ask, and what the server has sent waits", async () => {
    const server = new PieceServer(() => 10_000)
    const clock = new FakeClock(500)
    const file = new HttpFile("http://far/disk.img", { fetch: server.fetch, timeout: 500 }, clock, 2 * MIB)
    files.push(file)
    await check(file, 0, MIB)
    for (let at = 1; at < 8; at++) {
      await check(file, at * MIB, MIB)
      for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve))
      expect(server.sent).toBeLessThan((at + 1) * MIB + 10_000)
    }
    // However long the pause, it is the reader's: nothing counts as late.
    clock.advance(999)
    await check(file, 8 * MIB, MIB)
    expect(server.requests).toBe(3)
  })

  it("that is too slow is given up at the read's deadline, and the read is tried again", async () => {
    const clock = new FakeClock(1000)
    const server = new PieceServer((request) => {
      if (request !== 3) return SIZE
      clock.advance(29_000)
      return 1
    })
    const file = new HttpFile("http://drips/disk.img", { fetch: server.fetch }, clock, 2 * MIB)
    files.push(file)
    await check(file, 0, MIB)
    await check(file, MIB, MIB)
    expect(server.requests).toBe(4)
  })
})
