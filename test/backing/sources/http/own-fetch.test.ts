/** httpFile with a fetch of the user's: whatever it gives, no wrong byte is taken, and no connection is left behind. */
import { afterEach, expect, it, vi } from "vitest"
import type { BackingError } from "../../../../src/backing/backing.ts"
import { HttpFile } from "../../../../src/backing/sources/http/http-file.ts"
import type { HttpBodyReader, HttpFetch, HttpRequestInit, HttpResponse } from "../../../../src/backing/sources/http/types.ts"
import { PLATFORM_CLOCK } from "../../../../src/backing/sources/http/retry.ts"
import { FakeClock } from "./test-server.ts"

const SIZE = 1 << 20
const HEAD = 65_536

interface Answer {
  readonly status?: number
  /** One after the other, then the end of the body; without one the end never comes. */
  readonly pieces: readonly unknown[]
  readonly hasEnd?: boolean
  readonly headers?: Readonly<Record<string, string>>
}

/** What readers of bodies were cancelled, by the Range of their request. */
const cancelled: (string | undefined)[] = []
afterEach(() => {
  cancelled.length = 0
  vi.restoreAllMocks()
})

function answerOf({ headers: { Range } }: HttpRequestInit, { status = 206, pieces, hasEnd = true, headers = {} }: Answer): HttpResponse {
  const [, first = NaN, last = NaN] = (/^bytes=(\d+)-(\d+)$/.exec(Range ?? "") ?? []).map(Number)
  let next = 0
  const read = (): Promise<{ done: boolean; value?: unknown }> => {
    if (next < pieces.length) return Promise.resolve({ done: false, value: pieces[next++] })
    return hasEnd ? Promise.resolve({ done: true }) : new Promise(() => undefined)
  }
  const cancel = async (): Promise<void> => void cancelled.push(Range)
  return {
    status, redirected: false, type: "basic", url: "",
    headers: new Headers({ "Content-Range": `bytes ${first}-${last}/${SIZE}`, ETag: '"1"', ...headers }),
    // The types forbid it, and a program in JavaScript does it.
    body: { getReader: () => ({ read, cancel }) as unknown as HttpBodyReader },
  }
}

/** A file whose head is well, and that answers every other request with `answer`. */
function fileWith(answer: (init: HttpRequestInit) => HttpResponse | Promise<HttpResponse>, retries = 0, clock = new FakeClock()): HttpFile {
  const fetch: HttpFetch = async (_, init) => {
    return init.headers["Range"] === `bytes=0-${HEAD - 1}` ? answerOf(init, { pieces: [new Uint8Array(HEAD)] }) : answer(init)
  }
  return new HttpFile("http://own/disk.img", { fetch, retries }, clock)
}

const outcome = (work: Promise<number>): Promise<string> =>
  work.then((count) => `${count} bytes`, ({ code, message }: BackingError) => `${code}: ${message}`)

async function turns(count = 10): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

it.each<[string, unknown]>([
  ["an ArrayBuffer", new Uint8Array(1000).fill(1).buffer], ["a string", "1".repeat(1000)],
  ["an array", Array.from({ length: 1000 }, () => 1)],
  ["words", new Uint16Array(500)], ["a DataView", new DataView(new ArrayBuffer(1000))], ["nothing", undefined],
])("a body of %s fails the read and gives no zeroes", async (_, piece) => {
  const file = fileWith((init) => answerOf(init, { pieces: [piece] }))
  const buffer = new Uint8Array(1000).fill(0xee)
  expect(await outcome(file.read(buffer, HEAD))).toBe(
    "io: http://own/disk.img: the fetch that was passed gives a body that is not made of Uint8Arrays",
  )
  expect(buffer).toEqual(new Uint8Array(1000).fill(0xee))
})

it("a Uint8Array of another window is taken as bytes", async () => {
  const { runInNewContext } = await import("node:vm")
  const piece: unknown = runInNewContext("new Uint8Array(1000).fill(7)")
  const buffer = new Uint8Array(1000)
  expect(await outcome(fileWith((init) => answerOf(init, { pieces: [piece] })).read(buffer, HEAD))).toBe("1000 bytes")
  expect(buffer).toEqual(new Uint8Array(1000).fill(7))
})

it("a fetch that returns one answer twice, or none, or throws at once fails the read", async () => {
  let first: HttpResponse | undefined
  const used = fileWith((init) => (first ??= new Response("x".repeat(900), {
    status: 206, headers: answerOf(init, { pieces: [] }).headers as Headers,
  }) as unknown as HttpResponse), 1)
  expect(await outcome(used.read(new Uint8Array(1000), HEAD))).toMatch(/^io: .*(lock|disturbed|instead of)/i)
  const nothing: unknown = undefined
  expect(await outcome(fileWith(() => nothing as HttpResponse).read(new Uint8Array(1000), HEAD))).toMatch(/^io: .*the request failed/)
  const throwing = new HttpFile("http://own/disk.img", { fetch: () => { throw new Error("not today") }, retries: 0 }, new FakeClock())
  expect(await outcome(throwing.size())).toBe("io: http://own/disk.img: the request failed: not today")
})

it("a body that does not end behind its last byte delays a read by one timeout, and the read succeeds", async () => {
  const clock = new FakeClock()
  const file = fileWith((init) => answerOf(init, { pieces: [new Uint8Array(1000).fill(1)], hasEnd: false }), 0, clock)
  const buffer = new Uint8Array(1000)
  const reading = outcome(file.read(buffer, HEAD))
  await turns()
  clock.fire()
  expect(await reading).toBe("1000 bytes")
  expect(buffer).toEqual(new Uint8Array(1000).fill(1))
  expect(clock.delays).toEqual([])
})

it("an answer that is refused is cancelled, although the fetch ignores its signal", async () => {
  const file = fileWith((init) => answerOf(init, { status: 200, pieces: [], hasEnd: false }))
  expect(await outcome(file.read(new Uint8Array(1000), HEAD))).toContain("the server answered 200")
  await turns()
  expect(cancelled).toEqual([`bytes=${HEAD}-${HEAD + 999}`])
})

it("an answer that comes too late is cancelled", async () => {
  const clock = new FakeClock()
  let answer = (): void => undefined
  const file = fileWith((init) => new Promise((resolve) => {
    answer = () => resolve(answerOf(init, { pieces: [], hasEnd: false }))
  }), 0, clock)
  const reading = outcome(file.read(new Uint8Array(1000), HEAD))
  await turns()
  clock.fire()
  expect(await reading).toContain("the server sent nothing for 30 s")
  expect(cancelled).toEqual([])
  answer()
  await turns()
  expect(cancelled).toEqual([`bytes=${HEAD}-${HEAD + 999}`])
})

it("a computer clock that is set back by a day delays no request", () => {
  const before = PLATFORM_CLOCK.now()
  expect(Math.abs(before - Date.now())).toBeLessThan(60_000)
  vi.spyOn(Date, "now").mockReturnValue(Date.now() - 86_400_000)
  expect(PLATFORM_CLOCK.now()).toBeGreaterThanOrEqual(before)
})

it("a read ends with its last byte if Content-Length says so, and its request counts until the end of the body", async () => {
  let requests = 0
  const fetch: HttpFetch = async (_, init) => {
    if (init.headers["Range"] === `bytes=0-${HEAD - 1}`) return answerOf(init, { pieces: [new Uint8Array(HEAD)] })
    requests++
    return answerOf(init, {
      pieces: [new Uint8Array(400).fill(1), new Uint8Array(600).fill(2)],
      hasEnd: false,
      headers: { "Content-Length": "1000" },
    })
  }
  const file = new HttpFile("http://own/disk.img", { fetch, maxParallel: 2, retries: 0 }, new FakeClock())
  const buffers = Array.from({ length: 3 }, () => new Uint8Array(1000))
  const [first, second, third] = buffers.map((buffer, index) => outcome(file.read(buffer, HEAD + index * 1000)))
  expect([await first, await second]).toEqual(["1000 bytes", "1000 bytes"])
  await turns()
  expect(requests).toBe(2)
  expect(buffers[0]).toEqual(new Uint8Array(1000).fill(2).fill(1, 0, 400))
  await file.close()
  expect(await third).toBe("closed: http://own/disk.img: the file is closed")
  await turns()
  expect(cancelled).toHaveLength(2)
})
