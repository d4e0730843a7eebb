/**
 * Packed rings against split ones: the same requests, with a driver that writes its descriptors for each request, as real ones do; requests
 * a second, driver and device together. Over a backing that does nothing, and over a raw image.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { GuestRing, type GuestRingOptions } from "./guest-ring.ts"
import { offsets, withImage } from "./image.ts"
import { heading, interleave, row } from "./measure.ts"
import { withoutViews } from "./ring.ts"

interface Case extends Partial<GuestRingOptions> {
  readonly name: string
  readonly batch: number
}

const RING: readonly Case[] = [
  { name: "ring alone, direct, 64 a kick", batch: 64 },
  { name: "ring alone, direct, 1 a kick", batch: 1 },
  { name: "ring alone, indirect, 64 a kick", batch: 64, indirect: true },
  { name: "ring alone, indirect, 1 a kick", batch: 1, indirect: true },
  { name: "ring alone, writes, 64 a kick", batch: 64, type: "write" },
  { name: "ring alone, shared RAM, 64 a kick", batch: 64, shared: true },
  { name: "ring alone, shared RAM, 1 a kick", batch: 1, shared: true },
  { name: "ring alone, an interrupt a kick", batch: 1, intx: true },
]

const RAW: readonly Case[] = [
  { name: "raw image, read 4 KiB random, 64 a kick", batch: 64 },
  { name: "raw image, read 4 KiB random, 1 a kick", batch: 1 },
  { name: "raw image, read 4 KiB random, indirect, 64 a kick", batch: 64, indirect: true },
  { name: "raw image, write 4 KiB random, 64 a kick", batch: 64, type: "write" },
]

export function benchPacked(): void {
  heading("Packed rings against split ones, driver and device together; ns of CPU time a request", "packed", "split")
  for (const one of RING) console.log(compare(one, withoutViews, 1 << 19))
  withImage((path) => {
    const backing = new RawBacking(new HostFile(path))
    for (const one of RAW) console.log(compare(one, backing, 1 << 15))
    backing.close()
  })
}

function compare({ name, ...more }: Case, backing: VirtioBacking, count: number): string {
  const at = offsets(1 << 14, 4096, "random")
  const { batch } = more
  const contender = (packed: boolean) => {
    const ring = new GuestRing({ backing, bytes: 4096, type: "read", placement: "apart", rewrites: true, ...more, packed })
    return {
      name,
      run(total: number) {
        for (let done = 0; done < total; done += batch) ring.kick(at, done % at.length)
        ring.check()
      },
    }
  }
  const [packed, split] = interleave([contender(true), contender(false)], count, 11)
  return row(name, packed?.ns ?? Number.NaN, split?.ns ?? Number.NaN, ">= 1.00")
}
