/** The image file as the rest of qcow2 sees it: what lies past its end reads as zeroes, and it knows which bytes were never written. */
import { BackingError, type DiskVersion, type Versioned, versionOf } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import { fillZeroFrom } from "../../buffers.ts"

/**
 * Metadata of the image in `file` that cannot be right. The image that meets it marks itself corrupt; one above it in a backing chain does
 * not.
 */
export class CorruptMetadata extends BackingError {
  readonly file: ClusterFile
  /** The message without the path. */
  readonly reason: string

  constructor(file: ClusterFile, reason: string, offset: number) {
    super("corrupt", reason, { path: file.path, offset })
    this.file = file
    this.reason = reason
  }
}

export class ClusterFile {
  readonly path: string
  /** Bytes that the file can have at most. */
  readonly largestSize: number = 0
  readonly #file: ImageFile
  /**
   * No byte from here on was ever written, so a file that grows past here reads as zeroes where nothing was stored. Raised before a write
   * is tried, because a failed write may have stored a part.
   */
  #usedEnd: number = 0
  #isChanged = false
  /** Bytes of the file when it was opened: whoever made it end there may look for something at its end. */
  readonly #sizeAtFirst: number = 0
  /** The file ends with bytes that are not the image's. */
  #hasTrailer = false

  constructor(file: ImageFile) {
    this.#file = file
    this.path = file.path
    this.largestSize = file.largestSize ?? Number.POSITIVE_INFINITY
    this.#usedEnd = file.size()
    this.#sizeAtFirst = this.#usedEnd
  }

  /** The error for metadata at byte `offset` that cannot be right. */
  corrupt(reason: string, offset: number): CorruptMetadata {
    return new CorruptMetadata(this, reason, offset)
  }

  /** Whether everything from `offset` on is a hole that reads as zeroes. */
  isUnused(offset: number): boolean {
    return offset >= this.#usedEnd
  }

  /** End of what was ever written, in bytes: the file's size, or a little beyond. */
  get usedEnd(): number {
    return this.#usedEnd
  }

  /** Treats everything below `end` as written from now on. */
  claim(end: number): void {
    if (end > this.#usedEnd) this.#usedEnd = end
  }

  /** Fills `buffer`; bytes past the end of the file are zero (QC-L2-09). */
  read(buffer: Uint8Array, offset: number): void {
    this.readInto(buffer, 0, buffer.length, offset)
  }

  /** `read` into `buffer[start .. start + length)`. */
  readInto(buffer: Uint8Array, start: number, length: number, offset: number): void {
    const done = this.#file.readInto(buffer, start, length, offset)
    if (done < length) buffer.fill(0, start + done, start + length)
  }

  /** Whether there is another thread for `readLater`. */
  get readsLater(): boolean {
    return this.#file.readLater !== undefined
  }

  /** `read` on another thread, where there is one. */
  async readLater(buffer: Uint8Array, offset: number): Promise<void> {
    buffer.fill(0, await (this.#file.readLater?.(buffer, offset) ?? this.#file.read(buffer, offset)))
  }

  /** Reads what there is and returns the count. */
  readSome(buffer: Uint8Array, offset: number): number {
    return this.#file.read(buffer, offset)
  }

  /** Fills all of `buffers`; bytes past the end of the file are zero. */
  readv(buffers: readonly Uint8Array[], offset: number, length: number): void {
    const only = buffers.length === 1 ? buffers[0] : undefined
    if (only !== undefined) {
      this.readInto(only, 0, only.length, offset)
      return
    }
    const done = this.#file.readv(buffers, offset)
    if (done < length) fillZeroFrom(buffers, done)
  }

  write(buffer: Uint8Array, offset: number): void {
    this.writeFrom(buffer, 0, buffer.length, offset)
  }

  /** `write` from `buffer[start .. start + length)`. */
  writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.claim(offset + length)
    this.#isChanged = true
    this.#file.writeFrom(buffer, start, length, offset)
  }

  writev(buffers: readonly Uint8Array[], offset: number, length: number): void {
    const only = buffers.length === 1 ? buffers[0] : undefined
    if (only !== undefined) {
      this.writeFrom(only, 0, only.length, offset)
      return
    }
    this.claim(offset + length)
    this.#isChanged = true
    this.#file.writev(buffers, offset)
  }

  sync(): void {
    this.#file.sync()
  }

  /** Makes a file that has grown end on a cluster border, as other programs leave it, where it can. */
  padTo(clusterSize: number): void {
    if (!this.#isChanged || this.#hasTrailer) return
    const size = this.#file.size()
    if (size === this.#sizeAtFirst) return
    const padded = Math.ceil(size / clusterSize) * clusterSize
    if (padded !== size && padded <= this.largestSize) this.#file.truncate(padded)
  }

  /** From now on the end of the file is left as it is. */
  keepEnd(): void {
    this.#hasTrailer = true
  }

  /** Makes the file at least `size` bytes long. */
  growTo(size: number): void {
    this.claim(size)
    if (this.#file.size() >= size) return
    this.#isChanged = true
    this.#file.truncate(size)
  }

  /** Cuts off what lies behind `size` bytes, where the file can be cut: nothing there is in use. */
  cutTo(size: number): void {
    if (this.#file.size() <= size) return
    try {
      this.#file.truncate(size)
    } catch (error) {
      // A device, or an export of fixed size.
      if (error instanceof BackingError && error.code === "unsupported") return
      throw error
    }
    this.#isChanged = true
    this.#usedEnd = size
  }

  /** Makes the range, which is inside the file, zeroes with space behind them. Returns false where the file cannot. */
  zeroRange(offset: number, length: number): boolean {
    return this.#file.zeroRange?.(offset, length) ?? false
  }

  /**
   * The version of the image over `base`, with its data in `data`. None where that has none. The file is padded first, lest a `close` after
   * a flush change it.
   */
  version(clusterSize: number, base: Versioned | undefined, data: ClusterFile | undefined): DiskVersion | undefined {
    this.padTo(clusterSize)
    const own = versionOf("qcow2", this.#file, base)
    if (own === undefined || data === undefined) return own
    const other = data.#file.version?.()
    if (other === undefined) return undefined
    const generations = [own.generation, other.generation].filter((generation) => generation !== undefined)
    return {
      image: `${own.image} with data in ${other.image}`,
      ...(generations.length === 0 ? {} : { generation: generations.join(" with ") }),
    }
  }

  /** Bytes that one `punch` should do at most: 0 where the file cannot. */
  get punchesAtOnce(): number {
    const { punchHole, canPunchHole = true, punchesAtOnce = Number.MAX_SAFE_INTEGER } = this.#file
    return punchHole !== undefined && canPunchHole ? punchesAtOnce : 0
  }

  /** Gives the host's space behind an unreferenced range back, where the file can. */
  punch(offset: number, length: number): void {
    this.#file.punchHole?.(offset, length)
  }

  close(): void {
    this.#file.close()
  }
}

/** Closes all that are there, whatever fails. @throws the first error */
export function closeAll(files: readonly ({ close(): void } | undefined)[]): void {
  const errors: unknown[] = []
  for (const file of files) {
    try {
      file?.close()
    } catch (error) {
      errors.push(error)
    }
  }
  if (errors.length > 0) throw errors[0]
}

/** Does what may fail by a `BackingError`, where a corruption is what has to be reported. */
export function attempt(work: () => void): void {
  try {
    work()
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
  }
}
