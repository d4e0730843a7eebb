/**
 * Flow: reads of somebody who reads much in order, past the pages. The source sends the bytes that come next without being asked, and each
 * goes to the reader's buffer at once: one copy in place of two. The disk is a fifth faster for it over HTTP (measured).
 */
import type { AsyncImageFile } from "../async-image-file.ts"
import type { TakePiece } from "../image-file.ts"
import type { Demand } from "./demand.ts"
import { sourceError } from "./source-error.ts"

export interface FlowOptions {
  /** Nobody changes it. */
  readonly source: AsyncImageFile
  readonly demand: Demand
  readonly pageSize: number
  /** Of the source, in bytes. */
  readonly size: number
}

export class Flow {
  readonly #options: FlowOptions

  constructor(options: FlowOptions) {
    this.#options = options
  }

  /**
   * Hands the next `length` bytes to `take` as they come. Resolves to the bytes read. Undefined where the source sends none from `offset`
   * on: they are to be read from pages then, which may have been read ahead. No more of them are for a reader who comes to the flow behind
   * them.
   */
  read(offset: number, length: number, take: TakePiece): Promise<number> | undefined {
    const { source, demand, pageSize, size } = this.#options
    const from = source.flowsFrom
    const end = offset + length
    if (from === undefined || from < offset || length <= 0) return undefined
    // Whoever reads parts of pages would read the other parts again.
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
