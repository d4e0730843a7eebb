/** The file and the backing image that an image lends to views of its snapshots: read-only, and only the image closes them. */
import type { Allocation, DiskVersion } from "../../backing.ts"
import { ReadOnlyFile } from "../../read-only-file.ts"
import type { Qcow2Parts } from "../image-parts.ts"
import type { BackingDisk, BackingSlot } from "../reader.ts"

/** A read-only file that somebody else owns: `close` does nothing. */
export class LentFile extends ReadOnlyFile {
  override sync(): void {}

  override close(): void {}
}

/** The parts to open a view with; the image still owns all of them. The disk in `behind` may be replaced while the view is open. */
export function lent(parts: Qcow2Parts, behind: BackingSlot): Qcow2Parts {
  const { file, dataFile } = parts
  return {
    ...parts,
    file: new LentFile(file),
    readOnly: true,
    backing: behind.disk === undefined ? undefined : new LentBacking(behind),
    dataFile: dataFile === undefined ? undefined : new LentFile(dataFile),
  }
}

/** The current backing disk; an empty disk if there is none. */
class LentBacking implements BackingDisk {
  readonly #slot: BackingSlot

  constructor(slot: BackingSlot) {
    this.#slot = slot
  }

  get size(): number {
    return this.#slot.disk?.size ?? 0
  }

  get slow(): boolean {
    return this.#slot.disk?.slow === true
  }

  pread(buffer: Uint8Array, offset: number): void {
    this.#slot.disk?.pread(buffer, offset)
  }

  preadv(buffers: readonly Uint8Array[], offset: number): void {
    this.#slot.disk?.preadv(buffers, offset)
  }

  allocation(offset: number, length: number): Allocation {
    return this.#slot.disk?.allocation?.(offset, length) ?? { length, isAllocated: true, isZero: false }
  }

  version(): DiskVersion | undefined {
    return this.#slot.disk?.version?.()
  }

  close(): void {}
}
