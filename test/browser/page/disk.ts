/** The machine's disk: a base that is only read, from a URL or a file that a person picked, under an overlay that takes all writes. */
import {
  type AsyncImageFile, BackingError, createDisk, type DiskSource, type ImageFile, type ImageFormat, type MapExtent, type MappedDisk,
  MemoryFile, openDisk, opfsFile, probeFormat,
} from "vioblk"
import { RecordedFile } from "./recorded-file.ts"

export interface DiskChoice {
  readonly file: AsyncImageFile
  /** How the overlay names its base: a file beside it, once it is downloaded. */
  readonly name: string
  /** The path of the overlay in the origin private file system; undefined for one in memory. */
  readonly overlay: string | undefined
}

/** Bytes: the least that a disk has. */
const SECTOR = 512
/** Bytes that are copied together. */
const PIECE = 1 << 22

export class DemoDisk {
  readonly size: number
  readonly backing: MappedDisk
  readonly base: RecordedFile
  readonly #overlay: AsyncImageFile | ImageFile
  /** The base as a disk, where it is not a raw one: tells where its bytes live in its file. */
  readonly #lookup: MappedDisk | undefined

  private constructor(
    parts: Pick<DemoDisk, "size" | "backing" | "base">, overlay: AsyncImageFile | ImageFile, lookup: MappedDisk | undefined,
  ) {
    this.size = parts.size
    this.backing = parts.backing
    this.base = parts.base
    this.#overlay = overlay
    this.#lookup = lookup
  }

  /** @throws BackingError */
  static async open({ file, name, overlay }: DiskChoice): Promise<DemoDisk> {
    const base = new RecordedFile(file)
    if ((await base.size()) < SECTOR) throw new BackingError("invalid-format", "the file is shorter than a sector", { path: base.path })
    const backingFormat = await formatOf(base)
    const lookup = backingFormat === "raw" ? undefined : await openDisk(base, { readOnly: true })
    const size = lookup?.size ?? (await base.size())
    const top: DiskSource & (AsyncImageFile | ImageFile) = overlay === undefined
      ? new MemoryFile()
      : await opfsFile(overlay, { create: true })
    try {
      await createDisk(top, { size, backing: name, backingFormat, onlyIfEmpty: true })
      const backing = await openDisk(top, { format: "qcow2", backing: () => base })
      return new DemoDisk({ size, backing, base }, top, lookup)
    } catch (error) {
      await top.close()
      throw error
    }
  }

  /** Where the disk's bytes live as far as the overlay knows: "backing" stands for the base. */
  async overlayMap(): Promise<readonly MapExtent[]> {
    return [...(await this.backing.map?.(0, this.size)) ?? []]
  }

  /** The extents of the base, for a base that is not raw. */
  async baseMap(): Promise<readonly MapExtent[] | undefined> {
    return this.#lookup === undefined ? undefined : [...(await this.#lookup.map?.(0, this.#lookup.size)) ?? []]
  }

  /** What was written is in the browser's storage afterwards. */
  async save(): Promise<void> {
    await this.backing.flush?.()
  }

  /** Size of the overlay in bytes. */
  async overlaySize(): Promise<number> {
    return await this.#overlay.size()
  }

  /** The overlay as a qcow2 image. Nothing may write to the disk meanwhile. */
  async download(): Promise<Blob> {
    await this.save()
    const size = await this.#overlay.size()
    const parts: Uint8Array<ArrayBuffer>[] = []
    for (let at = 0; at < size; at += PIECE) {
      const part = new Uint8Array(Math.min(PIECE, size - at))
      await this.#overlay.read(part, at)
      parts.push(part)
    }
    return new Blob(parts, { type: "application/x-qemu-disk" })
  }

  async close(): Promise<void> {
    await this.#lookup?.close()
    await this.backing.close()
  }
}

async function formatOf(file: AsyncImageFile): Promise<ImageFormat> {
  const start = new Uint8Array(512)
  const length = await file.read(start, 0)
  return probeFormat(MemoryFile.from(start.subarray(0, length), { path: file.path }))
}
