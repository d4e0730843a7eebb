/** Starts the worker of `opfsFile` from a blob: URL, so that a page need not serve another file. */
import { BackingError } from "../backing.ts"
import type { PlatformAbortSignal } from "./http/types.ts"
import { OPFS_WORKER_SOURCE } from "./opfs-worker-source.ts"

/** The part of a `Worker` that we use. */
export interface OpfsWorker {
  postMessage(message: unknown, transfer: object[]): void
  addEventListener(
    type: "error", listener: (event: { readonly message?: string }) => void, options: { readonly signal: PlatformAbortSignal },
  ): void
  terminate(): void
}

/** The part of a page's global scope that we use. */
interface PageScope {
  readonly Worker?: new (url: string) => OpfsWorker
  readonly Blob: new (parts: readonly string[], options: { readonly type: string }) => object
  readonly URL: { createObjectURL(blob: object): string; revokeObjectURL(url: string): void }
}

/** Advice for a page whose policy forbids our worker. */
export const WORKER_REMEDY = 'allow "worker-src blob:" in the Content Security Policy, or pass a worker that runs vioblk/opfs-worker'

/** @throws BackingError `unsupported` if there are no workers, or a policy forbids this one at once */
export function startWorker(path: string): OpfsWorker {
  const scope = globalThis as unknown as PageScope
  if (scope.Worker === undefined) throw new BackingError("unsupported", "cannot open: this platform has no web workers", { path })
  const url = scope.URL.createObjectURL(new scope.Blob([OPFS_WORKER_SOURCE], { type: "text/javascript" }))
  try {
    return new scope.Worker(url)
  } catch (error) {
    // A DOMException, because of the page's policy.
    throw new BackingError("unsupported", `cannot open: the browser starts no worker; ${WORKER_REMEDY}`, { path, cause: error })
  } finally {
    scope.URL.revokeObjectURL(url)
  }
}
