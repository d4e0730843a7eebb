/** Options of httpFile. */
import { checkCount, checkOptions, type Rules } from "../../../options.ts"
import type { HttpFetch } from "./types.ts"

/** Options of `httpFile`. */
export interface HttpFileOptions {
  /**
   * Called in place of the platform's `fetch`, for instance to add a token that expires: `(url, init) => fetch(url, { ...init, ... })`.
   * Requests do without the browser's cache (`cache: "no-store"`), in which Chromium lets requests for one URL wait for each other.
   */
  readonly fetch?: HttpFetch
  /** Headers for each request. In a page of another origin they make the browser ask the server first (CORS preflight). */
  readonly headers?: Readonly<Record<string, string>>
  /** Whether a page sends cookies: see `fetch`. Default: to its own origin only. */
  readonly credentials?: "omit" | "same-origin" | "include"
  /** Requests under way at once, 1 to 64. Default 6, which is what browsers send to one server over HTTP/1.1. */
  readonly maxParallel?: number
  /** How often one read is tried again after network errors, timeouts and the statuses 5xx, 408, 425 and 429. Default 5. */
  readonly retries?: number
  /**
   * Milliseconds without a byte from the server after which a request is given up, and tried again. Default 30,000. A request for many
   * bytes has as long in all, and a second more for each 16 KiB: what has arrived by then is kept, and the rest tried again.
   */
  readonly timeout?: number
  /**
   * Bytes that a request asks for at least, 4096 to 2^26, until reads turn out to be at random: then pages of 16 KiB come. Default 64 KiB:
   * whoever reads in order gets longer ones anyway. More saves requests to a server that is far away, and fetches more that nobody needs.
   */
  readonly preferredRead?: number
  /** True for a file that never changes: then a server may send neither a strong ETag nor Last-Modified, and only the size is watched. */
  readonly immutable?: boolean
  /**
   * The `generation` that `version()` of the file had earlier: a file that has changed since is refused. For the base of an overlay that is
   * kept: over another base it is rubbish, and nothing in the overlay would tell.
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
