/** The disks that the pages boot, kept in the cache of the guest tests. */
import { join } from "node:path"
import { shellDisk } from "../linux/boot-images.ts"
import { once } from "../linux/cache.ts"

/** A folder with demo.img, a sparse raw disk of so many MiB that boots to a shell. */
export function demoFolder(mebibytes = 512): string {
  return once(`demo-disk-${mebibytes}`, (folder) => shellDisk(join(folder, "demo.img"), mebibytes))
}
