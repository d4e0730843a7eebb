/** Options of httpFile. */
import { checkCount, checkOptions, type Rules } from "../../../options.ts"
import type { HttpFetch } from "./types.ts"

/** Options of `httpFile`. */
export interface HttpFileOptions {
  /**
   * Called in place of the platform's `fetch`, for instance to add a token that expires: `(url, init) => fetch(url, { ...init, ... })`.
   * Requests bypass the browser's cache (`cache: "no-store"`), in which Chromium serialises requests for one URL.
   */
  readonly fetch?: HttpFetch
  /** Headers for each request. For another origin than the page's, they make the browser ask the server first (CORS preflight). */
  readonly headers?: Readonly<Record<string, string>>
  /** Whether a page sends cookies: see `fetch`. Default: to its own origin only. */
  readonly credentials?: "omit" | "same-origin" | "include"
  /** Most requests in progress at a time, 1 to 64. Default 6, as browsers send to one server over HTTP/1.1. */
  readonly maxParallel?: number
  /** How often one read is tried again after network errors, timeouts and the statuses 5xx, 408, 425 and 429. Default 5. */
  readonly retries?: number
  /**
   * Milliseconds without a byte from the server after which a request is given up and tried again. Default 30,000. A whole request may
   * take this long plus a second for each 16 KiB: then the bytes that have arrived are kept, and the rest is tried again.
   */
  readonly timeout?: number
  /**
   * Least bytes of a request, 4096 to 2^26, until reads turn out to be random: then requests are for pages of 16 KiB. Default 64 KiB;
   * sequential reads get longer requests anyway. A larger value saves requests to a distant server, and fetches more unneeded bytes.
   */
  readonly preferredRead?: number
  /** True for a file that never changes: then the server need not send a strong ETag or Last-Modified, and only the size is checked. */
  readonly immutable?: boolean
  /**
   * An earlier `generation` from `version()` of the file: a file that has changed since is refused. Use it for the base of a stored
   * overlay, which is garbage over another base and cannot detect that.
   */
  readonly generation?: string
}

const HTTP_FILE_RULES: Rules<HttpFileOptions> = {
  fetch: "function?", headers: "object?", credentials: ["omit", "same-origin", "include"], maxParallel: "number?", retries: "number?",
  timeout: "number?", preferredRead: "number?", immutable: "boolean?", generation: "string?",
}

/** @throws TypeError or RangeError */
export function checkHttpOptions(options: HttpFileOptions): void {
  checkOptions("httpFile", options, HTTP_FILE_RULES)
  checkCount("httpFile", "maxParallel", options.maxParallel, 1, 64)
  checkCount("httpFile", "retries", options.retries, 0, 100)
  checkCount("httpFile", "timeout", options.timeout, 1, 2 ** 31 - 1)
  checkCount("httpFile", "preferredRead", options.preferredRead, 4096, 2 ** 26)
}
