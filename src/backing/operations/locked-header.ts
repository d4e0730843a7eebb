/** Opens the file of a qcow2 image to change its header, without opening the disk. */
import { LockedFile } from "../host/image-lock.ts"
import type { ImageFile } from "../image-file.ts"
import type { Qcow2Header } from "../qcow2/format/header.ts"
import { readHeader } from "../qcow2/format/parse-header.ts"
import { refuseCorruptForWriting, refuseUnsupported } from "../qcow2/format/unsupported.ts"

/** Calls `work` with the locked file at `path`, and its header. @throws BackingError errors of opening the image for writing */
export function withLockedHeader<T>(path: string, work: (file: ImageFile, header: Qcow2Header) => T): T {
  const file = new LockedFile(path)
  try {
    file.claim()
    const header = readHeader(file)
    refuseUnsupported(header, path)
    refuseCorruptForWriting(header, path)
    return work(file, header)
  } finally {
    file.close()
  }
}
