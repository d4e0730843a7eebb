/** The file of a qcow2 image whose header is changed: the disk in it is not opened. */
import { LockedFile } from "../host/image-lock.ts"
import type { ImageFile } from "../image-file.ts"
import type { Qcow2Header } from "../qcow2/format/header.ts"
import { readHeader } from "../qcow2/format/parse-header.ts"
import { refuseCorruptForWriting, refuseUnsupported } from "../qcow2/format/unsupported.ts"

/** Lets `work` have the file at `path`, locked, and its header. @throws BackingError what opening the image for writing throws */
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
