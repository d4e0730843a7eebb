/**
 * ReadAhead detects readers that read a file in order, and decides how far to read ahead of each. There may be several: a qcow2 image reads
 * tables and data, and a guest reads several files.
 *
 * Most sequential readers stop somewhere, and then the pages read ahead are waste. So a reader gets at most as much read ahead as it has
 * read in order (or the first window), and costs at most twice what it reads.
 */

/** A sequential reader. Numbers are pages. */
interface Stream {
  /** The page where it began. */
  readonly start: number
  /** The next page: everything before it has been requested. */
  next: number
  /** Pages that were requested ahead the last time. */
  window: number
  /** The page that requests more when it is reached; undefined once that has happened. */
  marker: number | undefined
  /** The reader takes the next bytes from the source's stream: nothing is read ahead for it. */
  isFlowing: boolean
}

/** A reader of the pages `first` .. `end - 1`. The source's stream is at page `from`. */
export interface FlowReader {
  readonly first: number
  readonly end: number
  readonly from: number
}

/** Pages to read ahead. */
export interface Ahead {
  readonly first: number
  /** Past the last page. */
  readonly end: number
  /** The pages are for a long sequential reader, which will probably not come back. */
  readonly isPassing: boolean
}

/** Most readers to remember. */
const MOST_STREAMS = 8
/** The first window, in pages. */
const FIRST_WINDOW = 4
/** The latest place of a marker, as a share of its window, so that the next window arrives before it is needed. */
const LATEST_MARKER = 3 / 4

export class ReadAhead {
  readonly #most: number
  readonly #long: number
  /** The most recently used last. */
  readonly #streams: Stream[] = []
  /** By their markers. */
  readonly #markers = new Map<number, Stream>()

  /** `most`: most pages to read ahead. `long`: pages in order that make a reader a long one. */
  constructor(most: number, long = Number.POSITIVE_INFINITY) {
    this.#most = most
    this.#long = long
  }

  isMarker(index: number): boolean {
    return this.#markers.has(index)
  }

  /** The pages `first` .. `last` are needed, and some are missing. Returns the pages to get with them. */
  missed(first: number, last: number): Ahead {
    const at = this.#streams.findIndex(({ next }) => first === next)
    const [stream = { start: first, next: 0, window: 0, marker: undefined, isFlowing: false }] = at < 0 ? [] : this.#streams.splice(at, 1)
    if (at < 0 && this.#streams.length >= MOST_STREAMS) this.#unmark(this.#streams.shift())
    this.#streams.push(stream)
    stream.next = last + 1
    const isAhead = at >= 0 && this.#most > 0 && !stream.isFlowing
    stream.isFlowing = false
    const end = isAhead ? this.#widen(stream, { reached: last + 1, length: last + 1 - first }) : stream.next
    return { first: last + 1, end, isPassing: last + 1 - stream.start >= this.#long }
  }

  /**
   * The pages `first` .. `last` are needed, and are in memory or being read. Returns the pages to read ahead if there is a marker among
   * them.
   */
  reached(first: number, last = first): Ahead | undefined {
    let stream: Stream | undefined
    for (let index = first; index <= last && stream === undefined; index++) stream = this.#markers.get(index)
    if (stream === undefined) return undefined
    stream.next = Math.max(stream.next, last + 1)
    const begin = stream.next
    const end = this.#widen(stream, { reached: last + 1, length: last + 1 - first })
    return { first: begin, end, isPassing: begin - stream.start >= this.#long }
  }

  /** Stops reading ahead for a reader that can use the source's stream once it has read the pages before it. */
  flows({ first, end, from }: FlowReader): void {
    // This reader is too far behind: the stream is for another one.
    if (from - first > 2 * this.#most) return
    const stream = this.#streams.find(({ start, next }) => start < first && next === from)
    if (stream === undefined) return
    this.#unmark(stream)
    stream.isFlowing = true
    if (first === from) stream.next = end
  }

  /**
   * Sets the next window of a reader that has come to page `reached`. It is twice as long as the last window, or as long as the reader's
   * own reads of `length` pages, but not longer than the pages read in order allow. The marker is placed so that, when the reader reaches
   * it, the window after this one may again be twice as long. Returns the end of the window.
   */
  #widen(stream: Stream, { reached, length }: { readonly reached: number; readonly length: number }): number {
    const allowed = reached - stream.start - (stream.next - reached)
    const wanted = Math.max(length, stream.window * 2)
    const window = Math.min(this.#most, Math.max(1, Math.floor(Math.min(wanted, allowed) / FIRST_WINDOW)) * FIRST_WINDOW)
    const read = stream.next - stream.start
    const marker = Math.ceil((Math.min(this.#most, window * 2) + window - read) / 2)
    this.#unmark(stream)
    stream.window = window
    stream.marker = stream.next + Math.max(0, Math.min(marker, Math.floor(window * LATEST_MARKER)))
    this.#markers.set(stream.marker, stream)
    stream.next += window
    return stream.next
  }

  #unmark(stream: Stream | undefined): void {
    if (stream?.marker === undefined) return
    if (this.#markers.get(stream.marker) === stream) this.#markers.delete(stream.marker)
    stream.marker = undefined
  }
}
