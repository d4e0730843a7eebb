/** An HTTP server for tests that serves one file by ranges, and misbehaves on request. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import type { Clock } from "../../../../src/backing/sources/http/retry.ts"

export interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  /** What the request asks for: `last` is inside the file. */
  readonly first: number
  readonly last: number
  /** Answers as a good server does, with other headers or another body where they are given. `null` leaves a header out. */
  answer(change?: AnswerChange): void
}

export interface AnswerChange {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string | null>>
  readonly body?: Uint8Array
}

export type Behaviour = (exchange: Exchange) => void

export class TestServer {
  content: Uint8Array
  etag = '"v1"'
  lastModified = "Thu, 26 Nov 2026 05:00:00 GMT"
  /** One for each of the next requests; a good answer once they are used up. */
  readonly next: Behaviour[] = []
  /** For every request that `next` has nothing for. */
  always: Behaviour = ({ answer }) => answer()
  readonly requests: { readonly url: string; readonly range: string | undefined; readonly headers: IncomingMessage["headers"] }[] = []
  /** Requests under way at once, at most so far. */
  most = 0
  #active = 0
  readonly #server: Server

  private constructor(content: Uint8Array) {
    this.content = content
    this.#server = createServer((request, response) => this.#serve(request, response))
  }

  static async start(content: Uint8Array): Promise<TestServer> {
    const server = new TestServer(content)
    await new Promise<void>((resolve) => server.#server.listen(0, "127.0.0.1", resolve))
    return server
  }

  get origin(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  get url(): string {
    return `${this.origin}/disk.img`
  }

  get ranges(): (string | undefined)[] {
    return this.requests.map(({ range }) => range)
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  #serve(request: IncomingMessage, response: ServerResponse): void {
    const { range } = request.headers
    this.requests.push({ url: request.url ?? "", range, headers: request.headers })
    this.#active++
    this.most = Math.max(this.most, this.#active)
    response.on("close", () => this.#active--)
    const [, first = "0", end = "0"] = /^bytes=(\d+)-(\d+)$/.exec(range ?? "") ?? []
    const last = Math.min(Number(end), this.content.length - 1)
    const exchange: Exchange = {
      request, response, first: Number(first), last,
      answer: (change = {}) => this.#answer(response, { first: Number(first), last }, change),
    }
    const behaviour = this.next.shift() ?? this.always
    behaviour(exchange)
  }

  #answer(response: ServerResponse, { first, last }: { readonly first: number; readonly last: number }, change: AnswerChange): void {
    const body = change.body ?? this.content.subarray(first, last + 1)
    const isOutside = first >= this.content.length
    const headers = {
      "Content-Range": isOutside ? `bytes */${this.content.length}` : `bytes ${first}-${last}/${this.content.length}`,
      "Content-Length": isOutside ? "0" : String(body.length), ETag: this.etag, "Last-Modified": this.lastModified, ...change.headers,
    }
    response.statusCode = change.status ?? (isOutside ? 416 : 206)
    for (const [name, value] of Object.entries(headers)) if (value !== null) response.setHeader(name, value)
    // Without a length: in chunks.
    if (headers["Content-Length"] === null) response.write(body)
    response.end(isOutside || headers["Content-Length"] === null ? undefined : body)
  }
}

/** A clock that stands still, does at once what is to happen after a while, unless it is told to hold, and writes down the delays. */
export class FakeClock implements Clock {
  readonly delays: number[] = []
  /** Delays from here on never end by themselves: `advance` and `fire` end them. Longer ones are a request's timeout. */
  readonly held: number
  chance = 1
  #now = Date.parse("Thu, 26 Nov 2026 06:00:00 GMT")
  readonly #waiting = new Set<{ readonly due: number; readonly act: () => void }>()

  constructor(held = 30_000) {
    this.held = held
  }

  now(): number {
    return this.#now
  }

  random(): number {
    return this.chance
  }

  after(delay: number, act: () => void): () => void {
    if (delay >= this.held) {
      const timer = { due: this.#now + delay, act }
      this.#waiting.add(timer)
      return () => this.#waiting.delete(timer)
    }
    this.delays.push(delay)
    const timer = setImmediate(act)
    return () => clearImmediate(timer)
  }

  /** Lets time pass, and ends what is held until then. */
  advance(milliseconds: number): void {
    this.#now += milliseconds
    for (const timer of [...this.#waiting].filter(({ due }) => due <= this.#now)) {
      this.#waiting.delete(timer)
      timer.act()
    }
  }

  /** Lets so much time pass that all that is held ends. */
  fire(): void {
    const last = Math.max(this.#now, ...[...this.#waiting].map(({ due }) => due))
    this.advance(last - this.#now)
  }
}
