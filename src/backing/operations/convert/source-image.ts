/** Opens an image by path to read all of it. Knows the holes of a raw image. */
import { type Allocation, BackingError, type VirtioBacking } from "../../backing.ts"
import { type DataExtent, dataExtents } from "../../host/data-extents.ts"
import { openImage, type OpenImageOptions } from "../../open.ts"
import { RawBacking } from "../../raw.ts"

/** Opens it read-only, and locks it against writers. @throws as `openImage` */
export function openSource(path: string, options: Omit<OpenImageOptions, "readOnly"> = {}): VirtioBacking {
  const disk = openImage(path, { lockReadOnly: true, ...options, readOnly: true })
  return disk instanceof RawBacking && !disk.isEncrypted ? new SparseDisk(disk, dataExtents(disk.path)) : disk
}

/** A raw image whose holes are known. */
class SparseDisk implements VirtioBacking {
  readonly readOnly = true
  readonly size: number
  readonly #disk: RawBacking
  readonly #extents: readonly DataExtent[]

  constructor(disk: RawBacking, extents: readonly DataExtent[]) {
    this.size = disk.size
    this.#disk = disk
    this.#extents = extents
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.#disk.pread(buffer, offset)
  }

  get readsLater(): boolean {
    return this.#disk.readsLater
  }

  async preadLater(buffer: Uint8Array, offset: number): Promise<void> {
    await this.#disk.preadLater(buffer, offset)
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    this.#disk.preadv(buffers, offset)
  }

  pwrite(): void {
    throw new BackingError("read-only", "the image is open read-only", { path: this.#disk.path })
  }

  allocation(offset: number, length: number): Allocation {
    const next = this.#extents[this.#firstEndingBehind(offset)]
    const isData = next !== undefined && next.start <= offset
    const end = isData ? next.end : (next?.start ?? this.size)
    return { length: Math.min(length, end - offset), isAllocated: isData, isZero: !isData }
  }

  close(): void {
    this.#disk.close()
  }

  #firstEndingBehind(offset: number): number {
    let [low, high] = [0, this.#extents.length]
    while (low < high) {
      const middle = Math.floor((low + high) / 2)
      if ((this.#extents[middle]?.end ?? 0) > offset) high = middle
      else low = middle + 1
    }
    return low
  }
}
