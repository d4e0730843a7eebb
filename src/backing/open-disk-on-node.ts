/** openDisk and createDisk for programs in Node: with Node's decompressor and cryptography. */
import type { AsyncImageFile } from "./async-image-file.ts"
import { createDisk as createDiskIn, type CreateDiskOptions } from "./create-disk.ts"
import { LateNodeCryptography } from "./host/node-cryptography.ts"
import { nodeDecompressor } from "./host/node-decompressor.ts"
import type { ImageFile } from "./image-file.ts"
import { type DiskSource, openDiskWith, type OpenDiskOptions, type OpenedDisk, stopSignal } from "./open-disk.ts"

/**
 * Opens a raw or qcow2 image over any source: a file that answers later (`httpFile`, `nbdFile`, your own `AsyncImageFile`), one that
 * answers at once (`HostFile`, `MemoryFile`), or a disk, which is used as it is. Nothing is written before the whole chain has been
 * checked. The disk is synchronous if all its sources are; otherwise it is `asynchronous`, and serves data in memory at once.
 *
 * The disk owns `source` and what the option `backing` returned. When it rejects, `source` is still the caller's, and the others are
 * closed.
 * @throws BackingError (as a rejection) errors of the sources, `invalid-format`, `unsupported`, `corrupt`
 * @throws TypeError (as a rejection) for wrong arguments. The signal's reason
 */
export function openDisk(source: DiskSource, options: OpenDiskOptions = {}): Promise<OpenedDisk> {
  return openDiskWith({ decompressor: nodeDecompressor, cryptography: new LateNodeCryptography(stopSignal(options)) }, source, options)
}

/**
 * Writes a new qcow2 image into `file`, which stays open and the caller's. The header comes last: a creation that is interrupted leaves no
 * image, and can be repeated with the same options. Resolves to whether an image was made.
 * @throws BackingError (as a rejection) `invalid-argument` for options that contradict each other; `exists` for a file that is not empty,
 * unless `overwrite` is set; `no-space` for a file that is too small and cannot grow; errors of the file
 * @throws TypeError (as a rejection) for wrong arguments
 */
export function createDisk(file: AsyncImageFile | ImageFile, options: CreateDiskOptions): Promise<boolean> {
  return createDiskIn(file, options, new LateNodeCryptography())
}
