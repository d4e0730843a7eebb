/**
 * An ImageFile that records every change with its content, so that a crash at any point can be reconstructed: any prefix of the log, or any
 * subset and order of the changes between two syncs.
 */
import type { ImageFile } from "../../src/backing/image-file.ts"
import { MemoryFile } from "./memory-file.ts"
import type { Rng } from "./rng.ts"

/** `to`: the changed file, if several files share one log. */
export type FileChange = { readonly to?: string | undefined } & (
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "truncate"; readonly size: number }
  | { readonly kind: "punch"; readonly offset: number; readonly length: number }
  | { readonly kind: "sync" }
)

export class RecordingFile implements ImageFile {
  readonly path: string
  readonly readOnly: boolean
  readonly log: FileChange[]
  readonly #inner: ImageFile
  readonly #to: string | undefined

  /** `shared`: a log shared with other files, and this file's name in it. */
  constructor(inner: ImageFile, shared?: { readonly log: FileChange[]; readonly to: string }) {
    this.#inner = inner
    this.log = shared?.log ?? []
    this.#to = shared?.to
    this.path = inner.path
    this.readOnly = inner.readOnly
  }

  size(): number {
    return this.#inner.size()
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.#inner.read(buffer, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    return this.#inner.readInto(buffer, start, length, offset)
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    return this.#inner.readv(buffers, offset)
  }

  write(buffer: Uint8Array, offset: number): void {
    this.#inner.write(buffer, offset)
    this.log.push({ to: this.#to, kind: "write", offset, data: buffer.slice() })
  }

  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.write(buffer.subarray(start, start + length), offset)
  }

  writev(buffers: readonly Uint8Array[], offset: number): void {
    let at = offset
    // One entry for each buffer, because a vectored write need not reach the disk in one piece.
    for (const buffer of buffers) {
      this.write(buffer, at)
      at += buffer.length
    }
  }

  truncate(size: number): void {
    this.#inner.truncate(size)
    this.log.push({ to: this.#to, kind: "truncate", size })
  }

  punchHole(offset: number, length: number): boolean {
    const done = this.#inner.punchHole?.(offset, length) ?? false
    if (done) this.log.push({ to: this.#to, kind: "punch", offset, length })
    return done
  }

  sync(): void {
    this.#inner.sync()
    this.log.push({ to: this.#to, kind: "sync" })
  }

  close(): void {
    this.#inner.close()
  }
}

/** Applies one change to `file`; a sync changes nothing. */
export function applyChange(file: ImageFile, change: FileChange): void {
  if (change.kind === "write") file.write(change.data, change.offset)
  else if (change.kind === "truncate") file.truncate(change.size)
  else if (change.kind === "punch") file.punchHole?.(change.offset, change.length)
}

/**
 * A possible content of the disk after power fails during the `length`-th change: everything synced, and any of the later changes, torn at
 * sectors.
 */
export function crashedFile(base: MemoryFile, log: readonly FileChange[], length: number, rng: Rng): MemoryFile {
  const file = base.clone()
  let synced = 0
  for (let at = 0; at < length; at++) if (log[at]?.kind === "sync") synced = at + 1
  for (let at = 0; at < synced; at++) applyChange(file, log[at] as FileChange)
  // Changes that are not synced may arrive in any order, in part, or not at all. As in a disk's cache, only the order within a sector is
  // kept: later content of a sector replaces the earlier one.
  const pending = sectorWrites(log.slice(synced, length))
  const keep = rng.pick([0.1, 0.5, 0.9])
  for (const change of pending) if (rng.chance(keep)) applyChange(file, change)
  return file
}

/** Cuts writes at multiples of 512 bytes, because disks write at most a sector atomically. */
function sectorWrites(changes: readonly FileChange[]): FileChange[] {
  const parts: FileChange[] = []
  for (const change of changes) {
    if (change.kind !== "write") {
      parts.push(change)
      continue
    }
    let at = 0
    while (at < change.data.length) {
      const offset = change.offset + at
      const length = Math.min(512 - (offset % 512), change.data.length - at)
      parts.push({ kind: "write", offset, data: change.data.subarray(at, at + length) })
      at += length
    }
  }
  return parts
}
