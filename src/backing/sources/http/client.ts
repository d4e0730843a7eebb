/** HttpClient sends a Range request, checks the answer, and reads the promised body. It ends requests that are late, or when closed. */
import { reasonOf } from "../../../options.ts"
import { BackingError } from "../../backing.ts"
import { type AnswerContext, type ByteRange, checkAnswer, type RangeAnswer } from "./answer.ts"
import { Cancellation } from "./cancellation.ts"
import type { HttpBody, HttpFetch, HttpRequestInit, HttpResponse } from "./types.ts"
import { Patience } from "./patience.ts"
import { type Clock, TransientError } from "./retry.ts"

export interface HttpClientOptions {
  readonly url: URL
  /** The file's name in messages: the URL without parts that may be secret. */
  readonly name: string
  readonly fetch: HttpFetch
  readonly headers: Readonly<Record<string, string>>
  readonly credentials: HttpRequestInit["credentials"]
  /** Milliseconds without a byte after which a request counts as lost. */
  readonly timeout: number
  readonly clock: Clock
}

/** The caller's receiver of an answer: it checks the head before any byte is read, then takes the body piece by piece. */
export interface AnswerSink {
  head(answer: RangeAnswer): void
  /** The server waits for the returned promise; that time does not count against it. */
  piece(bytes: Uint8Array): void | Promise<void>
}

/** The address of a redirect no longer serves the file, because such addresses expire. The next request goes to the original URL. */
export class RedirectExpired {
  readonly error: BackingError

  constructor(error: BackingError) {
    this.error = error
  }
}

/** Thrown by a sink to end a request whose reader has stopped. The address that serves it is not to blame, and is kept. */
export class NobodyReads extends BackingError {
  constructor() {
    super("closed", "nobody reads on")
  }
}

/** The parts that the reading of a body uses. */
interface Reading {
  readonly sink: AnswerSink
  readonly patience: Patience
  readonly cancellation: Cancellation
}

export class HttpClient {
  readonly #options: HttpClientOptions
  readonly #context: AnswerContext
  readonly #home: string
  /** The final URL after redirects. Requests go there, without the user's headers if its origin differs. */
  #target: string
  readonly #active = new Set<Cancellation>()
  #isClosed = false

  constructor(options: HttpClientOptions) {
    this.#options = options
    this.#context = { name: options.name, clock: options.clock }
    this.#home = options.url.href
    this.#target = this.#home
  }

  /** Ends all requests in progress. */
  close(): void {
    this.#isClosed = true
    for (const cancellation of this.#active) cancellation.cancel()
  }

  /**
   * Requests `range`. Resolves when `sink` has all bytes that the server promised, which may be fewer than requested. On a failure `sink`
   * has the bytes that arrived. Ends by `deadline`, a time of the clock.
   * @throws BackingError (as a rejection); TransientError and RedirectExpired if another try may succeed
   */
  async get(range: ByteRange, sink: AnswerSink, deadline: number): Promise<void> {
    if (this.#isClosed) throw this.#closed()
    const url = this.#target
    const cancellation = new Cancellation()
    const patience = new Patience(this.#options, deadline, () => cancellation.cancel())
    this.#active.add(cancellation)
    let isDone = false
    try {
      isDone = await cancellation.wait(this.#exchange(url, range, { sink, patience, cancellation }))
    } catch (error) {
      throw this.#failure(error, url, patience)
    } finally {
      patience.stop()
      this.#active.delete(cancellation)
      if (!isDone) cancellation.cancel()
    }
  }

  /** Resolves to whether the body has been read to its end. After cancellation, nobody sees the outcome. */
  async #exchange(url: string, range: ByteRange, { sink, patience, cancellation }: Reading): Promise<boolean> {
    const response = await this.#options.fetch(url, this.#request(url, range, cancellation))
    cancellation.response = response
    if (cancellation.isCancelled) {
      cancellation.discard()
      return false
    }
    patience.restart()
    const answer = checkAnswer(response, range, this.#context)
    sink.head(answer)
    this.#follow(response)
    if (answer.length === 0) return false
    await this.#readBody(response.body, answer.length, { sink, patience, cancellation })
    return true
  }

  #request(url: string, { first, last }: ByteRange, { signal }: Cancellation): HttpRequestInit {
    const { headers, credentials } = this.#options
    const isHome = url === this.#home || new URL(url).origin === this.#options.url.origin
    return {
      headers: { ...(isHome ? headers : {}), Range: `bytes=${first}-${last}`, "Accept-Encoding": "identity" },
      signal,
      redirect: "follow",
      // Chromium serialises requests for one URL that go through its cache.
      cache: "no-store",
      ...(credentials === undefined ? {} : { credentials }),
    }
  }

  #follow(response: HttpResponse): void {
    if (!response.redirected || response.url === "") return
    const url = new URL(response.url)
    if (url.protocol === "http:" && this.#options.url.protocol === "https:") {
      throw new BackingError("permission", "the server redirects from https to http, which anybody on the way could change", {
        path: this.#options.name,
      })
    }
    this.#target = url.href
  }

  async #readBody(body: HttpBody | null, length: number, { sink, patience, cancellation }: Reading): Promise<void> {
    const path = this.#options.name
    if (body === null) throw new BackingError("io", "the server sent no body", { path })
    const reader = body.getReader()
    cancellation.reader = reader
    let left = length
    for (;;) {
      const { done, value } = await reader.read()
      if (done || cancellation.isCancelled) break
      if (!isBytes(value)) {
        throw new BackingError("io", "the fetch that was passed gives a body that is not made of Uint8Arrays", { path })
      }
      patience.restart()
      if (value.length > left) throw new BackingError("io", `the server sent more than the ${length} bytes that it promised`, { path })
      left -= value.length
      const taken = sink.piece(value)
      if (taken === undefined) continue
      patience.pause()
      await taken
      if (cancellation.isCancelled) break
      patience.restart()
    }
    if (left > 0) throw new TransientError(`the server's answer ended ${left} bytes too early`, { path })
  }

  /** The caller's error for `error`, which `fetch` or the body threw. Any error is a failure of the source. */
  #failure(error: unknown, url: string, patience: Patience): BackingError | RedirectExpired {
    if (this.#isClosed) return this.#closed()
    if (error instanceof BackingError) {
      if (url === this.#home || error instanceof TransientError || error instanceof NobodyReads) return error
      if (this.#target === url) this.#target = this.#home
      return new RedirectExpired(error)
    }
    const { name: path } = this.#options
    if (patience.reason !== undefined) return new TransientError(patience.reason, { path, cause: error })
    return new TransientError(`the request failed: ${this.#reasonOf(error)}${this.#corsHint()}`, { path, cause: error })
  }

  /** Node says "fetch failed" and puts the reason into `cause`. A message may hold the URL with its secrets. */
  #reasonOf(error: unknown): string {
    const inner = error instanceof Error && error.cause instanceof Error ? error.cause : error
    const code: unknown = inner instanceof Error ? Reflect.get(inner, "code") : undefined
    const text = reasonOf(inner) || (typeof code === "string" ? code : "Error")
    const { search } = this.#options.url
    const known = text.replaceAll(this.#home, this.#options.name).replaceAll(this.#target, this.#options.name)
    return (search === "" ? known : known.replaceAll(search, "?...")).slice(0, 200)
  }

  /** A page is not told why a request to another origin failed. */
  #corsHint(): string {
    const page = pageAddress()
    if (page === undefined || new URL(page).origin === this.#options.url.origin) return ""
    return "; if the server can be reached, it must allow this page: Access-Control-Allow-Origin"
  }

  #closed(): BackingError {
    return new BackingError("closed", "the file is closed", { path: this.#options.name })
  }
}

/** A user's `fetch` may return anything. `instanceof` would fail for bytes from another window. */
function isBytes(value: unknown): value is Uint8Array {
  return ArrayBuffer.isView(value) && Reflect.get(value, "length") === value.byteLength
}

/** The address of the current page or worker; undefined in Node. */
export function pageAddress(): string | undefined {
  const place: unknown = Reflect.get(globalThis, "location")
  const href: unknown = typeof place === "object" && place !== null ? Reflect.get(place, "href") : undefined
  return typeof href === "string" && /^https?:/.test(href) ? href : undefined
}
