/**
 * ReadAhead: finds out who reads a file in order, and says how far ahead of them to read. Several may do so at a time: a qcow2 image reads
 * tables and data, and a guest reads several files.
 */

/** Somebody who reads in order. Pages. */
interface Stream {
  /** The page that comes next: everything before it has been asked for. */
  next: number
  /** How much was asked for ahead the last time. */
  window: number
  /** The page that asks for more when it is reached; undefined where that has happened. */
  marker: number | undefined
}

/** Those that are remembered. */
const MOST_STREAMS = 8
/** The first window, in pages. */
const FIRST_WINDOW = 4

export class ReadAhead {
  readonly #most: number
  /** The latest last. */
  readonly #streams: Stream[] = []
  /** By their markers. */
  readonly #markers = new Map<number, Stream>()

  /** `most`: pages that are read ahead at most. */
  constructor(most: number) {
    this.#most = most
  }

  isMarker(index: number): boolean {
    return this.#markers.has(index)
  }

  /** Somebody needs the pages `first` .. `last`, not all of which are here. Returns past the last page to get with them. */
  missed(first: number, last: number): number {
    const at = this.#streams.findIndex(({ next }) => first === next)
    const [stream = { next: 0, window: 0, marker: undefined }] = at < 0 ? [] : this.#streams.splice(at, 1)
    if (at < 0 && this.#streams.length >= MOST_STREAMS) this.#unmark(this.#streams.shift())
    this.#streams.push(stream)
    stream.next = last + 1
    if (at < 0 || this.#most === 0) return stream.next
    return this.#widen(stream, last + 1 - first)
  }

  /**
   * The page `index`, a marker, has been reached by somebody who needs the pages up to `last`. Returns the pages to read ahead: first, and
   * past the last.
   */
  reached(index: number, last = index): { readonly first: number; readonly end: number } | undefined {
    const stream = this.#markers.get(index)
    if (stream === undefined) return undefined
    this.#unmark(stream)
    stream.next = Math.max(stream.next, last + 1)
    const first = stream.next
    return { first, end: this.#widen(stream, last + 1 - index) }
  }

  /** Takes the next window, not shorter than the reader's own reads of `length` pages. Its first page asks for the one after it. */
  #widen(stream: Stream, length: number): number {
    stream.window = Math.min(this.#most, Math.max(FIRST_WINDOW, length, stream.window * 2))
    this.#unmark(stream)
    stream.marker = stream.next
    this.#markers.set(stream.next, stream)
    stream.next += stream.window
    return stream.next
  }

  #unmark(stream: Stream | undefined): void {
    if (stream?.marker === undefined) return
    if (this.#markers.get(stream.marker) === stream) this.#markers.delete(stream.marker)
    stream.marker = undefined
  }
}
