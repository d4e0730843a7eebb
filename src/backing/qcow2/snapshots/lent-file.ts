/** What an image lends to views of its snapshots: its file and its backing image, to be read, and to be closed by the image only. */
import { BackingError } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import type { Qcow2Parts } from "../image-parts.ts"
import type { BackingDisk } from "../reader.ts"

/** A file that somebody else owns, read-only. */
export class LentFile implements ImageFile {
  readonly path: string
  readonly readOnly = true
  readonly #file: ImageFile

  constructor(file: ImageFile) {
    this.path = file.path
    this.#file = file
  }

  get lock(): NonNullable<ImageFile["lock"]> {
    return this.#file.lock ?? "none"
  }

  size(): number {
    return this.#file.size()
  }

  read(buffer: Uint8Array, offset: number): number {
    return this.#file.read(buffer, offset)
  }

  readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    return this.#file.readInto(buffer, start, length, offset)
  }

  readv(buffers: readonly Uint8Array[], offset: number): number {
    return this.#file.readv(buffers, offset)
  }

  write(): void {
    throw this.#refused()
  }

  writeFrom(): void {
    throw this.#refused()
  }

  writev(): void {
    throw this.#refused()
  }

  truncate(): void {
    throw this.#refused()
  }

  sync(): void {}

  close(): void {}

  #refused(): BackingError {
    return new BackingError("read-only", "a view of a snapshot is never written", { path: this.path })
  }
}

/** What a view is opened with: everything stays its owner's. */
export function lent(parts: Qcow2Parts): Qcow2Parts {
  const { file, dataFile, backing } = parts
  return {
    ...parts,
    file: new LentFile(file),
    readOnly: true,
    backing: backing === undefined ? undefined : lentBacking(backing),
    dataFile: dataFile === undefined ? undefined : new LentFile(dataFile),
  }
}

function lentBacking(disk: BackingDisk): BackingDisk {
  const { allocation } = disk
  return {
    size: disk.size,
    get slow(): boolean {
      return disk.slow === true
    },
    pread: (buffer, offset) => disk.pread(buffer, offset),
    preadv: (buffers, offset) => disk.preadv(buffers, offset),
    ...(allocation === undefined ? {} : { allocation: (offset: number, length: number) => allocation.call(disk, offset, length) }),
    version: () => disk.version?.(),
    close() {},
  }
}
