/**
 * ReadAhead: finds out who reads a file in order, and says how far ahead of them to read. Several may do so at a time: a qcow2 image reads
 * tables and data, and a guest reads several files.
 *
 * Most of those who read in order stop somewhere, and what was read ahead is waste then. So nobody is read ahead for by more than they have
 * read in order (or by the first window): a reader costs at most twice what it reads.
 */

/** Somebody who reads in order. Pages. */
interface Stream {
  /** Where they began. */
  readonly start: number
  /** The page that comes next: everything before it has been asked for. */
  next: number
  /** How much was asked for ahead the last time. */
  window: number
  /** The page that asks for more when it is reached; undefined where that has happened. */
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
  /** Past the last. */
  readonly end: number
  /** They are for somebody who has read much in order, and is not likely to come back. */
  readonly isPassing: boolean
}

/** Those that are remembered. */
const MOST_STREAMS = 8
/** The first window, in pages. */
const FIRST_WINDOW = 4
/** A window's marker lies in this part of it at the latest: the next one is to be here when it is needed. */
const LATEST_MARKER = 3 / 4

export class ReadAhead {
  readonly #most: number
  readonly #long: number
  /** The latest last. */
  readonly #streams: Stream[] = []
  /** By their markers. */
  readonly #markers = new Map<number, Stream>()

  /** `most`: pages that are read ahead at most. `long`: pages that are much to have read in order. */
  constructor(most: number, long = Number.POSITIVE_INFINITY) {
    this.#most = most
    this.#long = long
  }

  isMarker(index: number): boolean {
    return this.#markers.has(index)
  }

  /** Somebody needs the pages `first` .. `last`, not all of which are here. Returns the pages to get with them. */
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
   * Somebody needs the pages `first` .. `last`, which are on their way or here. Returns the pages to read ahead, first and past the last,
   * if there is a marker among them.
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
    // Not the reader that the stream is for.
    if (from - first > 2 * this.#most) return
    const stream = this.#streams.find(({ start, next }) => start < first && next === from)
    if (stream === undefined) return
    this.#unmark(stream)
    stream.isFlowing = true
    if (first === from) stream.next = end
  }

  /**
   * Takes the next window for a reader who has come to `reached`: not shorter than the reader's own reads of `length` pages, twice as long
   * as the last one, and no longer than what has been read in order allows. Its marker lies where the one after it may be as long as that.
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
