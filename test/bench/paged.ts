/** Hits in the pages of a file that answers later, through the device, against the same image through the host's page cache. */
import { HostFile } from "../../src/backing/host/host-file.ts"
import type { AsyncImageFile } from "../../src/backing/async-image-file.ts"
import { AwaitedDisk } from "../../src/backing/paging/awaited-disk.ts"
import { PagedFile } from "../../src/backing/paging/paged-file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { GuestRing, type GuestRingOptions } from "./guest-ring.ts"
import { offsets, withImage } from "./image.ts"
import { heading, interleave, row } from "./measure.ts"

/** All of what is read fits into the cache. */
const HOT_BYTES = 64 << 20

const CASES: readonly (Omit<GuestRingOptions, "backing"> & { readonly name: string; readonly target: string })[] = [
  { name: "read 4 KiB random, 64 a kick", type: "read", bytes: 4096, batch: 64, placement: "apart", target: ">= 0.8" },
  { name: "read 4 KiB random, 1 a kick", type: "read", bytes: 4096, batch: 1, placement: "apart", target: ">= 0.8" },
  { name: "read 128 KiB contiguous", type: "read", bytes: 131072, batch: 4, placement: "touching", target: ">= 0.8" },
]

export async function benchPaged(): Promise<void> {
  heading("Hits in a PagedFile through the device against raw from the host's page cache; ns of CPU time a request", "paged", "raw")
  for (const one of CASES) {
    // Open files outlive their names.
    const files: HostFile[] = []
    withImage((path) => void files.push(new HostFile(path), new HostFile(path)))
    const [file, other] = files
    if (file === undefined || other === undefined) continue
    console.log(await compare(one, new RawBacking(file), await paged(other)))
  }
}

/** Over a source that answers from the file; what is read is in memory then. */
async function paged(file: HostFile): Promise<AwaitedDisk> {
  const source: AsyncImageFile = {
    path: file.path, readOnly: true, size: async () => file.size(), read: async (buffer, offset) => file.read(buffer, offset),
    close: async () => file.close(),
  }
  const pages = await PagedFile.open(source, { cacheSize: 2 * HOT_BYTES })
  const disk = new AwaitedDisk(new RawBacking(pages), [pages])
  const buffer = new Uint8Array(1 << 20)
  for (let offset = 0; offset < HOT_BYTES; offset += buffer.length) await disk.pread(buffer, offset)
  return disk
}

async function compare({ name, target, ...options }: (typeof CASES)[number], raw: RawBacking, pages: AwaitedDisk): Promise<string> {
  const at = offsets(1 << 14, options.bytes, "random").map((offset) => offset % HOT_BYTES)
  const run = (ring: GuestRing) => (total: number) => {
    for (let done = 0; done < total; done += options.batch) ring.kick(at, done % at.length)
    ring.check()
  }
  const [ours, theirs] = interleave(
    [
      { name: "paged", run: run(new GuestRing({ ...options, backing: pages })) },
      { name: "raw", run: run(new GuestRing({ ...options, backing: raw })) },
    ],
    options.bytes > 4096 ? 1 << 12 : 1 << 15,
  )
  await pages.close()
  raw.close()
  return row(name, ours?.ns ?? Number.NaN, theirs?.ns ?? Number.NaN, target)
}
