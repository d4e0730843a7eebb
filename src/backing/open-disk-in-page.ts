/** openDisk for pages and workers. */
import type { AsyncDisposing } from "../disposing.ts"
import type { VirtioBacking } from "./backing.ts"
import { type DiskSource, openDiskWith, type OpenDiskOptions } from "./open-disk.ts"

/** Opens a raw or qcow2 image over any source: as `openDisk` in Node does. @throws as it does */
export function openDisk(source: DiskSource, options: OpenDiskOptions = {}): Promise<VirtioBacking & AsyncDisposing> {
  return openDiskWith(undefined, source, options)
}
