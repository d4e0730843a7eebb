/** Starts the worker behind `opfsFile` from a blob: URL, so that a page has no other file to serve. */
import { BackingError } from "../backing.ts"
import { OPFS_WORKER_SOURCE } from "./opfs-worker-source.ts"

/** What we use of a `Worker`. */
export interface OpfsWorker {
  postMessage(message: unknown, transfer: object[]): void
  addEventListener(type: "error", listener: (event: { readonly message?: string }) => void): void
  terminate(): void
}

/** What we use of a page's global scope. */
interface PageScope {
  readonly Worker?: new (url: string) => OpfsWorker
  readonly Blob: new (parts: readonly string[], options: { readonly type: string }) => object
  readonly URL: { createObjectURL(blob: object): string; revokeObjectURL(url: string): void }
}

/** What a page can do whose policy does not let us start it. */
export const WORKER_REMEDY = 'allow "worker-src blob:" in the Content Security Policy, or pass a worker that runs vioblk/opfs-worker'

/** @throws BackingError `unsupported` where there are no workers, or a policy forbids this one at once */
export function startWorker(path: string): OpfsWorker {
  const scope = globalThis as unknown as PageScope
  if (scope.Worker === undefined) throw new BackingError("unsupported", "cannot open: there are no workers of a browser here", { path })
  const url = scope.URL.createObjectURL(new scope.Blob([OPFS_WORKER_SOURCE], { type: "text/javascript" }))
  try {
    return new scope.Worker(url)
  } catch (error) {
    // A DOMException: the policy of the page.
    throw new BackingError("unsupported", `cannot open: the browser starts no worker; ${WORKER_REMEDY}`, { path, cause: error })
  } finally {
    scope.URL.revokeObjectURL(url)
  }
}
