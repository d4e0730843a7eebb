/** Small images in memory for the tests of this directory. */
import { BackingError } from "../../../src/backing/backing.ts"
import { createQcow2, type CreateQcow2Options } from "../../../src/backing/qcow2/create.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import type { Qcow2Options } from "../../../src/backing/qcow2/open.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"

export const COPIED = 1n << 63n
export const COMPRESSED = 1n << 62n
export const ZERO = 1n

/** A new image; version 3, 64 KiB clusters and 1 MiB unless said otherwise. */
export function newImage(options: Partial<CreateQcow2Options> = {}): MemoryFile {
  const file = new MemoryFile({ path: "disk.qcow2" })
  createQcow2(file, { size: 1 << 20, ...options })
  return file
}

/**
 * A new overlay over a raw backing image with this content: its file, what opens the backing image, and what opens a copy of the overlay.
 */
export function newOverlay(
  content: Uint8Array,
  options: Partial<CreateQcow2Options> = {},
): { file: MemoryFile; openBacking: () => RawBacking; open: () => Qcow2Image } {
  const base = MemoryFile.of(content, { path: "base.raw" })
  const file = newImage({ backing: "base.raw", backingFormat: "raw", ...options })
  const openBacking = (): RawBacking => new RawBacking(base.clone({ readOnly: true }))
  return { file, openBacking, open: () => openQcow2(file.clone(), { openBacking }) }
}

/** Lets `work` use the image in `file`, closes it, and returns the image's bytes afterwards. `file` itself stays open and is changed. */
export function withImage(file: MemoryFile, work: (image: Qcow2Image) => void, options: Qcow2Options = {}): Qcow2Bytes {
  const held = new KeptOpen(file)
  const image = openQcow2(held, options)
  work(image)
  image.close()
  return new Qcow2Bytes(file.toBytes())
}

/** The same file, but closing it closes nothing. */
class KeptOpen extends MemoryFile {
  readonly #file: MemoryFile

  constructor(file: MemoryFile) {
    super({ path: file.path, readOnly: file.readOnly })
    this.#file = file
  }

  override size(): number {
    return this.#file.size()
  }

  override readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    return this.#file.readInto(buffer, start, length, offset)
  }

  override writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#file.writeFrom(buffer, start, length, offset)
  }

  override truncate(size: number): void {
    this.#file.truncate(size)
  }

  override punchHole(offset: number, length: number): boolean {
    return this.#file.punchHole(offset, length)
  }
}

/** A file with the bytes of a damaged image. */
export function fileOf(image: Qcow2Bytes, options: { readonly readOnly?: boolean } = {}): MemoryFile {
  return MemoryFile.of(image.bytes, { path: "disk.qcow2", ...options })
}

/** All that the guest sees, or a part of it. */
export function contentOf(image: Qcow2Image, offset = 0, length = image.size - offset): Uint8Array {
  const content = new Uint8Array(length)
  image.pread(content, offset)
  return content
}

/** The `BackingError` that `work` throws. */
export function failureOf(work: () => unknown): BackingError {
  try {
    work()
  } catch (error) {
    if (error instanceof BackingError) return error
    throw error
  }
  throw new Error("nothing was refused")
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0)
}

/** `length` bytes of one value. */
export function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value)
}
