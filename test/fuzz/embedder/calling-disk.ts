/**
 * The disk of the embedder fuzzer: a backing of any kind, which calls its embedder from inside of each call: before its work, after it,
 * before it fails, and when it has said that it answers later.
 */
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import type { Rng } from "../../support/rng.ts"

/** What a backing can do besides what each must: calls into RAM, with several buffers, answers later, at once if it can, or both. */
export const DISK_KINDS = ["plain", "into", "vectored", "late", "now", "mixed"] as const
export type DiskKind = (typeof DISK_KINDS)[number]

/** A call that has not been answered. */
export interface Waiting {
  /** Does its work and resolves, or rejects with `error`. */
  answer(error?: unknown): void
}

/** Who the disk belongs to. */
export interface Embedder {
  readonly rng: Rng
  /** Every call is answered at once. */
  readonly isCalm: boolean
  /** Bytes that the disk says it has: those of its content, or not. */
  size: number
  /** Calls that are late. */
  readonly waiting: Waiting[]
  /** Does whatever it likes to the device. */
  inside(where: string): void
  /** What the call fails with, if it does. */
  failure(): unknown
}

/** A disk, with its content. */
export type CallingDisk = VirtioBacking & { readonly content: Uint8Array }

type Answer = void | Promise<void>
type Enter = (name: string, work: () => void) => Answer

export function callingDisk(embedder: Embedder, kind: DiskKind, content: Uint8Array): CallingDisk {
  const isLate = kind === "late" || kind === "now" || kind === "mixed"
  const enter: Enter = (name, work) => {
    // One that answers at once works in RAM itself: a reset in between is not known to the device.
    if (isLate) embedder.inside(name)
    const error = embedder.failure()
    if (error !== undefined) {
      embedder.inside(`${name}, failing`)
      if (isLate && embedder.rng.chance(0.5)) return Promise.reject(error)
      throw error
    }
    if (isLate && !embedder.isCalm && (kind !== "mixed" || embedder.rng.chance(0.5))) {
      embedder.inside(`${name}, later`)
      return later(embedder, work)
    }
    work()
    return embedder.inside(`${name}, done`)
  }
  const read = (buffers: readonly Uint8Array[], offset: number): void => {
    for (const buffer of buffers) {
      // A view of memory that has been replaced meanwhile is empty.
      if (buffer.length > 0) buffer.set(content.subarray(offset, offset + buffer.length))
      offset += buffer.length
    }
  }
  const write = (buffers: readonly Uint8Array[], offset: number): void => {
    for (const buffer of buffers) {
      content.set(buffer, offset)
      offset += buffer.length
    }
  }
  return {
    get size() { return embedder.size },
    content,
    readOnly: false,
    ...(isLate && { asynchronous: true }),
    pread: (buffer, offset) => enter("pread", () => read([buffer], offset)),
    pwrite: (buffer, offset) => enter("pwrite", () => write([buffer], offset)),
    flush: () => enter("flush", () => undefined),
    discard: (offset, length) => enter("discard", () => void content.fill(0, offset, offset + length)),
    writeZeroes: (offset, length) => enter("writeZeroes", () => void content.fill(0, offset, offset + length)),
    close: () => undefined,
    ...(kind === "into" && inPlace(enter, read, write)),
    ...(kind === "vectored" && {
      preadv: (buffers: readonly Uint8Array[], offset: number) => enter("preadv", () => read(buffers, offset)),
      pwritev: (buffers: readonly Uint8Array[], offset: number) => enter("pwritev", () => write(buffers, offset)),
    }),
    ...(kind === "now" && atOnce(embedder, read, write)),
  }
}

type Transfer = (buffers: readonly Uint8Array[], offset: number) => void

function inPlace(enter: Enter, read: Transfer, write: Transfer): Pick<VirtioBacking, "preadInto" | "pwriteFrom"> {
  return {
    preadInto: (ram, start, length, offset) => void enter("preadInto", () => read([ram.subarray(start, start + length)], offset)),
    pwriteFrom: (ram, start, length, offset) => void enter("pwriteFrom", () => write([ram.subarray(start, start + length)], offset)),
  }
}

/** Half of what it is asked to do now it does now. */
function atOnce(embedder: Embedder, read: Transfer, write: Transfer): Pick<VirtioBacking, "preadNow" | "pwriteNow"> {
  const now = (name: string, transfer: Transfer) => (buffers: readonly Uint8Array[], offset: number): boolean => {
    if (embedder.rng.chance(0.5)) return false
    transfer(buffers, offset)
    embedder.inside(`${name}, done`)
    return true
  }
  return { preadNow: now("preadNow", read), pwriteNow: now("pwriteNow", write) }
}

function later({ waiting }: Embedder, work: () => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const answer = (error?: unknown): void => {
      if (error !== undefined) return reject(error)
      work()
      resolve()
    }
    waiting.push({ answer })
  })
}

/** An error of a kind that backings fail with. */
export function injected(rng: Rng, { hasBugs }: { readonly hasBugs: boolean }): Error {
  const error = rng.pick(["io", "no-space", ...(hasBugs ? (["bug"] as const) : [])] as const)
  return error === "bug" ? new Error("injected bug") : new BackingError(error, "injected")
}
