/** A file's connection to the worker that has it open: requests by message, replies by number, errors as `BackingError`s. */
import { BackingError, type BackingErrorCode } from "../backing.ts"
import { opfsError } from "./opfs-errors.ts"
import type { Locks, OpfsOpening, OpfsPort, OpfsReply, OpfsRequest } from "./opfs-service.ts"
import { type OpfsWorker, WORKER_REMEDY } from "./opfs-start.ts"

type Omitted<T> = T extends unknown ? Omit<T, "id"> : never

/** The content of a reply: bytes done, or the file's size; for a read, the bytes. */
interface Answer {
  readonly count: number
  readonly bytes: Uint8Array
}

interface Pending {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: BackingError) => void
  readonly doing: string
  readonly offset: number | undefined
  /** The largest count that an answer can have. */
  readonly most: number
}

interface PageScope {
  readonly navigator?: { readonly locks?: Locks }
  readonly MessageChannel: new () => { readonly port1: OpfsPort; readonly port2: OpfsPort }
}

const NO_BYTES = new Uint8Array(0)

/** How long the worker may take to load and to open the file. A worker that has ended, or knows no files, never answers. Milliseconds. */
const OPENING_PATIENCE = 30_000

function mostOf(request: Omitted<OpfsRequest>): number {
  if (request.call === "read") return request.length
  return request.call === "write" ? request.bytes.length : Number.MAX_SAFE_INTEGER
}

export class OpfsConnection {
  readonly #path: string
  readonly #worker: OpfsWorker
  /** The worker serves only this file, and ends with it. */
  readonly #isOwn: boolean
  readonly #port: OpfsPort
  readonly #remote: OpfsPort
  readonly #pending = new Map<number, Pending>()
  /** Ends the wait for the end of the worker, or for its failure. */
  readonly #released = new AbortController()
  #next = 1
  /** Why no request can be answered any more. */
  #end: BackingError | undefined
  #isOpen = false

  constructor(worker: OpfsWorker, about: { readonly path: string; readonly isOwn: boolean }) {
    this.#worker = worker
    this.#path = about.path
    this.#isOwn = about.isOwn
    const { port1, port2 } = new (globalThis as unknown as PageScope).MessageChannel()
    this.#port = port1
    this.#remote = port2
    port1.onmessage = ({ data }) => this.#settle(data)
    worker.addEventListener("error", ({ message }) => this.#workerFailed(message), { signal: this.#released.signal })
  }

  /** @throws BackingError the browser's error; then the connection is closed */
  async open(opening: OpfsOpening): Promise<void> {
    const patience = setTimeout(() => this.#workerFailed(`it has not answered for ${OPENING_PATIENCE / 1000} s`), OPENING_PATIENCE)
    try {
      await this.#expect(0, { doing: "open", offset: undefined, most: 0 }, () => this.#worker.postMessage(opening, [this.#remote]))
    } catch (error) {
      this.#release()
      throw error
    } finally {
      clearTimeout(patience)
    }
    this.#isOpen = true
  }

  /** `doing` and `offset` are for the message of an error. @throws BackingError */
  ask(request: Omitted<OpfsRequest>, doing: string, offset?: number): Promise<Answer> {
    const id = this.#next++
    const transfer = request.call === "write" ? [request.bytes.buffer] : []
    return this.#expect(id, { doing, offset, most: mostOf(request) }, () => this.#port.postMessage({ ...request, id }, transfer))
  }

  /** Earlier requests are answered first. */
  async close(): Promise<void> {
    try {
      // A worker that has failed closes the file, or the browser does.
      if (this.#end === undefined) {
        const closed = this.ask({ call: "close" }, "close")
        this.#end = new BackingError("closed", "the file is closed", { path: this.#path })
        await closed
      }
    } finally {
      this.#release()
    }
  }

  #expect(id: number, about: Omit<Pending, "resolve" | "reject">, send: () => void): Promise<Answer> {
    if (this.#end !== undefined) return Promise.reject(this.#end)
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, ...about })
      send()
    })
  }

  #settle({ id, error, life, count = 0, bytes = NO_BYTES }: OpfsReply): void {
    if (life !== undefined) this.#watch(life)
    const pending = this.#pending.get(id)
    if (pending === undefined) return
    this.#pending.delete(id)
    const { doing, offset, most } = pending
    if (error !== undefined) pending.reject(opfsError(error, doing, this.#path, offset))
    else if (Number.isInteger(count) && count >= 0 && count <= most) pending.resolve({ count, bytes })
    else pending.reject(new BackingError("io", `cannot ${doing}: the worker answers ${count}`, { path: this.#path, offset }))
  }

  /** A worker that is terminated, by its owner or for want of memory, sends no event, but the browser takes its lock from it. */
  #watch(life: string): void {
    const { signal } = this.#released
    const waiting = (globalThis as unknown as PageScope).navigator?.locks?.request(life, { signal }, () => undefined)
    // The other end of this promise is a DOMException: the file is closed, or the browser gives no locks.
    waiting?.then(() => this.#workerFailed("it has ended"), () => undefined)
  }

  /** The worker threw, has ended, or did not load, for instance because of the page's policy. */
  #workerFailed(message: string | undefined): void {
    const failure = new BackingError(...this.#whyFailed(message ?? "the browser does not say why"), { path: this.#path })
    this.#end ??= failure
    for (const { reject } of this.#pending.values()) reject(failure)
    this.#pending.clear()
    // A worker that threw goes on, and nobody else could open the file while it has it open.
    this.#port.postMessage({ call: "close", id: this.#next++ })
  }

  #whyFailed(message: string): readonly [BackingErrorCode, string] {
    if (this.#isOpen) return ["io", `the worker that has the file open has failed: ${message}`]
    if (!this.#isOwn) return ["unsupported", `cannot open: the worker that was passed does not run vioblk/opfs-worker: ${message}`]
    return ["unsupported", `cannot open: the browser does not run the worker: ${message}; ${WORKER_REMEDY}`]
  }

  #release(): void {
    this.#released.abort()
    this.#port.close()
    if (this.#isOwn) this.#worker.terminate()
  }
}
