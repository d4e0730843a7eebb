/** Images over files that answer late, with small pages and small caches, as the tests need them. */
import type { AsyncImageFile } from "../../../src/backing/async-image-file.ts"
import type { ImageFile } from "../../../src/backing/image-file.ts"
import { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import type { LoadingDisk } from "../../../src/backing/paging/loading-disk.ts"
import { PagedFile } from "../../../src/backing/paging/paged-file.ts"
import type { PagedFileOptions } from "../../../src/backing/paging/paged-file-options.ts"
import { untilLoaded } from "../../../src/backing/paging/until-loaded.ts"
import type { LateFile } from "./late-file.ts"

/** One page at a time, and few changes that wait. */
export const SMALLEST: PagedFileOptions = { pageSize: 4096, cacheSize: 4096, logSize: 32 << 10 }

/** An image whose external data file answers late as well. */
export async function openLateWithData(
  source: LateFile, data: LateFile, open: (file: ImageFile, data: ImageFile) => LoadingDisk, options: PagedFileOptions = SMALLEST,
): Promise<AwaitedDisk> {
  const [file, other] = [await PagedFile.open(source, options), await PagedFile.open(data, options)]
  file.refersTo(other)
  return new AwaitedDisk(await untilLoaded(() => open(file, other)), [file, other])
}

/**
 * Opens the image in `source` by `open`, which gets the file in pages, and those of `below`; it is called again for each page that is
 * missing.
 */
export async function openLate(
  source: AsyncImageFile,
  open: (file: ImageFile, below: readonly ImageFile[]) => LoadingDisk,
  options: PagedFileOptions = SMALLEST,
  below: readonly AsyncImageFile[] = [],
): Promise<AwaitedDisk> {
  const [file, ...others] = await Promise.all([source, ...below].map((each) => PagedFile.open(each, options)))
  if (file === undefined) throw new Error("there is no file")
  return new AwaitedDisk(await untilLoaded(() => open(file, others)), [file, ...others])
}
