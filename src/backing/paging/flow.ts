/**
 * Flow: long sequential reads that bypass the pages. The source has a stream running, and each byte goes straight into the reader's buffer:
 * one copy instead of two. A 1 GiB read over HTTP takes a fifth less time (measured).
 */
import type { AsyncImageFile } from "../async-image-file.ts"
import type { TakePiece } from "../image-file.ts"
import type { Demand } from "./demand.ts"
import { sourceError } from "./source-error.ts"

export interface FlowOptions {
  /** Never changes. */
  readonly source: AsyncImageFile
  readonly demand: Demand
  readonly pageSize: number
  /** Bytes in the source. */
  readonly size: number
}

export class Flow {
  readonly #options: FlowOptions

  constructor(options: FlowOptions) {
    this.#options = options
  }

  /**
   * Passes the next `length` bytes to `take` as they arrive. Resolves to the bytes read. Undefined if the stream is not at `offset`: the
   * caller then reads pages. If the stream is ahead of the reader, pages that were read ahead lie between; no more are read ahead for this
   * reader, so that it catches up with the stream.
   */
  read(offset: number, length: number, take: TakePiece): Promise<number> | undefined {
    const { source, demand, pageSize, size } = this.#options
    const from = source.flowsFrom
    const end = offset + length
    if (from === undefined || from < offset || length <= 0) return undefined
    // A reader that starts inside a page never catches up: what it misses is loaded in whole pages.
    if (offset % pageSize !== 0 || (end % pageSize !== 0 && end !== size)) return undefined
    demand.flows({ from: from / pageSize, first: offset / pageSize, end: Math.ceil(end / pageSize) })
    return from === offset ? this.#read(offset, length, take) : undefined
  }

  async #read(offset: number, length: number, take: TakePiece): Promise<number> {
    const { source } = this.#options
    let done = 0
    try {
      await source.readFlow?.(offset, length, (piece) => {
        done += piece.length
        take(piece)
      })
    } catch (error) {
      throw sourceError(error, `read ${length} bytes`, source.path, offset)
    }
    return done
  }
}
