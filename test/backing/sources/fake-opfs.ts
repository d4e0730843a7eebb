/** The origin private file system of a browser that is not there: files in memory, opened as the standard says, and made to fail. */
import type { AccessHandle, DirectoryHandle, FileHandle, Locks, OpfsPort, OpfsScope } from "../../../src/backing/sources/opfs-service.ts"
import { OPFS_WORKER_SOURCE } from "../../../src/backing/sources/opfs-worker-source.ts"

export function exception(name: string): Error {
  return Object.assign(new Error(`${name} of the fake browser`), { name })
}

export class FakeFile implements FileHandle {
  bytes = new Uint8Array(0)
  /** Bytes that one read or write does at most. */
  atOnce = Number.POSITIVE_INFINITY
  /** Bytes that the file may have. Beyond that writes do less, or fail. */
  quota = Number.POSITIVE_INFINITY
  /** What each call is made to throw. */
  failure: Error | undefined
  /** What the next calls throw, one each. */
  readonly failures: Error[] = []
  flushes = 0
  isOpen = false

  async createSyncAccessHandle(options: { readonly mode: string }): Promise<AccessHandle> {
    if (options.mode !== "readwrite" && options.mode !== "read-only") throw new TypeError(`mode ${options.mode}`)
    if (this.isOpen) throw exception("NoModificationAllowedError")
    this.isOpen = true
    return new FakeHandle(this)
  }

  resize(size: number): void {
    const bytes = new Uint8Array(size)
    bytes.set(this.bytes.subarray(0, size))
    this.bytes = bytes
  }
}

class FakeHandle implements AccessHandle {
  readonly #file: FakeFile
  #isClosed = false

  constructor(file: FakeFile) {
    this.#file = file
  }

  read(buffer: Uint8Array, { at }: { readonly at: number }): number {
    this.#check()
    const part = this.#file.bytes.subarray(at, at + Math.min(buffer.length, this.#file.atOnce))
    buffer.set(part)
    return part.length
  }

  write(buffer: Uint8Array, { at }: { readonly at: number }): number {
    this.#check()
    const count = Math.max(0, Math.min(buffer.length, this.#file.atOnce, this.#file.quota - at))
    if (at + count > this.#file.bytes.length) this.#file.resize(at + count)
    this.#file.bytes.set(buffer.subarray(0, count), at)
    return count
  }

  truncate(size: number): void {
    this.#check()
    if (size > this.#file.quota) throw exception("QuotaExceededError")
    this.#file.resize(size)
  }

  getSize(): number {
    this.#check()
    return this.#file.bytes.length
  }

  flush(): void {
    this.#check()
    this.#file.flushes++
  }

  close(): void {
    this.#isClosed = true
    this.#file.isOpen = false
  }

  #check(): void {
    if (this.#isClosed) throw exception("InvalidStateError")
    const failure = this.#file.failures.shift() ?? this.#file.failure
    if (failure !== undefined) throw failure
  }
}

export class FakeDirectory implements DirectoryHandle {
  readonly entries = new Map<string, FakeDirectory | FakeFile>()
  /** The locks of the origin whose root this is. */
  readonly locks = new FakeLocks()

  async getDirectoryHandle(name: string, { create }: { readonly create: boolean }): Promise<FakeDirectory> {
    const found = this.#find(name) ?? (create ? new FakeDirectory() : undefined)
    if (found === undefined) throw exception("NotFoundError")
    if (found instanceof FakeFile) throw exception("TypeMismatchError")
    this.entries.set(name, found)
    return found
  }

  async getFileHandle(name: string, { create }: { readonly create: boolean }): Promise<FakeFile> {
    const found = this.#find(name) ?? (create ? new FakeFile() : undefined)
    if (found === undefined) throw exception("NotFoundError")
    if (found instanceof FakeDirectory) throw exception("TypeMismatchError")
    this.entries.set(name, found)
    return found
  }

  /** The file at `path`, made where it is missing. */
  file(name: string): FakeFile {
    const found = this.entries.get(name) ?? new FakeFile()
    if (found instanceof FakeDirectory) throw new Error(`${name} is a directory`)
    this.entries.set(name, found)
    return found
  }

  #find(name: string): FakeDirectory | FakeFile | undefined {
    if (name === "" || name === "." || name === "..") throw new TypeError(`Name is not allowed: "${name}"`)
    return this.entries.get(name)
  }
}

interface Waiter {
  readonly owner: object
  readonly act: () => Promise<void> | undefined
  readonly settle: () => void
}

/** The locks of an origin. Those of a thread that ends go to the next in line. */
export class FakeLocks {
  readonly #lines = new Map<string, Waiter[]>()

  /** The view of one thread. */
  of(owner: object): Locks {
    return {
      request: (name, { signal }, act) => new Promise((resolve, reject) => {
        const line = this.#lines.get(name) ?? []
        this.#lines.set(name, line)
        const waiter = { owner, act, settle: resolve }
        line.push(waiter)
        if (line.length === 1) this.#grant(name)
        signal?.addEventListener("abort", () => {
          if (this.#remove(name, waiter)) reject(exception("AbortError"))
        })
      }),
    }
  }

  /** The thread ends. */
  end(owner: object): void {
    for (const [name, line] of this.#lines) for (const waiter of line.filter((each) => each.owner === owner)) this.#remove(name, waiter)
  }

  /** How many are in any line. */
  get count(): number {
    return [...this.#lines.values()].reduce((sum, line) => sum + line.length, 0)
  }

  #remove(name: string, waiter: Waiter): boolean {
    const line = this.#lines.get(name) ?? []
    const at = line.indexOf(waiter)
    if (at >= 0) line.splice(at, 1)
    if (at === 0) this.#grant(name)
    return at >= 0
  }

  #grant(name: string): void {
    const [first] = this.#lines.get(name) ?? []
    void (async () => {
      await first?.act()
      if (first !== undefined && this.#remove(name, first)) first.settle()
    })()
  }
}

/** A browser's `navigator` with `root` as the origin's file system. */
export function fakeNavigator(root: FakeDirectory, owner: object = root): OpfsScope["navigator"] {
  return { storage: { getDirectory: async () => root }, locks: root.locks.of(owner) }
}

/** A worker that runs the text that `opfsFile` starts, in this thread. Messages arrive in later turns of the event loop. */
export class FakeWorker {
  isTerminated = false
  readonly #root: FakeDirectory
  readonly #scope: OpfsScope
  readonly #ports: OpfsPort[] = []
  readonly #listeners = new Set<(event: { readonly message?: string }) => void>()

  constructor(root: FakeDirectory, source = OPFS_WORKER_SOURCE) {
    this.#root = root
    this.#scope = { onmessage: null, navigator: fakeNavigator(root, this) }
    new Function("globalThis", source)(this.#scope)
  }

  postMessage(message: unknown, ports: object[]): void {
    const own = ports as OpfsPort[]
    this.#ports.push(...own)
    queueMicrotask(() => this.#scope.onmessage?.({ data: structuredClone(message) as never, ports: own }))
  }

  addEventListener(
    _type: "error", listener: (event: { readonly message?: string }) => void, { signal }: { readonly signal: AbortSignal },
  ): void {
    this.#listeners.add(listener)
    signal.addEventListener("abort", () => this.#listeners.delete(listener))
  }

  get listenerCount(): number {
    return this.#listeners.size
  }

  terminate(): void {
    this.isTerminated = true
    for (const port of this.#ports) port.close()
    this.#root.locks.end(this)
  }

  /** As when the browser does not load the worker, or an exception in it is not caught. */
  fail(message?: string): void {
    for (const listener of this.#listeners) listener(message === undefined ? {} : { message })
  }
}
