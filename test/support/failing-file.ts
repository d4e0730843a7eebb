/** An ImageFile that fails at a chosen call, once or from then on, like a dying or a full disk. */
import { BackingError } from "../../src/backing/backing.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"

export type FileCall = "read" | "write" | "truncate" | "sync"

export interface FailurePlan {
  /** The call that fails, counted from 1 over those whose kind is in `calls`. */
  readonly at: number
  readonly code: "io" | "no-space"
  readonly calls: readonly FileCall[]
  /** "once": only that call. "for-good": it and all later ones of these kinds. */
  readonly duration: "once" | "for-good"
  /** A failing write stores about this share of its bytes before it fails, whole sectors only, as a host does. Default 0. */
  readonly partial?: number
}

export class FailingFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  /** Calls that failed so far. */
  failures = 0
  /** Calls counted so far. */
  calls = 0
  plan: FailurePlan | undefined
  readonly #inner: ImageFile

  constructor(inner: ImageFile, plan?: FailurePlan) {
    this.#inner = inner
    this.path = inner.path
    this.readOnly = inner.readOnly
    this.plan = plan
  }

  size(): number {
    return this.#inner.size()
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.readInto(buffer, 0, buffer.length, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    // An empty read does not reach the host.
    if (length > 0 && this.#fails("read")) throw this.#error("read", offset)
    return this.#inner.readInto(buffer, start, length, offset)
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    if (this.#fails("read")) throw this.#error("read", offset)
    return this.#inner.readv(buffers, offset)
  }

  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    if (this.#fails("write")) {
      const stored = Math.floor((offset + length * (this.plan?.partial ?? 0)) / 512) * 512 - offset
      if (stored > 0) this.#inner.writeFrom(buffer, start, stored, offset)
      throw this.#error("write", offset)
    }
    this.#inner.writeFrom(buffer, start, length, offset)
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    if (this.#fails("write")) throw this.#error("write", offset)
    this.#inner.writev(buffers, offset)
  }

  truncate(size: number): void {
    if (this.#fails("truncate")) throw this.#error("truncate", size)
    this.#inner.truncate(size)
  }

  punchHole(offset: number, length: number): boolean {
    return this.#inner.punchHole?.(offset, length) ?? false
  }

  sync(): void {
    if (this.#fails("sync")) throw this.#error("sync", 0)
    this.#inner.sync()
  }

  close(): void {
    this.#inner.close()
  }

  #fails(call: FileCall): boolean {
    const plan = this.plan
    if (plan === undefined || !plan.calls.includes(call)) return false
    this.calls++
    const fails = plan.duration === "once" ? this.calls === plan.at : this.calls >= plan.at
    if (fails) this.failures++
    return fails
  }

  #error(call: FileCall, offset: number): BackingError {
    return new BackingError(this.plan?.code ?? "io", `injected: ${call} failed at byte ${offset}`, { path: this.path, offset })
  }
}
