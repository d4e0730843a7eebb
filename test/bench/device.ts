/** Raw images through the device against a bare loop of file calls over the same offsets. */
import { closeSync, openSync, readSync, writeSync } from "node:fs"
import { HostFile } from "../../src/backing/file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { GuestRing, type GuestRingOptions } from "./guest-ring.ts"
import { offsets, pageAligned, withImage } from "./image.ts"
import { heading, interleave, row } from "./measure.ts"

interface Case extends Omit<GuestRingOptions, "backing"> {
  readonly name: string
  readonly order: "random" | "sequential"
  /** What the ratio should be. */
  readonly target: string
}

const CASES: readonly Case[] = [
  { name: "read 4 KiB random, 64 a kick", type: "read", bytes: 4096, batch: 64, placement: "apart", order: "random", target: ">= 0.93" },
  { name: "read 4 KiB random, 1 a kick", type: "read", bytes: 4096, batch: 1, placement: "apart", order: "random", target: ">= 0.85" },
  { name: "read 4 KiB sequential, 64 a kick", type: "read", bytes: 4096, batch: 64, placement: "apart", order: "sequential", target: ">= 2, aim 2.8" },
  { name: "read 4 KiB sequential, 64 a kick, buffers touch", type: "read", bytes: 4096, batch: 64, placement: "touching", order: "sequential", target: ">= 3" },
  { name: "read 128 KiB in 32 segments", type: "read", bytes: 131072, segments: 32, batch: 4, placement: "apart", order: "random", target: ">= 0.70" },
  { name: "read 128 KiB contiguous", type: "read", bytes: 131072, batch: 4, placement: "touching", order: "random", target: ">= 0.95" },
  { name: "write 4 KiB random, 64 a kick", type: "write", bytes: 4096, batch: 64, placement: "apart", order: "random", target: ">= 0.93" },
  { name: "write 4 KiB random, 1 a kick", type: "write", bytes: 4096, batch: 1, placement: "apart", order: "random", target: ">= 0.85" },
  { name: "write 4 KiB sequential, 64 a kick", type: "write", bytes: 4096, batch: 64, placement: "apart", order: "sequential", target: ">= 2, aim 2.8" },
  { name: "write 4 KiB sequential, 64 a kick, buffers touch", type: "write", bytes: 4096, batch: 64, placement: "touching", order: "sequential", target: ">= 3" },
  { name: "write 128 KiB in 32 segments", type: "write", bytes: 131072, segments: 32, batch: 4, placement: "apart", order: "random", target: ">= 0.70" },
  { name: "write 128 KiB contiguous", type: "write", bytes: 131072, batch: 4, placement: "touching", order: "random", target: ">= 0.95" },
]

export function benchDevice(): void {
  withImage((path) => {
    heading("Raw image through the device against a bare readSync or writeSync loop, with one buffer; ns a request", "device", "bare")
    for (const one of CASES) console.log(compare(path, one))
  })
}

function compare(path: string, one: Case): string {
  const backing = new RawBacking(new HostFile(path))
  const ring = new GuestRing({ ...one, backing })
  const fd = openSync(path, "r+")
  const at = offsets(1 << 14, one.bytes, one.order)
  // The loop's buffer is in memory of the same kind, and as well aligned, as the guest's.
  const buffer = pageAligned(one.bytes)
  const bare: (fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => number = one.type === "read" ? readSync : writeSync
  const count = one.bytes > 4096 ? 1 << 12 : 1 << 15
  const [device, loop] = interleave(
    [
      {
        name: "device",
        run(total) {
          for (let done = 0; done < total; done += one.batch) ring.kick(at, done % at.length)
          ring.check()
        },
      },
      {
        name: "bare",
        run(total) {
          for (let done = 0; done < total; done++) bare(fd, buffer, 0, one.bytes, at[done % at.length] ?? 0)
        },
      },
    ],
    count,
    15,
  )
  closeSync(fd)
  backing.close()
  return row(one.name, device?.ns ?? Number.NaN, loop?.ns ?? Number.NaN, one.target)
}
