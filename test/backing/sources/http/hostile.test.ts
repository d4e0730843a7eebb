/** httpFile against servers that cannot do it, that change the file, and that lie: an error that says so, and never wrong bytes. */
import { gzipSync } from "node:zlib"
import { afterEach, describe, expect, it } from "vitest"
import type { BackingError } from "../../../../src/backing/backing.ts"
import { HttpFile } from "../../../../src/backing/sources/http/http-file.ts"
import type { HttpFileOptions } from "../../../../src/backing/sources/http/options.ts"
import type { HttpFetch } from "../../../../src/backing/sources/http/types.ts"
import { type Behaviour, FakeClock, TestServer } from "./test-server.ts"

const SIZE = 300_000
const servers: TestServer[] = []

async function serve(fill = 1): Promise<TestServer> {
  const server = await TestServer.start(new Uint8Array(SIZE).fill(fill))
  servers.push(server)
  return server
}

afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop()
})

async function failureOf(work: Promise<unknown>): Promise<BackingError> {
  return work.then(() => expect.fail("it did not fail"), (error: BackingError) => error)
}

/** Opens the file, then reads once while the server behaves so. Returns the error. */
async function failedRead(behaviour: Behaviour, options: HttpFileOptions = {}): Promise<{ code: string; text: string }> {
  const server = await serve()
  const file = new HttpFile(server.url, options, new FakeClock())
  await file.size()
  server.always = behaviour
  const { code, message } = await failureOf(file.read(new Uint8Array(1000), 100_000))
  expect(message.startsWith(`${server.url}: `)).toBe(true)
  return { code, text: message.slice(server.url.length + 2) }
}

/** The error of an opening while the server behaves so. */
async function failedOpen(behaviour: Behaviour, options: HttpFileOptions = {}): Promise<{ code: string; text: string }> {
  const server = await serve()
  server.always = behaviour
  const { code, message } = await failureOf(new HttpFile(server.url, options, new FakeClock()).size())
  return { code, text: message.slice(server.url.length + 2) }
}

describe("statuses", () => {
  it.each([
    [404, "not-found"],
    [410, "not-found"],
    [401, "permission"],
    [403, "permission"],
    [400, "io"],
    [304, "io"],
  ])(
    "%i gives the error %s at once, without another try",
    async (status, code) => {
      const server = await serve()
      server.always = ({ response }) => response.writeHead(status).end()
      const error = await failureOf(new HttpFile(server.url, {}, new FakeClock()).size())
      expect(error.code).toBe(code)
      expect(error.message).toContain(`the server answered ${status}`)
      expect(server.requests).toHaveLength(1)
    },
  )

  it("200 to a Range request gives an error about missing ranges, and its body is not read", async () => {
    let sent = 0
    const ended = new Promise<void>((resolve) => {
      void failedOpen(({ response }) => {
        response.writeHead(200, { "Content-Length": 2 ** 40 })
        const piece = Buffer.alloc(65_536)
        const more = (): void => {
          while (response.write(piece)) sent += piece.length
          response.once("drain", more)
        }
        response.on("close", resolve)
        more()
      }).then(({ code, text }) => {
        expect(code).toBe("io")
        expect(text).toMatch(/^the server answered 200: it sends the whole file in answer to a Range request\. Use a server that/)
      })
    })
    await ended
    expect(sent).toBeLessThan(64 << 20)
  })

  it("416 with another size gives the error that the file has changed", async () => {
    const { code, text } = await failedRead(
      ({ answer }) => answer({ status: 416, headers: { "Content-Range": "bytes */5" }, body: new Uint8Array(0) }),
    )
    expect(code).toBe("io")
    expect(text).toBe("the file changed on the server while it was open: its size was 300000 and is 5; open it again")
  })

  it("416 with the same size, or with none, gives an error that says so", async () => {
    const same: Behaviour = ({ answer }) => answer({
      status: 416, headers: { "Content-Range": `bytes */${SIZE}` }, body: new Uint8Array(0),
    })
    expect((await failedRead(same)).text).toBe(`the server says that the file has ${SIZE} bytes, but no byte 100000`)
    expect((await failedOpen(same)).text).toBe(`the server says that the file has ${SIZE} bytes, but no byte 0`)
    for (const failed of [failedRead, failedOpen]) {
      const { text } = await failed(({ response }) => response.writeHead(416).end())
      expect(text).toBe("the server answered 416 (Range Not Satisfiable) and does not say how long the file is")
    }
  })
})

describe("a file that changes", () => {
  it.each<[string, (server: TestServer) => void, string]>([
    ["ETag", (server) => { server.etag = '"v2"' }, 'its ETag was "v1" and is "v2"'],
    [
      "Last-Modified",
      (server) => { server.lastModified = "Thu, 26 Nov 2026 05:00:01 GMT" },
      "its Last-Modified was Thu, 26 Nov 2026 05:00:00 GMT and is",
    ],
    ["size", (server) => { server.content = new Uint8Array(SIZE + 512) }, "its size was 300000 and is 300512"],
  ])("is noticed by its %s, and no byte of it is returned", async (_, change, message) => {
    const server = await serve()
    const file = new HttpFile(server.url, {}, new FakeClock())
    await file.size()
    server.content = new Uint8Array(SIZE).fill(2)
    change(server)
    const buffer = new Uint8Array(1000)
    const error = await failureOf(file.read(buffer, 100_000))
    expect(error.code).toBe("io")
    expect(error.message).toContain(`the file changed on the server while it was open: ${message}`)
    expect(error.message).toContain("; open it again")
    expect(buffer).toEqual(new Uint8Array(1000))
  })

  it("in the middle of a read that is tried again fails the read, and versions are not mixed", async () => {
    const server = await serve()
    const file = new HttpFile(server.url, {}, new FakeClock())
    await file.size()
    server.next.push(({ response, first, last }) => {
      response.writeHead(206, {
        "Content-Range": `bytes ${first}-${last}/${SIZE}`, "Content-Length": last - first + 1, ETag: server.etag,
        "Last-Modified": server.lastModified,
      })
      response.write(server.content.subarray(first, first + 100), () => {
        server.content = new Uint8Array(SIZE).fill(2)
        server.etag = '"v2"'
        response.socket?.destroy()
      })
    })
    expect((await failureOf(file.read(new Uint8Array(1000), 100_000))).message).toContain("the file changed on the server")
  })

  it("between two openings is noticed if the second states the generation of the first", async () => {
    const server = await serve()
    const first = new HttpFile(server.url, {}, new FakeClock())
    expect(first.version()).toBeUndefined()
    await first.size()
    const { generation = "" } = first.version() ?? {}
    expect(await new HttpFile(server.url, { generation }, new FakeClock()).size()).toBe(SIZE)
    server.etag = '"v2"'
    const error = await failureOf(new HttpFile(server.url, { generation }, new FakeClock()).size())
    expect(error.code).toBe("io")
    expect(error.message).toContain(`its generation was ${SIZE}:"v1" and is ${SIZE}:"v2"`)
    expect(await new HttpFile(server.url, {}, new FakeClock()).size()).toBe(SIZE)
  })

  it("while it is being opened fails the opening", async () => {
    const server = await serve()
    server.next.push(({ response, first, last }) => {
      response.writeHead(206, {
        "Content-Range": `bytes ${first}-${last}/${SIZE}`,
        ETag: server.etag,
        "Last-Modified": server.lastModified,
      })
      response.write(server.content.subarray(first, first + 100), () => {
        server.etag = '"v2"'
        response.socket?.destroy()
      })
    })
    expect((await failureOf(new HttpFile(server.url, {}, new FakeClock()).size())).message).toContain('its ETag was "v1" and is "v2"')
  })

  it("is not trusted to a server without validators, unless the file is stated as immutable", async () => {
    const hide = (headers: Record<string, string | null>): Behaviour => ({ answer }) => answer({ headers })
    const nothing = hide({ ETag: null, "Last-Modified": null })
    expect((await failedOpen(nothing)).text).toContain("neither a strong ETag nor Last-Modified")
    expect((await failedOpen(hide({ ETag: 'W/"1"', "Last-Modified": null }))).text).toContain("pass immutable: true")
    const server = await serve()
    server.always = nothing
    expect(await new HttpFile(server.url, { immutable: true }, new FakeClock()).size()).toBe(SIZE)
    server.always = hide({ ETag: 'W/"1"' })
    expect(await new HttpFile(server.url, {}, new FakeClock()).size()).toBe(SIZE)
    server.always = hide({ ETag: null })
    expect(await new HttpFile(server.url, {}, new FakeClock()).size()).toBe(SIZE)
  })
})

describe("a server that lies", () => {
  const zeroes = (length: number): Uint8Array => new Uint8Array(length)

  it.each<[string, Behaviour, RegExp]>([
    [
      "sends another range",
      ({ answer }) => answer({ headers: { "Content-Range": `bytes 100001-101000/${SIZE}` } }),
      /sent bytes 100001 to 101000 instead of 100000 to 100999/,
    ],
    [
      "sends a longer range",
      ({ answer }) => answer({ headers: { "Content-Range": `bytes 100000-101000/${SIZE}` }, body: zeroes(1001) }),
      /instead of/,
    ],
    ["sends no Content-Range", ({ answer }) => answer({ headers: { "Content-Range": null } }), /206 without a Content-Range/],
    ["sends nonsense", ({ answer }) => answer({ headers: { "Content-Range": "bytes 5-1/x" } }), /invalid Content-Range: "bytes 5-1\/x"/],
    ["does not know the size", ({ answer }) => answer({ headers: { "Content-Range": "bytes 100000-100999/*" } }), /invalid Content-Range/],
    [
      "has a range behind the end",
      ({ answer }) => answer({ headers: { "Content-Range": "bytes 100000-100999/100500" } }),
      /invalid Content-Range/,
    ],
    [
      "has numbers that do not count",
      ({ answer }) => answer({ headers: { "Content-Range": "bytes 100000-100999/9999999999999999" } }),
      /invalid Content-Range/,
    ],
    ["promises another length", ({ answer }) => answer({ body: zeroes(999) }), /promises 999 bytes for a range of 1000/],
    [
      "sends more than it promised",
      ({ answer }) => answer({ headers: { "Content-Length": null }, body: zeroes(1001) }),
      /sent more than the 1000 bytes that it promised/,
    ],
    [
      "sends it compressed",
      ({ answer }) => answer({ headers: { "Content-Encoding": "gzip", "Content-Length": null }, body: gzipSync(zeroes(1000)) }),
      /Content-Encoding: gzip.*switch compression off/,
    ],
  ])("%s", async (_, behaviour, message) => {
    const { code, text } = await failedRead(behaviour)
    expect(code).toBe("io")
    expect(text).toMatch(message)
  })

  it("sends a body without an end, and the connection is closed", async () => {
    const server = await serve()
    const file = new HttpFile(server.url, {}, new FakeClock())
    await file.size()
    const closed = new Promise<void>((resolve) => {
      server.always = ({ response, first, last }) => {
        response.writeHead(206, {
          "Content-Range": `bytes ${first}-${last}/${SIZE}`,
          ETag: server.etag,
          "Last-Modified": server.lastModified,
        })
        const piece = Buffer.alloc(65_536)
        const more = (): void => {
          while (response.write(piece)) continue
          response.once("drain", more)
        }
        response.on("close", resolve)
        more()
      }
    })
    expect((await failureOf(file.read(new Uint8Array(1000), 100_000))).message).toContain("sent more than the 1000 bytes")
    await closed
  })

  it("sends control characters, and the message has none", async () => {
    const { text } = await failedRead(
      ({ answer }) => answer({ headers: { "Content-Range": "bytes \u009b2J" } }),
    ).catch((error: Error) => ({ text: error.message }))
    expect(text).toContain("invalid Content-Range")
    expect(text).not.toContain("\u009b")
  })
})

describe("redirects", () => {
  it("are followed, and later requests go to the new address, without the user's headers", async () => {
    const [first, second] = [await serve(), await serve()]
    first.always = ({ response }) => response.writeHead(302, { Location: `${second.url}?signature=1` }).end()
    const file = new HttpFile(first.url, { headers: { "X-Token": "secret" } }, new FakeClock())
    expect(await file.size()).toBe(SIZE)
    await file.read(new Uint8Array(1000), 100_000)
    expect(first.ranges).toEqual(["bytes=0-65535"])
    expect(second.ranges).toEqual(["bytes=0-65535", "bytes=100000-100999"])
    expect(second.requests[1]?.headers["x-token"]).toBeUndefined()
    expect(second.requests[1]?.url).toBe("/disk.img?signature=1")
  })

  it("keep the user's headers on the same origin", async () => {
    const server = await serve()
    server.next.push(({ response }) => response.writeHead(302, { Location: "/elsewhere" }).end())
    const file = new HttpFile(server.url, { headers: { "X-Token": "secret" } }, new FakeClock())
    await file.read(new Uint8Array(1000), 100_000)
    expect(server.requests.map(({ url, headers }) => [url, headers["x-token"]])).toEqual([
      ["/disk.img", "secret"], ["/elsewhere", "secret"], ["/elsewhere", "secret"],
    ])
  })

  it("may expire: then the first address is asked again, and the bytes that have arrived are kept", async () => {
    const [first, second] = [await serve(), await serve()]
    let signature = 0
    first.always = ({ response }) => response.writeHead(302, { Location: `${second.url}?signature=${++signature}` }).end()
    const file = new HttpFile(first.url, {}, new FakeClock())
    await file.size()
    second.next.push(({ response }) => response.writeHead(403).end())
    const buffer = new Uint8Array(1000)
    expect(await file.read(buffer, 100_000)).toBe(1000)
    expect(buffer).toEqual(new Uint8Array(1000).fill(1))
    expect(second.requests.map(({ url }) => url.slice(-1))).toEqual(["1", "1", "2"])
  })

  it("to another version of the file are an error", async () => {
    const [first, second, third] = [await serve(), await serve(), await serve(2)]
    third.etag = '"other"'
    first.next.push(({ response }) => response.writeHead(302, { Location: second.url }).end())
    first.always = ({ response }) => response.writeHead(302, { Location: third.url }).end()
    const file = new HttpFile(first.url, {}, new FakeClock())
    await file.size()
    second.always = ({ response }) => response.writeHead(404).end()
    expect((await failureOf(file.read(new Uint8Array(1000), 100_000))).message).toContain('its ETag was "v1" and is "other"')
  })

  it("from https to http are refused", async () => {
    const answer = { status: 206, redirected: true, type: "basic", url: "http://host/disk.img", body: null }
    const headers = new Headers({ "Content-Range": "bytes 0-9/10", ETag: '"v1"' })
    const file = new HttpFile("https://host/disk.img", { fetch: () => Promise.resolve({ ...answer, headers }) }, new FakeClock())
    const error = await failureOf(file.size())
    expect(error.code).toBe("permission")
    expect(error.message).toContain("redirects from https to http")
  })
})

describe("in a page", () => {
  const answers = (headers: Record<string, string>): HttpFetch => () =>
    Promise.resolve({ status: 206, redirected: false, type: "cors", url: "", body: null, headers: new Headers(headers) })

  it("a hidden Content-Range gives an error that names the header to expose it", async () => {
    const file = new HttpFile("https://host/disk.img", { fetch: answers({ "Content-Length": "10" }) }, new FakeClock())
    expect((await failureOf(file.size())).message).toBe(
      "https://host/disk.img: this page may not see the answer's Content-Range; " +
        "the server must send Access-Control-Expose-Headers: Content-Range, ETag",
    )
  })

  it("an answer without a body is an error", async () => {
    const headers = { "Content-Range": "bytes 0-9/10", ETag: '"v1"' }
    const file = new HttpFile("https://host/disk.img", { fetch: answers(headers) }, new FakeClock())
    expect((await failureOf(file.size())).message).toContain("the server sent no body")
  })
})
