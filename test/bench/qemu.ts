/** The device against `qemu-img bench` on the same image with the same offsets, its best engine taken. Needs qemu-img. */
import { spawnSync } from "node:child_process"
import { HostFile } from "../../src/backing/file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { GuestRing } from "./guest-ring.ts"
import { IMAGE_BYTES, withImage } from "./image.ts"
import { interleave, row } from "./measure.ts"

/** Strides as `qemu-img bench -S` makes them: byte 0, S, 2S, ... modulo the size of the image. */
const STRIDE = 1_052_672 // odd in units of 4 KiB, so that a lap does not repeat the one before

export function benchQemu(): void {
  if (spawnSync("qemu-img", ["--version"]).status !== 0) {
    console.log("\nqemu-img is not installed: no comparison with it")
    return
  }
  withImage((path) => {
    console.log("\nRaw image through the device against qemu-img bench (best of threads and io_uring); ns a request, process start not counted")
    console.log(`${"".padEnd(58)} ${"device".padStart(10)} ${"qemu-img".padStart(10)}   ${"ratio".padStart(7)}   target`)
    for (const [name, step, batch, target] of [
      ["read 4 KiB, stride, depth 1", STRIDE, 1, ">= 3"],
      ["read 4 KiB, stride, depth 64", STRIDE, 64, ">= 2.2"],
      ["read 4 KiB, sequential, depth 64", 4096, 64, ">= 5"],
    ] as const)
      console.log(row(name, ours(path, step, batch), Math.min(...["threads", "io_uring"].map((engine) => qemu(path, engine, step, batch))), target))
  })
}

function ours(path: string, step: number, batch: number): number {
  const backing = new RawBacking(new HostFile(path, { readOnly: true }), {})
  const ring = new GuestRing({ backing, batch, bytes: 4096, type: "read", placement: "apart" })
  const at = Float64Array.from({ length: 1 << 14 }, (_, index) => (index * step) % IMAGE_BYTES)
  const [timing] = interleave([{ name: "", run: (total) => { for (let done = 0; done < total; done += batch) ring.kick(at, done % at.length) } }], 1 << 16)
  ring.check()
  backing.close()
  return timing?.ns ?? Number.NaN
}

/** Nanoseconds a request, as qemu-img itself reports the time of the run. The median of three. */
function qemu(path: string, engine: string, step: number, depth: number): number {
  const count = depth === 1 ? 30_000 : 100_000
  const samples = Array.from({ length: 3 }, () => {
    const { stdout, status } = spawnSync("qemu-img", ["bench", "-f", "raw", "-i", engine, "-c", String(count), "-d", String(depth), "-s", "4096", "-S", String(step), path], { encoding: "utf8" })
    const seconds = /completed in ([\d.]+) seconds/.exec(stdout)?.[1]
    return status === 0 && seconds !== undefined ? (Number(seconds) * 1e9) / count : Number.POSITIVE_INFINITY
  }).sort((a, b) => a - b)
  return samples[1] ?? Number.POSITIVE_INFINITY
}
