/** ClusterFile: the image file for the rest of qcow2. Bytes past its end read as zeroes, and it knows where the unwritten part begins. */
import { BackingError, type DiskVersion, type Versioned, versionOf } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import { fillZeroFrom } from "../../bytes/buffers.ts"

/** Thrown for invalid metadata in `file`. The image in that file marks itself corrupt; images above it in a backing chain do not. */
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
  /** Maximum size of the file in bytes. */
  readonly largestSize: number = 0
  readonly #file: ImageFile
  /**
   * No byte from here on was ever written, so the file reads as zeroes from here when it grows. Raised before each write, because a failed
   * write may have stored a part.
   */
  #usedEnd = 0
  #isChanged = false
  /** Bytes of the file when it was opened. An unchanged file is not padded, because its writer may expect something at its end. */
  readonly #sizeAtFirst: number = 0
  /** The file ends with foreign bytes: see `Trailer`. */
  #hasTrailer = false

  constructor(file: ImageFile) {
    this.#file = file
    this.path = file.path
    this.largestSize = file.largestSize ?? Number.POSITIVE_INFINITY
    this.#usedEnd = file.size()
    this.#sizeAtFirst = this.#usedEnd
  }

  /** The error for invalid metadata at byte `offset`. */
  corrupt(reason: string, offset: number): CorruptMetadata {
    return new CorruptMetadata(this, reason, offset)
  }

  /** Whether everything from `offset` on is a hole that reads as zeroes. */
  isUnused(offset: number): boolean {
    return offset >= this.#usedEnd
  }

  /** Where the unwritten part begins, in bytes: the file's size, or a little more. */
  get usedEnd(): number {
    return this.#usedEnd
  }

  /** From now on treats all bytes below `end` as written. */
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

  /** Whether `readLater` has another thread to read on. */
  get readsLater(): boolean {
    return this.#file.readLater !== undefined
  }

  /** `read` on another thread, if `readsLater`. */
  async readLater(buffer: Uint8Array, offset: number): Promise<void> {
    buffer.fill(0, await (this.#file.readLater?.(buffer, offset) ?? this.#file.read(buffer, offset)))
  }

  /** Reads up to the end of the file, and returns the count. */
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

  /** Pads a file whose size has changed to whole clusters, as other programs do, if the file may be so large. */
  padTo(clusterSize: number): void {
    if (!this.#isChanged || this.#hasTrailer) return
    const size = this.#file.size()
    if (size === this.#sizeAtFirst) return
    const padded = Math.ceil(size / clusterSize) * clusterSize
    if (padded !== size && padded <= this.largestSize) this.#file.truncate(padded)
  }

  /** From now on `padTo` leaves the end of the file as it is. */
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

  /** Cuts the file to `size` bytes, if it can be cut. Nothing after them is in use. */
  cutTo(size: number): void {
    if (this.#file.size() <= size) return
    try {
      this.#file.truncate(size)
    } catch (error) {
      // A file of fixed size, for instance a device or an NBD export.
      if (error instanceof BackingError && error.code === "unsupported") return
      throw error
    }
    this.#isChanged = true
    this.#usedEnd = size
  }

  /** Makes the range, which is inside the file, read as zeroes and keep its space. Returns false if the file cannot. */
  zeroRange(offset: number, length: number): boolean {
    return this.#file.zeroRange?.(offset, length) ?? false
  }

  /**
   * The version of the image over `base`, with its data in `data`; undefined if one of them has none. Pads the file first, so that `close`
   * after a flush does not change it.
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

  /** Maximum bytes for one `punch`; 0 if the file cannot punch holes. */
  get punchesAtOnce(): number {
    const { punchHole, canPunchHole = true, punchesAtOnce = Number.MAX_SAFE_INTEGER } = this.#file
    return punchHole !== undefined && canPunchHole ? punchesAtOnce : 0
  }

  /** Frees the host's space of an unreferenced range, if the file can. */
  punch(offset: number, length: number): void {
    this.#file.punchHole?.(offset, length)
  }

  close(): void {
    this.#file.close()
  }
}

/** Closes all files, even after an error. @throws the first error */
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

/** Runs `work` and ignores a `BackingError`, because the caller has a corruption to report. */
export function attempt(work: () => void): void {
  try {
    work()
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
  }
}
