/** What an image lends to views of its snapshots: its file and its backing image, to be read, and to be closed by the image only. */
import { ReadOnlyFile } from "../../read-only-file.ts"
import type { Qcow2Parts } from "../image-parts.ts"
import type { BackingDisk } from "../reader.ts"

/** A file that somebody else owns, read-only. */
export class LentFile extends ReadOnlyFile {
  override sync(): void {}

  override close(): void {}
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
