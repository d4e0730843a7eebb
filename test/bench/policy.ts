/**
 * What watching and limiting a disk costs: the same requests through devices with and without it, over a disk that does nothing and over a
 * raw image.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import type { VirtioBlkOptions } from "../../src/virtio/blk/config.ts"
import { GuestRing } from "./guest-ring.ts"
import { IMAGE_BYTES, offsets, withImage } from "./image.ts"
import { heading, interleave, row } from "./measure.ts"

const nothing: VirtioBacking = {
  size: IMAGE_BYTES, readOnly: false, pread() {}, pwrite() {}, preadInto() {}, pwriteFrom() {}, preadv() {}, pwritev() {}, flush() {},
  close() {},
}

let seen = 0

const DISKS: Readonly<Record<string, VirtioBlkOptions>> = {
  "a throttle that is never reached": { throttle: { bytes: 1e12, requests: 1e9 } },
  "latencies, sampled": { latency: "sampled" },
  "all latencies": { latency: "all" },
  "an observer": { observer: ({ bytes }) => void (seen += bytes) },
}

export function benchPolicy(): void {
  withImage((path) => {
    const disks = { "a disk that does nothing": nothing, "a raw image": new RawBacking(new HostFile(path)) }
    for (const [what, backing] of Object.entries(disks)) {
      heading(
        `${what}, random reads of 4 KiB: with what stands on the left, and without anything; ns of CPU time a request`,
        "with",
        "without",
      )
      for (const batch of [64, 1]) compare(backing, batch, backing === nothing ? 1 << 19 : 1 << 15)
    }
  })
  if (seen < 0) console.log(seen)
}

function compare(backing: VirtioBacking, batch: number, count: number): void {
  const at = offsets(1 << 14, 4096, "random")
  const contender = (name: string, disk: VirtioBlkOptions) => {
    const ring = new GuestRing({ backing, batch, bytes: 4096, type: "read", placement: "apart", disk })
    return {
      name,
      run(total: number) {
        for (let done = 0; done < total; done += batch) ring.kick(at, done % at.length)
        ring.check()
      },
    }
  }
  const timings = interleave([contender("", {}), ...Object.entries(DISKS).map(([name, disk]) => contender(name, disk))], count, 15)
  const [plain, ...others] = timings
  for (const { name, ns } of others) console.log(row(`${name}, ${batch} a kick`, ns, plain?.ns ?? Number.NaN, ""))
}
