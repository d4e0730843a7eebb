/**
 * What we use of the platform's `fetch`, as interfaces of our own: the package's declarations compile where neither the DOM's types nor
 * Node's are there, and any function of this shape can replace `fetch`.
 */

/** `AbortSignal` where the platform's types are there. */
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
  /** Where the answer came from, after redirects. */
  readonly url: string
  readonly redirected: boolean
  /** "cors" where a page's script sees only those headers that the server exposes. */
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

/** The platform's `fetch`, or what stands in for it. */
export type HttpFetch = (url: string, init: HttpRequestInit) => Promise<HttpResponse>
