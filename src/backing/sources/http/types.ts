/**
 * The parts of the platform's `fetch` that we use, as interfaces of our own: so the package's declarations compile without the types of the
 * DOM or Node, and any function of this shape can replace `fetch`.
 */

/** `AbortSignal` if the platform's types are available. */
export type PlatformAbortSignal = typeof globalThis extends { AbortSignal: { prototype: infer T } } ? T : object

/** The second argument of the `fetch` that `httpFile` calls. */
export interface HttpRequestInit {
  headers: Record<string, string>
  /** Must end the request, and the reading of its body, when it is aborted. */
  signal: PlatformAbortSignal
  redirect: "follow"
  cache: "no-store"
  credentials?: "omit" | "same-origin" | "include"
}

/** The part of a `Response` that `httpFile` reads. */
export interface HttpResponse {
  readonly status: number
  readonly headers: { get(name: string): string | null }
  /** The URL of the answer, after redirects. */
  readonly url: string
  readonly redirected: boolean
  /** "cors" if a page's script sees only the headers that the server exposes. */
  readonly type: string
  readonly body: HttpBody | null
}

/** The part of a `ReadableStream` that `httpFile` uses. */
export interface HttpBody {
  getReader(): HttpBodyReader
}

/** The part of a stream's reader that `httpFile` uses. */
export interface HttpBodyReader {
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array | undefined }>
  cancel(): Promise<void>
}

/** The platform's `fetch`, or a replacement. */
export type HttpFetch = (url: string, init: HttpRequestInit) => Promise<HttpResponse>
