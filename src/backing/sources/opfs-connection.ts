/** A file's connection to the worker that has it open: requests by message, replies by number, errors as `BackingError`s. */
import { BackingError, type BackingErrorCode } from "../backing.ts"
import { opfsError } from "./opfs-errors.ts"
import type { OpfsOpening, OpfsPort, OpfsReply, OpfsRequest } from "./opfs-service.ts"
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
}

interface PageScope {
  readonly MessageChannel: new () => { readonly port1: OpfsPort; readonly port2: OpfsPort }
}

const NO_BYTES = new Uint8Array(0)

export class OpfsConnection {
  readonly #path: string
  readonly #worker: OpfsWorker
  /** The worker serves only this file, and ends with it. */
  readonly #isOwn: boolean
  readonly #port: OpfsPort
  readonly #remote: OpfsPort
  readonly #pending = new Map<number, Pending>()
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
    worker.addEventListener("error", ({ message }) => this.#workerFailed(message))
  }

  /** @throws BackingError the browser's error; then the connection is closed */
  async open(opening: OpfsOpening): Promise<void> {
    try {
      await this.#expect(0, "open", undefined, () => this.#worker.postMessage(opening, [this.#remote]))
    } catch (error) {
      this.#release()
      throw error
    }
    this.#isOpen = true
  }

  /** `doing` and `offset` are for the message of an error. @throws BackingError */
  ask(request: Omitted<OpfsRequest>, doing: string, offset?: number): Promise<Answer> {
    const id = this.#next++
    const transfer = request.call === "write" ? [request.bytes.buffer] : []
    return this.#expect(id, doing, offset, () => this.#port.postMessage({ ...request, id }, transfer))
  }

  /** Earlier requests are answered first. */
  async close(): Promise<void> {
    try {
      // If the worker has failed, the browser has closed the file.
      if (this.#end === undefined) {
        const closed = this.ask({ call: "close" }, "close")
        this.#end = new BackingError("closed", "the file is closed", { path: this.#path })
        await closed
      }
    } finally {
      this.#release()
    }
  }

  #expect(id: number, doing: string, offset: number | undefined, send: () => void): Promise<Answer> {
    if (this.#end !== undefined) return Promise.reject(this.#end)
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, doing, offset })
      send()
    })
  }

  #settle({ id, error, count = 0, bytes = NO_BYTES }: OpfsReply): void {
    const pending = this.#pending.get(id)
    this.#pending.delete(id)
    if (error === undefined) pending?.resolve({ count, bytes })
    else pending?.reject(opfsError(error, pending.doing, this.#path, pending.offset))
  }

  /** The worker threw, or did not load, for instance because of the page's policy. */
  #workerFailed(message: string | undefined): void {
    this.#end ??= new BackingError(...this.#whyFailed(message ?? "the browser does not say why"), { path: this.#path })
    for (const { reject } of this.#pending.values()) reject(this.#end)
    this.#pending.clear()
  }

  #whyFailed(message: string): readonly [BackingErrorCode, string] {
    if (this.#isOpen) return ["io", `the worker that has the file open has failed: ${message}`]
    if (!this.#isOwn) return ["unsupported", `cannot open: the worker that was passed does not run vioblk/opfs-worker: ${message}`]
    return ["unsupported", `cannot open: the browser does not run the worker; ${WORKER_REMEDY}`]
  }

  #release(): void {
    this.#port.close()
    if (this.#isOwn) this.#worker.terminate()
  }
}
