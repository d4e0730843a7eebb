/** The answer to a Range request, checked before its body is read: status, Content-Range, Content-Encoding, and the file's version. */
import { BackingError, type BackingErrorCode } from "../../backing.ts"
import type { HttpResponse } from "./types.ts"
import { type Clock, parseRetryAfter, TransientError } from "./retry.ts"

/** The properties that identify a version of a file. [RFC 9110] 8.8 */
export interface FileVersion {
  /** Bytes. */
  readonly size: number
  readonly etag: string | null
  readonly lastModified: string | null
}

/** A valid 206 answer: `length` bytes of `version`, from the first requested byte on. */
export interface RangeAnswer {
  readonly length: number
  /** The answer has a Content-Length, so HTTP ensures that no more bytes come. */
  readonly isFramed: boolean
  readonly version: FileVersion
}

/** Byte positions, `last` included. */
export interface ByteRange {
  readonly first: number
  readonly last: number
}

/** The request's data that checks need. `name`: the file's name in messages. */
export interface AnswerContext {
  readonly name: string
  readonly clock: Clock
}

/**
 * Checks the head of the answer to a request for `range`. The server may send fewer bytes than requested, but no others.
 * @throws BackingError for an answer without those bytes; TransientError if another try may succeed
 */
export function checkAnswer(response: HttpResponse, range: ByteRange, context: AnswerContext): RangeAnswer {
  const { status, headers } = response
  if (status === 416) return unsatisfied(response, context)
  if (status === 200 && headers.get("content-length") === "0") return { length: 0, isFramed: true, version: versionOf(response, 0) }
  if (status !== 206) throw statusError(response, context)
  const encoding = headers.get("content-encoding")
  if (encoding !== null && encoding.toLowerCase() !== "identity") {
    const remedy = "a range of such a file is not a range of the image; switch compression off for it on the server"
    throw failure(context, `the server sends the file with Content-Encoding: ${encoding.slice(0, 40)}; ${remedy}`)
  }
  const text = headers.get("content-range")
  if (text === null) throw failure(context, hiddenOrMissing(response))
  const found = parseContentRange(text)
  if (found === undefined) throw failure(context, `the server sent an invalid Content-Range: "${text.slice(0, 80)}"`)
  if (found.first !== range.first || found.last > range.last) {
    throw failure(context, `the server sent bytes ${found.first} to ${found.last} instead of ${range.first} to ${range.last}`)
  }
  const length = found.last - found.first + 1
  const promised = headers.get("content-length")
  if (promised !== null && promised !== String(length)) {
    throw failure(context, `the server promises ${promised.slice(0, 20)} bytes for a range of ${length}`)
  }
  return { length, isFramed: promised !== null, version: versionOf(response, found.total) }
}

/**
 * @throws BackingError when the file is not the one that was opened
 */
export function checkVersion(opened: FileVersion, now: FileVersion, context: AnswerContext): void {
  const changed = (what: string, before: number | string | null, after: number | string | null): void => {
    if (before === after) return
    const show = (value: number | string | null): string => (value === null ? "missing" : String(value).slice(0, 80))
    throw failure(
      context,
      `the file changed on the server while it was open: its ${what} was ${show(before)} and is ${show(after)}; open it again`,
    )
  }
  changed("size", opened.size, now.size)
  changed("ETag", opened.etag, now.etag)
  changed("Last-Modified", opened.lastModified, now.lastModified)
}

/** Whether a change of the file would be noticed: a weak ETag may stay the same when bytes change. [RFC 9110] 8.8.1 */
export function hasValidator({ etag, lastModified }: FileVersion): boolean {
  return (etag !== null && !etag.startsWith("W/")) || lastModified !== null
}

/** "bytes FIRST-LAST/TOTAL", undefined for anything else. [RFC 9110] 14.4 */
export function parseContentRange(text: string): (ByteRange & { readonly total: number }) | undefined {
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16})$/i.exec(text.trim())
  if (match === null) return undefined
  const [first = NaN, last = NaN, total = NaN] = match.slice(1).map(Number)
  return first <= last && last < total && Number.isSafeInteger(total) ? { first, last, total } : undefined
}

function versionOf({ headers }: HttpResponse, size: number): FileVersion {
  return { size, etag: headers.get("etag"), lastModified: headers.get("last-modified") }
}

/** 416: the file has no such bytes. An empty file answers this; any other file was longer when it was opened. */
function unsatisfied(response: HttpResponse, context: AnswerContext): RangeAnswer {
  const size = /^bytes \*\/(\d{1,16})$/i.exec(response.headers.get("content-range")?.trim() ?? "")?.[1]
  if (size === undefined) throw failure(context, "the server answered 416 (Range Not Satisfiable) and does not say how long the file is")
  return { length: 0, isFramed: true, version: versionOf(response, Number(size)) }
}

function hiddenOrMissing({ type }: HttpResponse): string {
  if (type !== "cors") return "the server answered 206 without a Content-Range, so nobody can tell which bytes these are"
  return "this page may not see the answer's Content-Range; the server must send Access-Control-Expose-Headers: Content-Range, ETag"
}

const CODES: Readonly<Record<number, BackingErrorCode>> = {
  401: "permission", 403: "permission", 407: "permission", 404: "not-found", 410: "not-found",
}
const MEANINGS: Readonly<Record<number, string>> = {
  200: "it sends the whole file in answer to a Range request. Use a server that supports Range requests, or download the file",
  401: "it wants credentials: see the options headers and credentials", 403: "it does not allow access",
  404: "it has no such file", 407: "a proxy wants credentials", 410: "it has no such file any more", 429: "it gets too many requests",
}

function statusError(response: HttpResponse, context: AnswerContext): BackingError {
  const { status, headers } = response
  const meaning = MEANINGS[status]
  const message = `the server answered ${status}${meaning === undefined ? "" : `: ${meaning}`}`
  // 408 Request Timeout, 425 Too Early, 429 Too Many Requests.
  if (status >= 500 || status === 408 || status === 425 || status === 429) {
    return new TransientError(message, { path: context.name, wait: parseRetryAfter(headers.get("retry-after"), context.clock) })
  }
  return new BackingError(CODES[status] ?? "io", message, { path: context.name })
}

function failure(context: AnswerContext, message: string): BackingError {
  return new BackingError("io", message, { path: context.name })
}
