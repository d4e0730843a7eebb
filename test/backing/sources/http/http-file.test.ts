/** httpFile against a server that behaves, and what it asks for: ranges, retries, the limit on parallel requests. */
import { afterEach, describe, expect, it } from "vitest"
import { type BackingError } from "../../../../src/backing/backing.ts"
import { HttpFile, httpFile } from "../../../../src/backing/sources/http/http-file.ts"
import type { HttpFileOptions } from "../../../../src/backing/sources/http/options.ts"
import { Rng } from "../../../support/rng.ts"
import type { HttpBodyReader } from "../../../../src/backing/sources/http/types.ts"
import { FakeClock, TestServer } from "./test-server.ts"

const SIZE = 300_000
const servers: TestServer[] = []

async function serve(size = SIZE): Promise<TestServer> {
  const content = new Uint8Array(size)
  for (let at = 0; at < size; at++) content[at] = (at * 7 + (at >> 8)) & 0xff
  const server = await TestServer.start(content)
  servers.push(server)
  return server
}

afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop()
})

function open(server: TestServer, options: HttpFileOptions = {}, clock = new FakeClock()): HttpFile {
  return new HttpFile(server.url, options, clock)
}

async function read(file: HttpFile, offset: number, length: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(length).fill(0xee)
  const count = await file.read(buffer, offset)
  expect(buffer.subarray(count)).toEqual(new Uint8Array(length - count).fill(0xee))
  return buffer.subarray(0, count)
}

async function failureOf(work: Promise<unknown>): Promise<BackingError> {
  return work.then(() => expect.fail("it did not fail"), (error: BackingError) => error)
}

describe("a server that behaves", () => {
  it("gives the size and every byte, and the first request brings the beginning for later reads", async () => {
    const server = await serve()
    const file = open(server)
    expect(await file.size()).toBe(SIZE)
    expect(await read(file, 0, 512)).toEqual(server.content.subarray(0, 512))
    expect(server.ranges).toEqual(["bytes=0-65535"])
    expect(await read(file, 65_000, 1000)).toEqual(server.content.subarray(65_000, 66_000))
    expect(await read(file, 200_000, 100)).toEqual(server.content.subarray(200_000, 200_100))
    expect(server.ranges).toEqual(["bytes=0-65535", "bytes=65536-65999", "bytes=200000-200099"])
  })

  it("fills several buffers, however the answer is split", async () => {
    const server = await serve()
    const file = open(server)
    server.always = ({ first, last, answer }) => {
      const end = Math.min(last, first + 2999)
      answer({ headers: { "Content-Range": `bytes ${first}-${end}/${SIZE}` }, body: server.content.subarray(first, end + 1) })
    }
    for (const [offset, sizes] of [[0, [100, 70_000]], [63_000, [1, 2000, 512, 5000]], [SIZE - 5000, [4096, 904, 10]]] as const) {
      const buffers = sizes.map((size) => new Uint8Array(size).fill(0xee))
      const total = sizes.reduce((sum, size) => sum + size, 0)
      const count = await file.readScattered(buffers, offset)
      expect(count).toBe(Math.min(total, SIZE - offset))
      const expected = new Uint8Array(total).fill(0xee)
      expected.set(server.content.subarray(offset, offset + count))
      expect(Buffer.concat(buffers)).toEqual(Buffer.from(expected))
    }
  })

  it("a read at the end is short, and one behind it gives nothing", async () => {
    const server = await serve()
    const file = open(server)
    expect(await read(file, SIZE - 10, 100)).toEqual(server.content.subarray(SIZE - 10))
    expect(await read(file, SIZE, 100)).toEqual(new Uint8Array(0))
    expect(await read(file, SIZE + 5000, 100)).toEqual(new Uint8Array(0))
    expect(server.ranges).toEqual(["bytes=0-65535", `bytes=${SIZE - 10}-${SIZE - 1}`])
  })

  it.each([1, 511, 65_535, 65_536, 65_537])("a file of %i bytes is read whole", async (size) => {
    const server = await serve(size)
    const file = open(server)
    expect(await file.size()).toBe(size)
    expect(await read(file, 0, size + 10)).toEqual(server.content)
  })

  it("an empty file is recognized by a range that cannot be satisfied", async () => {
    const server = await serve(0)
    const file = open(server)
    expect(await file.size()).toBe(0)
    expect(await read(file, 0, 10)).toEqual(new Uint8Array(0))
  })

  it("an empty file is recognized when the server answers 200", async () => {
    const server = await serve(0)
    server.always = ({ answer }) => answer({ status: 200, headers: { "Content-Range": null } })
    expect(await open(server).size()).toBe(0)
  })

  it("many reads at once get the right bytes over at most maxParallel requests", async () => {
    const seed = Number(process.env["SEED"] ?? 20_261_126)
    const random = new Rng(seed)
    const server = await serve()
    const file = open(server, { maxParallel: 3 })
    const reads = Array.from({ length: 60 }, () => ({ offset: random.below(SIZE), length: 1 + random.below(20_000) }))
    await file.size()
    // Each answer waits until three requests are there, or the last one is. One that is tried again comes after the last.
    let left = reads.filter(({ offset, length }) => offset + length > 65_536).length
    const held: (() => void)[] = []
    server.always = ({ answer }) => {
      left--
      held.push(answer)
      if (held.length === 3 || left <= 0) for (const release of held.splice(0)) release()
    }
    const results = await Promise.all(reads.map(({ offset, length }) => read(file, offset, length)))
    for (const [index, { offset, length }] of reads.entries()) {
      const expected = server.content.subarray(offset, offset + length)
      expect(Buffer.compare(results[index] ?? expected.subarray(1), expected), `seed ${seed}, read ${index}`).toBe(0)
    }
    expect(server.most).toBe(3)
    expect(server.ranges.filter((range) => range === "bytes=0-65535")).toHaveLength(1)
  })

  it("the rest is requested when the server sends less than was requested", async () => {
    const server = await serve()
    server.always = ({ first, last, answer }) => {
      const end = Math.min(last, first + 999)
      answer({ headers: { "Content-Range": `bytes ${first}-${end}/${SIZE}` }, body: server.content.subarray(first, end + 1) })
    }
    const file = open(server)
    expect(await read(file, 100_000, 2500)).toEqual(server.content.subarray(100_000, 102_500))
    expect(server.ranges.slice(-3)).toEqual(["bytes=100000-102499", "bytes=101000-102499", "bytes=102000-102499"])
  })

  it("the user's headers are sent, and no compression is requested", async () => {
    const server = await serve()
    await open(server, { headers: { "X-Token": "abc" } }).size()
    expect(server.requests[0]?.headers["x-token"]).toBe("abc")
    expect(server.requests[0]?.headers["accept-encoding"]).toMatch(/^identity\b/)
  })

  it("user and password of the URL are sent as basic authentication, and no message shows them or the query", async () => {
    const server = await serve()
    server.always = ({ response }) => response.writeHead(404).end()
    const url = server.url.replace("http://", "http://j%C3%BCrgen:p%40ss@")
    const file = new HttpFile(`${url}?key=secret#part`, {}, new FakeClock())
    const error = await failureOf(file.size())
    expect(error.message).toBe(`${server.url}: the server answered 404: it has no such file`)
    expect(file.path).toBe(server.url)
    expect(server.requests[0]?.url).toBe("/disk.img?key=secret")
    expect(server.requests[0]?.headers.authorization).toBe(`Basic ${Buffer.from("jürgen:p@ss").toString("base64")}`)
  })

  it("user and password of the URL take precedence over the user's Authorization header in any spelling", async () => {
    const server = await serve()
    const file = new HttpFile(server.url.replace("http://", "http://a:b@"), { headers: { AUTHORIZATION: "Bearer x" } }, new FakeClock())
    await file.size()
    expect(server.requests[0]?.headers.authorization).toBe(`Basic ${Buffer.from("a:b").toString("base64")}`)
  })

  it("a replaced fetch gets every request", async () => {
    const server = await serve()
    const asked: string[] = []
    const file = open(server, { fetch: (url, init) => {
      asked.push(`${url} ${init.headers["Range"]}`)
      return fetch(url, init)
    } })
    expect(await file.size()).toBe(SIZE)
    expect(asked).toEqual([`${server.url} bytes=0-65535`])
  })

  it("close ends requests under way, and every later call fails", async () => {
    const server = await serve()
    const file = open(server)
    await file.size()
    const asked = new Promise<void>((resolve) => server.next.push(() => resolve()))
    const pending = failureOf(file.read(new Uint8Array(10), 100_000))
    await asked
    await file.close()
    await file.close()
    expect((await pending).code).toBe("closed")
    expect((await failureOf(file.read(new Uint8Array(10), 0))).code).toBe("closed")
    expect((await failureOf(file.size())).code).toBe("closed")
  })

  it("close ends the wait before another try", async () => {
    const server = await serve()
    const clock = new FakeClock(100)
    const file = open(server, {}, clock)
    const waiting = new Promise<void>((resolve) => server.next.push(({ response }) => {
      response.writeHead(503).end()
      response.on("close", resolve)
    }))
    const pending = failureOf(file.size())
    await waiting
    await file.close()
    expect((await pending).code).toBe("closed")
  })
})

describe("tries again", () => {
  it.each([500, 502, 503, 504, 429, 408, 425])("after %i with growing delays", async (status) => {
    const server = await serve()
    const clock = new FakeClock()
    for (let i = 0; i < 3; i++) server.next.push(({ response }) => response.writeHead(status).end("busy"))
    expect(await open(server, {}, clock).size()).toBe(SIZE)
    expect(clock.delays).toEqual([250, 500, 1000])
  })

  it("after a delay of which half is random", async () => {
    const server = await serve()
    const clock = new FakeClock()
    clock.chance = 0
    server.next.push(({ response }) => response.writeHead(500).end())
    await open(server, {}, clock).size()
    expect(clock.delays).toEqual([125])
  })

  it.each([["7", 7000], ["Thu, 26 Nov 2026 06:00:05 GMT", 5000], ["Thu, 26 Nov 2026 05:00:05 GMT", 250], ["86400", 29_999], ["soon", 250]])(
    "after Retry-After: %s within %i ms",
    async (header, delay) => {
      const server = await serve()
      const clock = new FakeClock(70_000)
      server.next.push(({ response }) => response.writeHead(503, { "Retry-After": header }).end())
      await open(server, { timeout: 100_000 }, clock).size()
      expect(clock.delays).toEqual([header === "86400" ? 60_000 : delay])
    },
  )

  it("only for the rest when a connection breaks in the middle", async () => {
    const server = await serve()
    const file = open(server)
    await file.size()
    server.next.push(({ response, first, last }) => {
      response.writeHead(206, {
        "Content-Range": `bytes ${first}-${last}/${SIZE}`, "Content-Length": last - first + 1, ETag: server.etag,
        "Last-Modified": server.lastModified,
      })
      response.write(server.content.subarray(first, first + 1000), () => response.socket?.end())
    })
    expect(await read(file, 100_000, 5000)).toEqual(server.content.subarray(100_000, 105_000))
    expect(server.ranges.slice(-2)).toEqual(["bytes=100000-104999", "bytes=101000-104999"])
  })

  it("when a body ends early without an error", async () => {
    const server = await serve()
    const file = open(server)
    await file.size()
    // Chunked: the end of the body is well formed.
    server.next.push(({ response, first, last }) => {
      response.writeHead(206, {
        "Content-Range": `bytes ${first}-${last}/${SIZE}`,
        ETag: server.etag,
        "Last-Modified": server.lastModified,
      })
      response.end(server.content.subarray(first, first + 10))
    })
    expect(await read(file, 100_000, 5000)).toEqual(server.content.subarray(100_000, 105_000))
    expect(server.ranges.slice(-2)).toEqual(["bytes=100000-104999", "bytes=100010-104999"])
  })

  it("a limited number of times when bodies have no byte", async () => {
    const server = await serve()
    const file = open(server, { retries: 3 })
    await file.size()
    server.always = ({ response, first, last }) => {
      response.writeHead(206, {
        "Content-Range": `bytes ${first}-${last}/${SIZE}`,
        ETag: server.etag,
        "Last-Modified": server.lastModified,
      })
      response.end()
    }
    const error = await failureOf(file.read(new Uint8Array(5000), 100_000))
    expect(error.message).toBe(`${server.url}: the server's answer ended 5000 bytes too early (after 4 tries)`)
    expect(server.requests).toHaveLength(5)
  })

  it("when the server stalls before its answer", async () => {
    const server = await serve()
    const clock = new FakeClock()
    server.next.push(() => clock.fire())
    expect(await open(server, {}, clock).size()).toBe(SIZE)
    expect(server.requests).toHaveLength(2)
  })

  it("when the server stalls inside its answer", async () => {
    const server = await serve()
    const clock = new FakeClock()
    const file = open(server, { fetch: async (url, init) => {
      const response = await fetch(url, init)
      const { status, headers, redirected, type, body } = response
      return { status, headers, redirected, type, url: response.url, body: { getReader: () => impatient(body?.getReader()) } }
    } }, clock)
    const impatient = (reader?: HttpBodyReader): HttpBodyReader => ({
      read: () => {
        const pending = reader?.read() ?? Promise.reject(new Error("no body"))
        if (hasBegun) setImmediate(() => clock.fire())
        return pending
      },
      cancel: () => reader?.cancel() ?? Promise.resolve(),
    })
    let hasBegun = false
    await file.size()
    server.next.push(({ response, first, last }) => {
      const headers = { "Content-Range": `bytes ${first}-${last}/${SIZE}`, ETag: server.etag, "Last-Modified": server.lastModified }
      response.writeHead(206, headers)
      response.write(server.content.subarray(first, first + 10))
      hasBegun = true
    })
    server.next.push(({ answer }) => {
      hasBegun = false
      answer()
    })
    expect(await read(file, 100_000, 5000)).toEqual(server.content.subarray(100_000, 105_000))
    expect(server.ranges.slice(1)[0]).toBe("bytes=100000-104999")
    expect(server.requests).toHaveLength(3)
  })

  it("`retries` times, and then gives the reason", async () => {
    const server = await serve()
    server.always = ({ response }) => response.writeHead(503).end()
    const error = await failureOf(open(server, { retries: 2 }).size())
    expect(error.code).toBe("io")
    expect(error.message).toBe(`${server.url}: the server answered 503 (after 3 tries)`)
    expect(server.requests).toHaveLength(3)
    expect((await failureOf(open(server, { retries: 0 }).size())).message).toBe(`${server.url}: the server answered 503`)
  })

  it("when the server is not there, and then fails with an io error and its cause", async () => {
    const server = await serve()
    const { url } = server
    await server.stop()
    servers.length = 0
    const error = await failureOf(new HttpFile(`${url}?key=secret`, { retries: 1 }, new FakeClock()).size())
    expect(error.code).toBe("io")
    expect(error.message).toContain(`${url}: the request failed: connect ECONNREFUSED`)
    expect(error.cause).toBeInstanceOf(TypeError)
  })

  it("when fetch throws a plain Error; then it fails with an io error of that cause, whose message shows no secrets", async () => {
    const thrown = new Error("cannot reach http://host/disk.img?key=secret")
    const url = "http://host/disk.img?key=secret"
    const file = new HttpFile(url, { retries: 1, fetch: () => Promise.reject(thrown) }, new FakeClock())
    const error = await failureOf(file.size())
    expect(error.code).toBe("io")
    expect(error.message).toBe("http://host/disk.img: the request failed: cannot reach http://host/disk.img (after 2 tries)")
    expect(error.cause).toBe(thrown)
  })

  it("at the next call after an opening that failed", async () => {
    const server = await serve()
    const file = open(server, { retries: 0 })
    server.next.push(({ response }) => response.writeHead(500).end())
    expect((await failureOf(file.size())).code).toBe("io")
    expect(await file.size()).toBe(SIZE)
  })
})

it("wrong options are refused", () => {
  expect(() => httpFile("disk.img")).toThrow('httpFile: the string "disk.img" is not a URL')
  expect(() => httpFile("ftp://host/disk.img")).toThrow("httpFile: a URL must begin with http: or https:, not ftp:")
  expect(() => httpFile("http://host/", { maxParallel: 0 })).toThrow(RangeError)
  expect(() => httpFile("http://host/", { headers: { "Bad Name": "x" } })).toThrow('httpFile: the header "Bad Name" is not one that HTTP')
  expect(() => httpFile("http://host/", { headers: { Good: "a\r\nEvil: b" } })).toThrow("is not one that HTTP can carry")
  expect(() => httpFile("http://host/", { headers: { range: "bytes=0-1" } })).toThrow("the header range is set by httpFile itself")
  expect(() => httpFile("http://host/", { timout: 1 } as HttpFileOptions)).toThrow('did you mean "timeout"?')
  expect(httpFile(new URL("http://host/a%20b?q#h")).path).toBe("http://host/a%20b")
})
