/** The device against `qemu-img bench` on the same raw image with the same offsets, its best engine taken. */
import { HostFile } from "../../src/backing/host/host-file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { GuestRing } from "./guest-ring.ts"
import { IMAGE_BYTES, withImage } from "./image.ts"
import { heading, interleave, median, row, wallTime } from "./measure.ts"
import { hasQemuImg, qemuBench } from "./qemu-bench.ts"

/**
 * Strides as `qemu-img bench -S` makes them: byte 0, S, 2S, ... modulo the size of the image. Odd in units of 4 KiB, so that laps differ.
 */
const STRIDE = 1_052_672

export function benchQemu(): void {
  if (!hasQemuImg) return console.log("\nqemu-img is not installed: no comparison with it")
  withImage((path) => {
    heading(
      "Raw image through the device against qemu-img bench (best of threads and io_uring); ns of a wall clock a request",
      "device",
      "qemu-img",
    )
    for (const [name, step, depth, target] of [
      ["read 4 KiB, stride, depth 1", STRIDE, 1, ">= 3"],
      ["read 4 KiB, stride, depth 64", STRIDE, 64, ">= 2.2"],
      ["read 4 KiB, sequential, depth 64", 4096, 64, ">= 5"],
    ] as const) {
      const theirs = (["threads", "io_uring"] as const).map((engine) =>
        median(
          Array.from(
            { length: 3 },
            () => qemuBench({ path, format: "raw", engine, count: depth === 1 ? 30_000 : 100_000, depth, bytes: 4096, step }),
          ),
        ),
      )
      console.log(row(name, ours(path, step, depth), Math.min(...theirs), target))
    }
  })
}

function ours(path: string, step: number, batch: number): number {
  const backing = new RawBacking(new HostFile(path, { readOnly: true }))
  const ring = new GuestRing({ backing, batch, bytes: 4096, type: "read", placement: "apart" })
  const at = Float64Array.from({ length: 1 << 14 }, (_, index) => (index * step) % IMAGE_BYTES)
  const run = (total: number) => {
    for (let done = 0; done < total; done += batch) ring.kick(at, done % at.length)
  }
  const [timing] = interleave([{ name: "device", run }], 1 << 16, 9, wallTime)
  ring.check()
  backing.close()
  return timing?.ns ?? Number.NaN
}
