/** openDisk for pages and workers. */
import { type DiskSource, openDiskWith, type OpenDiskOptions, type OpenedDisk } from "./open-disk.ts"

/** Opens a raw or qcow2 image over any source: as `openDisk` in Node does. @throws as it does */
export function openDisk(source: DiskSource, options: OpenDiskOptions = {}): Promise<OpenedDisk> {
  return openDiskWith({}, source, options)
}
