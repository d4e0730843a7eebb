/**
 * Opens files of the origin private file system (OPFS), which browsers open for synchronous access only in workers, and serves them to a
 * page's thread from such a worker. This file imports nothing: `opfs-worker-source.ts` holds its JavaScript as text. [FS] is the standard
 * https://fs.spec.whatwg.org.
 */

/** The part of the browser's FileSystemSyncAccessHandle that we use. Reads and writes return the bytes done, which may be too few. */
export interface AccessHandle {
  read(buffer: Uint8Array, options: { readonly at: number }): number
  write(buffer: Uint8Array, options: { readonly at: number }): number
  truncate(size: number): void
  getSize(): number
  flush(): void
  close(): void
}

/** The part of FileSystemFileHandle that we use. */
export interface FileHandle {
  createSyncAccessHandle?(options: { readonly mode: "readwrite" | "read-only" }): Promise<AccessHandle>
}

/** The part of FileSystemDirectoryHandle that we use. */
export interface DirectoryHandle {
  getDirectoryHandle(name: string, options: { readonly create: boolean }): Promise<DirectoryHandle>
  getFileHandle(name: string, options: { readonly create: boolean }): Promise<FileHandle>
}

/** Which file to open, and how. */
export interface OpfsOpening {
  /** Names with "/" between them, from the root of the origin's file system. */
  readonly path: string
  /** Make the file and its folders if they are missing. */
  readonly create: boolean
  readonly readOnly: boolean
}

/** A page's request for a file in the worker. `id` comes back with the reply. */
export type OpfsRequest = { readonly id: number } & (
  | { readonly call: "read"; readonly length: number; readonly offset: number }
  | { readonly call: "write"; readonly bytes: Uint8Array; readonly offset: number }
  | { readonly call: "truncate"; readonly size: number }
  | { readonly call: "size" | "flush" | "close" }
)

/**
 * The reply: a number of bytes and, for a read, the bytes; or the name and the message of an error. The opening has the id 0, and its reply
 * the name of a lock that the worker holds until it ends.
 */
export interface OpfsReply {
  readonly id: number
  readonly life?: string | undefined
  readonly count?: number
  readonly bytes?: Uint8Array
  readonly error?: { readonly name: string; readonly message: string }
}

/** The part of a MessagePort that we use. */
export interface OpfsPort {
  postMessage(message: unknown, transfer?: readonly object[]): void
  onmessage: ((event: { readonly data: never }) => void) | null
  close(): void
}

/** The part of the browser's LockManager that we use. A lock is free again when the promise of `act` settles, or its thread ends. */
export interface Locks {
  request(name: string, options: { readonly signal?: AbortSignal }, act: () => Promise<void> | undefined): Promise<void>
}

/** The part of a worker's global scope that we use. */
export interface OpfsScope {
  onmessage: ((event: { readonly data: never; readonly ports: readonly OpfsPort[] }) => void) | null
  readonly navigator: { readonly storage?: { getDirectory?(): Promise<DirectoryHandle> }; readonly locks?: Locks }
}

/**
 * Opens a file for synchronous access. Nobody else can open it for writing until it is closed.
 * @throws what the browser throws, a DOMException or a TypeError; `unavailable` is the name of the error where it has no OPFS
 */
export async function openAccessHandle(opening: OpfsOpening, scope: Pick<OpfsScope, "navigator">): Promise<AccessHandle> {
  const root = await scope.navigator.storage?.getDirectory?.()
  if (root === undefined) throw unavailable("there is no origin private file system here; it needs https, or localhost")
  const { create, readOnly, path } = opening
  const folders = path.split("/")
  // The browser would refuse them too, after it has made the folders before them.
  if (folders.some((part) => ["", ".", ".."].includes(part))) throw new TypeError('the path has a part that is empty, "." or ".."')
  const name = folders.pop() ?? ""
  let folder = root
  for (const part of folders) folder = await folder.getDirectoryHandle(part, { create })
  const file = await folder.getFileHandle(name, { create })
  if (file.createSyncAccessHandle === undefined) {
    throw unavailable("only a worker can open it for synchronous access; opfsFile works on every thread")
  }
  return file.createSyncAccessHandle({ mode: readOnly ? "read-only" : "readwrite" })
}

/** Serves each file whose opening `scope` is sent with a port, on that port, one request after the other. */
export function serveOpfs(scope: OpfsScope): void {
  const life = holdLock(scope)
  scope.onmessage = ({ data, ports }) => {
    for (const port of ports) void serveFile(data, port, { scope, life })
  }
}

/** Takes a lock for as long as this worker lives. Undefined where there are no locks. */
function holdLock({ navigator: { locks } }: OpfsScope): Promise<string | undefined> {
  const name = ["vioblk/opfs-worker", Math.random(), Math.random()].join(" ")
  return new Promise((resolve) => {
    if (locks === undefined) return resolve(undefined)
    const held = locks.request(name, {}, () => {
      resolve(name)
      return new Promise(() => undefined)
    })
    // A DOMException, because the browser gives no locks to this origin.
    held.catch(() => resolve(undefined))
  })
}

/** What the files of a worker share. */
interface Serving {
  readonly scope: OpfsScope
  readonly life: Promise<string | undefined>
}

async function serveFile(opening: OpfsOpening, port: OpfsPort, { scope, life }: Serving): Promise<void> {
  try {
    const handle = await openAccessHandle(opening, scope)
    port.onmessage = ({ data }) => answer(data, handle, port)
    port.postMessage({ id: 0, life: await life })
  } catch (error) {
    port.postMessage({ id: 0, error: failure(error) })
  }
}

function answer(request: OpfsRequest, handle: AccessHandle, port: OpfsPort): void {
  const { id } = request
  try {
    if (request.call === "read") {
      const bytes = new Uint8Array(request.length)
      const count = handle.read(bytes, { at: request.offset })
      port.postMessage({ id, count, bytes }, [bytes.buffer])
      return
    }
    const count = act(request, handle)
    port.postMessage({ id, count })
    if (request.call === "close") port.close()
  } catch (error) {
    port.postMessage({ id, error: failure(error) })
  }
}

function act(request: Exclude<OpfsRequest, { readonly call: "read" }>, handle: AccessHandle): number {
  switch (request.call) {
    case "write":
      return handle.write(request.bytes, { at: request.offset })
    case "truncate":
      handle.truncate(request.size)
      return 0
    case "size":
      return handle.getSize()
    case "flush":
      handle.flush()
      return 0
    case "close":
      handle.close()
      return 0
  }
}

function unavailable(message: string): Error {
  return Object.assign(new Error(message), { name: "unavailable" })
}

/** Errors lose their class on the way to another thread, and some of them their name. */
function failure(error: unknown): { readonly name: string; readonly message: string } {
  const { name, message } = error as { readonly name?: unknown; readonly message?: unknown }
  return { name: String(name), message: String(message) }
}
