/** httpFile: a file on an HTTP server, read by Range requests. */
import type { AsyncImageFile } from "../../async-image-file.ts"
import { BackingError, type DiskVersion, totalLength } from "../../backing.ts"
import { BufferFiller } from "../../bytes/buffers.ts"
import type { TakePiece } from "../../image-file.ts"
import { checkedHeaders, parseUrl, takeCredentials } from "./address.ts"
import { checkVersion, type FileVersion, hasValidator, type RangeAnswer } from "./answer.ts"
import { type AnswerSink, HttpClient, RedirectExpired } from "./client.ts"
import { checkHttpOptions, type HttpFileOptions } from "./options.ts"
import type { HttpFetch, HttpRequestInit } from "./types.ts"
import { HttpStretches, STRETCH_AFTER, type StretchRead } from "./stretch.ts"
import { ParallelLimit } from "./parallel-limit.ts"
import { deadlineOf, type PatienceOptions } from "./patience.ts"
import { type Clock, PLATFORM_CLOCK, retryDelay, TransientError } from "./retry.ts"

/** The first request is for this many bytes, which are kept, because opening an image reads its beginning again and again. */
const HEAD_SIZE = 65_536

/**
 * The file at `url` (http or https; relative to the page in a page), read-only, in Node and in pages. Nothing is requested before the first
 * `size` or `read`.
 *
 * Every answer is checked: the range that it holds, its length, and that it comes from the version of the file that was opened (ETag,
 * Last-Modified and size). A file that changes on the server is an error and never a mixture of both. A user and a password in the URL are
 * sent as basic authentication. Messages show the URL without them, and without its query.
 *
 * Reads reject with a `BackingError`: `not-found` (404, 410), `permission` (401, 403, 407), `closed`, and `io` for everything else,
 * including a server without Range requests, and one whose headers a page may not see.
 *
 * @throws TypeError for wrong options, or an invalid URL; RangeError for an option out of range
 */
export function httpFile(url: string | { readonly href: string }, options: HttpFileOptions = {}): AsyncImageFile {
  return new HttpFile(url, options, PLATFORM_CLOCK)
}

export class HttpFile implements AsyncImageFile {
  readonly path: string
  readonly readOnly = true
  readonly preferredRead: number
  readonly #client: HttpClient
  readonly #limit: ParallelLimit
  #stretches: HttpStretches | undefined
  readonly #clock: Clock
  readonly #stretchAfter: number
  readonly #patience: PatienceOptions
  readonly #retries: number
  readonly #isImmutable: boolean
  readonly #generation: string | undefined
  #opening: Promise<OpenedFile> | undefined
  #opened: OpenedFile | undefined
  #version: FileVersion | undefined
  #isClosed = false
  /** Ends the waits before further tries. */
  readonly #waits = new Set<() => void>()

  /** `clock` and `stretchAfter` are for tests. */
  constructor(url: string | { readonly href: string }, options: HttpFileOptions, clock: Clock, stretchAfter = STRETCH_AFTER) {
    this.#stretchAfter = stretchAfter
    checkHttpOptions(options)
    const address = parseUrl(url)
    const headers = { ...checkedHeaders(options.headers ?? {}), ...takeCredentials(address) }
    this.path = address.origin + address.pathname
    this.preferredRead = options.preferredRead ?? HEAD_SIZE
    this.#clock = clock
    this.#patience = { timeout: options.timeout ?? 30_000, clock }
    this.#retries = options.retries ?? 5
    this.#isImmutable = options.immutable ?? false
    this.#generation = options.generation
    this.#limit = new ParallelLimit(options.maxParallel ?? 6)
    this.#client = new HttpClient({
      url: address, name: this.path, headers, credentials: options.credentials, ...this.#patience,
      fetch: options.fetch ?? platformFetch(),
    })
  }

  /** Undefined before the first answer of the server. */
  version(): DiskVersion | undefined {
    if (this.#version === undefined) return undefined
    return { image: this.path, generation: generationOf(this.#version) }
  }

  async size(): Promise<number> {
    return (await this.#open()).version.size
  }

  read(buffer: Uint8Array, offset: number): Promise<number> {
    return this.readScattered([buffer], offset)
  }

  async readScattered(buffers: readonly Uint8Array[], offset: number): Promise<number> {
    if (this.#isClosed) throw this.#closed()
    const { version, head } = this.#opened ?? (await this.#open())
    const length = Math.max(0, Math.min(totalLength(buffers), version.size - offset))
    const known = Math.min(length, Math.max(0, head.length - offset))
    const filler = new BufferFiller(buffers)
    filler.fill(head.subarray(offset, offset + known))
    const read = { end: offset + length, length, size: version.size, flows: false }
    if (known < length) await this.#readRest(offset + known, read, version, (piece) => filler.fill(piece))
    return length
  }

  get flowsFrom(): number | undefined {
    return this.#stretches?.next
  }

  async readFlow(offset: number, length: number, take: TakePiece): Promise<number> {
    if (this.#isClosed) throw this.#closed()
    const { version } = this.#opened ?? (await this.#open())
    const end = Math.min(offset + length, version.size)
    await this.#readRest(offset, { end, length: end - offset, size: version.size, flows: true }, version, take)
    return end - offset
  }

  /** Reads the rest of `read`, from `first` on. */
  async #readRest(first: number, read: StretchRead, version: FileVersion, take: TakePiece): Promise<void> {
    const brought = await this.#stretches?.at(first, read)?.read(take, read.end - first)
    const at = first + (brought ?? 0)
    if (at < read.end) await this.#fetchInTurn(at, read.end - at, take, version)
  }

  async #fetchInTurn(offset: number, length: number, take: TakePiece, version: FileVersion): Promise<void> {
    const turn = this.#limit.enter()
    if (turn !== undefined) await turn
    let left = length
    let isFramed = false
    await new Promise<void>((resolve, reject) => {
      const fetched = this.#fetch(offset, length, {
        head: (answer) => {
          isFramed = answer.isFramed
          return this.#checked(answer, version)
        },
        piece: (bytes) => {
          take(bytes)
          left -= bytes.length
          // The request ends on its own some 50 us later: do not wait for that.
          if (left === 0 && isFramed) resolve()
        },
      })
      void fetched.then(resolve, reject).then(() => this.#limit.leave())
    })
  }

  #checked(answer: RangeAnswer, version: FileVersion): FileVersion {
    checkVersion(version, answer.version, this.#context())
    return version
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#stretches?.close()
    this.#client.close()
    for (const end of this.#waits) end()
  }

  /** Opening may be tried again after a failure. */
  #open(): Promise<OpenedFile> {
    if (this.#isClosed) return Promise.reject(this.#closed())
    this.#opening ??= this.#fetchHead().catch((error: unknown) => {
      this.#opening = undefined
      throw error
    })
    return this.#opening
  }

  async #fetchHead(): Promise<OpenedFile> {
    let version: FileVersion | undefined
    const head = new Uint8Array(HEAD_SIZE)
    let end = 0
    await this.#fetch(0, HEAD_SIZE, {
      head: (answer) => {
        if (version === undefined) this.#requireValidator(answer.version)
        else this.#checked(answer, version)
        version = answer.version
        return version
      },
      piece: (bytes, at) => {
        head.set(bytes, at)
        end = at + bytes.length
      },
    })
    if (version === undefined) throw new BackingError("io", "the server sent no answer", { path: this.path })
    this.#requireGeneration(version)
    this.#version = version
    const opened = version
    const [client, limit, patience] = [this.#client, this.#limit, this.#patience]
    const after = this.#stretchAfter
    this.#stretches = new HttpStretches({ client, limit, patience, after, head: (answer) => this.#checked(answer, opened) })
    this.#opened = { version, head: head.slice(0, end) }
    return this.#opened
  }

  /**
   * Fetches `length` bytes from `offset`. The server may send them in several answers, and each may fail: bytes that have arrived are not
   * requested again. All answers up to a failure share one deadline, so that a server gains no time by short answers.
   */
  async #fetch(offset: number, length: number, sink: StretchSink): Promise<void> {
    let done = 0
    const answers: AnswerSink = {
      head: (answer) => {
        const { size } = sink.head(answer)
        length = Math.min(length, size - offset)
        if (answer.length > 0 || done >= length) return
        const message = `the server says that the file has ${size} bytes, but no byte ${offset + done}`
        throw new BackingError("io", message, { path: this.path })
      },
      piece: (bytes) => {
        sink.piece(bytes, done)
        done += bytes.length
      },
    }
    let deadline = deadlineOf(length, this.#patience)
    for (let failures = 0; done < length; ) {
      try {
        await this.#client.get({ first: offset + done, last: offset + length - 1 }, answers, deadline)
      } catch (error) {
        // All bytes have arrived: an answer that does not end after them is no reason to fail, or to wait.
        if (done >= length && error instanceof TransientError) return
        failures++
        await this.#beforeNextTry(error, failures)
        deadline = deadlineOf(length - done, this.#patience)
      }
    }
  }

  /** Resolves when it is time to try again. @throws the caller's error if another try is useless */
  async #beforeNextTry(error: unknown, failures: number): Promise<void> {
    if (error instanceof RedirectExpired) {
      if (failures > this.#retries + 1) throw error.error
    } else if (!(error instanceof TransientError)) {
      throw error
    } else if (failures > this.#retries) {
      const message = failures === 1 ? error.reason : `${error.reason} (after ${failures} tries)`
      throw new BackingError("io", message, { path: this.path, cause: error.cause ?? error })
    } else {
      await this.#wait(retryDelay(failures, error.wait, this.#clock))
    }
  }

  async #wait(delay: number): Promise<void> {
    if (!this.#isClosed) {
      await new Promise<void>((resolve) => {
        const end = (): void => {
          cancel()
          this.#waits.delete(end)
          resolve()
        }
        const cancel = this.#clock.after(delay, end)
        this.#waits.add(end)
      })
    }
    if (this.#isClosed) throw this.#closed()
  }

  #requireGeneration(version: FileVersion): void {
    const [wanted, found] = [this.#generation, generationOf(version)]
    if (wanted === undefined || wanted === found) return
    const remedy = "what was made over the old file, such as an overlay, cannot be used over this one"
    const message =
      `the file has changed on the server: its generation was ${wanted.slice(0, 100)} and is ${found.slice(0, 100)}; ${remedy}`
    throw new BackingError("io", message, { path: this.path })
  }

  #requireValidator(version: FileVersion): void {
    if (this.#isImmutable || hasValidator(version)) return
    const remedy = "pass immutable: true if the file never changes (a page sees an ETag only with Access-Control-Expose-Headers: ETag)"
    const message = `the server sends neither a strong ETag nor Last-Modified, so nobody would notice a change of the file; ${remedy}`
    throw new BackingError("io", message, { path: this.path })
  }

  #context(): { readonly name: string; readonly clock: Clock } {
    return { name: this.path, clock: this.#clock }
  }

  #closed(): BackingError {
    return new BackingError("closed", "the file is closed", { path: this.path })
  }
}

/** The generation in `version()` and in the option `generation`. */
function generationOf({ size, etag, lastModified }: FileVersion): string {
  return `${size}:${etag ?? lastModified ?? ""}`
}

interface OpenedFile {
  readonly version: FileVersion
  /** The first bytes of the file. */
  readonly head: Uint8Array
}

interface StretchSink {
  /** Checks an answer. Returns the version of the file that was opened. */
  head(answer: RangeAnswer): FileVersion
  /** `at`: bytes of the stretch before this piece. */
  piece(bytes: Uint8Array, at: number): void
}

function platformFetch(): HttpFetch {
  if (typeof fetch !== "function") throw new TypeError("httpFile: this platform has no fetch; pass one as the option fetch")
  return (url: string, init: HttpRequestInit) => fetch(url, init)
}
