/** openDisk and createDisk for pages and workers: the platform's key derivation is waited for. */
import type { AsyncImageFile } from "./async-image-file.ts"
import { createDisk as createDiskIn, type CreateDiskOptions } from "./create-disk.ts"
import type { ImageFile } from "./image-file.ts"
import type { Cryptography } from "./luks/cryptography.ts"
import { PageCryptography } from "./luks/page-cryptography.ts"
import { type DiskSource, openDiskWith, type OpenDiskOptions, type OpenedDisk, stopSignal } from "./open-disk.ts"

/** Opens a raw, qcow2 or LUKS image over any source: as `openDisk` in Node does. @throws as it does */
export function openDisk(source: DiskSource, options: OpenDiskOptions = {}): Promise<OpenedDisk> {
  return openDiskWith({ cryptography: new PageCryptography({ signal: stopSignal(options) }) }, source, options)
}

/** Writes a new qcow2 image into `file`: as `createDisk` in Node does. @throws as it does */
export function createDisk(
  file: AsyncImageFile | ImageFile, options: CreateDiskOptions, cryptography: Cryptography = new PageCryptography(),
): Promise<boolean> {
  return createDiskIn(file, options, cryptography)
}
