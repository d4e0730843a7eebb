/** qcow2 through the device: against raw through the device, against `qemu-img bench`, and against the decompressor alone. */
import { spawnSync } from "node:child_process"
import { closeSync, openSync, rmSync, writeSync } from "node:fs"
import { join } from "node:path"
import { deflateRawSync, inflateRawSync } from "node:zlib"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { createImage, type CreateImageOptions } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { GuestRing } from "./guest-ring.ts"
import { IMAGE_BYTES, offsets, withImage } from "./image.ts"
import { cpuTime, heading, interleave, median, row, wallTime } from "./measure.ts"
import { hasQemuImg, qemuBench } from "./qemu-bench.ts"

const CLUSTER = 65536

export function benchQcow2(): void {
  withImage((raw, folder) => {
    const qcow2 = join(folder, "disk.qcow2")
    copyIntoQcow2(raw, qcow2)
    againstRaw(raw, qcow2)
    extended(raw, qcow2, folder)
    if (hasQemuImg) againstQemu(raw, qcow2, folder)
    else console.log("\nqemu-img is not installed: no comparison with it")
    compressed(folder)
    opening(folder)
  })
}

/** All clusters allocated, in order. */
function copyIntoQcow2(raw: string, qcow2: string, options: Partial<CreateImageOptions> = {}): void {
  createImage(qcow2, { size: IMAGE_BYTES, ...options })
  const source = openImage(raw, { format: "raw", readOnly: true })
  const target = openImage(qcow2)
  const buffer = new Uint8Array(1 << 20)
  for (let offset = 0; offset < IMAGE_BYTES; offset += buffer.length) {
    source.pread(buffer, offset)
    target.pwrite(buffer, offset)
  }
  source.close()
  target.close()
}

type AccessCase = readonly [name: string, type: "read" | "write", batch: number, order: "random" | "sequential", target: string]

function againstRaw(raw: string, qcow2: string): void {
  heading("qcow2 through the device against raw through the device; ns of CPU time a request", "qcow2", "raw")
  compareDisks(() => [openImage(qcow2), openImage(raw, { format: "raw" })], [
    ["read 4 KiB random, 64 a kick", "read", 64, "random", ">= 0.93"],
    ["read 4 KiB random, 1 a kick", "read", 1, "random", ">= 0.93"],
    ["read 4 KiB sequential, 64 a kick", "read", 64, "sequential", ">= 0.9"],
    ["write 4 KiB random, 64 a kick", "write", 64, "random", ">= 0.9"],
    ["write 4 KiB sequential, 64 a kick", "write", 64, "sequential", ">= 0.9"],
  ])
}

/** All subclusters allocated, in order. */
function extended(raw: string, qcow2: string, folder: string): void {
  const path = join(folder, "extended.qcow2")
  copyIntoQcow2(raw, path, { extendedL2: true })
  heading("Extended L2 entries through the device against standard ones; ns of CPU time a request", "extended", "standard")
  compareDisks(() => [openImage(path), openImage(qcow2)], [
    ["read 4 KiB random, 64 a kick", "read", 64, "random", ">= 0.93"],
    ["read 4 KiB random, 1 a kick", "read", 1, "random", ">= 0.93"],
    ["write 4 KiB random, 64 a kick", "write", 64, "random", ">= 0.9"],
  ])
  rmSync(path)
}

/** The first disk against the second. */
function compareDisks(open: () => readonly [VirtioBacking, VirtioBacking], cases: readonly AccessCase[]): void {
  for (const [name, type, batch, order, target] of cases) {
    const backings = open()
    const at = offsets(1 << 14, 4096, order)
    const [ours, theirs] = interleave(
      backings.map(
        (backing) => ({ name, run: runner(new GuestRing({ backing, batch, bytes: 4096, type, placement: "apart" }), at, batch) }),
      ),
      1 << 15,
      15,
    )
    for (const backing of backings) void backing.close()
    console.log(row(name, ours?.ns ?? Number.NaN, theirs?.ns ?? Number.NaN, target))
  }
}

function runner(ring: GuestRing, at: Float64Array, batch: number): (total: number) => void {
  return (total) => {
    for (let done = 0; done < total; done += batch) ring.kick(at, done % at.length)
    ring.check()
  }
}

interface WriteCase {
  readonly name: string
  readonly bytes: number
  readonly step: number
  readonly depth: number
  readonly count: number
  readonly target: string
  /** Makes the image anew for each run; left out: one whose clusters are all allocated. */
  readonly fresh?: Pick<CreateImageOptions, "backing" | "clusterSize" | "extendedL2">
  readonly type?: "read"
}

function againstQemu(raw: string, qcow2: string, folder: string): void {
  heading(
    "qcow2 through the device against qemu-img bench on an image of the same making; ns of a wall clock a request, no flush",
    "device",
    "qemu-img",
  )
  const overlay = { fresh: { backing: raw } }
  const cases: readonly WriteCase[] = [
    { name: "write 64 KiB, new clusters, depth 1", bytes: CLUSTER, step: CLUSTER, depth: 1, count: 4096, target: ">= 2", fresh: {} },
    { name: "write 64 KiB, new clusters, depth 64", bytes: CLUSTER, step: CLUSTER, depth: 64, count: 4096, target: ">= 1.3", fresh: {} },
    { name: "write 4 KiB, new clusters, depth 64", bytes: 4096, step: CLUSTER, depth: 64, count: 8192, target: ">= 2", fresh: {} },
    { name: "write 4 KiB, copy on write, depth 1", bytes: 4096, step: CLUSTER, depth: 1, count: 8192, target: ">= 2", ...overlay },
    { name: "write 4 KiB, copy on write, depth 64", bytes: 4096, step: CLUSTER, depth: 64, count: 8192, target: ">= 1", ...overlay },
    {
      name: "write 4 KiB, new subclusters of 128 KiB over a backing file, depth 1",
      bytes: 4096,
      step: 8192,
      depth: 1,
      count: 16384,
      target: ">= 1.5",
      fresh: { backing: raw, clusterSize: 2 * CLUSTER, extendedL2: true },
    },
    { name: "write 4 KiB, allocated clusters, depth 64", bytes: 4096, step: CLUSTER, depth: 64, count: 16384, target: ">= 4" },
    {
      name: "read 4 KiB, unallocated, depth 64",
      bytes: 4096,
      step: CLUSTER,
      depth: 64,
      count: 16384,
      target: ">= 2",
      fresh: {},
      type: "read",
    },
  ]
  for (const one of cases) {
    const path = one.fresh === undefined ? qcow2 : join(folder, "fresh.qcow2")
    const make = () => {
      if (one.fresh === undefined) return
      rmSync(path, { force: true })
      createImage(path, { size: IMAGE_BYTES, ...one.fresh, ...(one.fresh.backing !== undefined && { backingFormat: "raw" }) })
    }
    const ours: number[] = []
    const theirs: { threads: number[]; io_uring: number[] } = { threads: [], io_uring: [] }
    for (let round = 0; round < 3; round++) {
      // Twice, for qemu-img is compiled already.
      make()
      timeOurs(path, one)
      make()
      ours.push(timeOurs(path, one))
      for (const engine of ["threads", "io_uring"] as const) {
        make()
        theirs[engine].push(qemuBench({ path, format: "qcow2", engine, write: one.type !== "read", ...one }))
      }
    }
    console.log(row(one.name, median(ours), Math.min(median(theirs.threads), median(theirs.io_uring)), one.target))
  }
}

function timeOurs(path: string, one: WriteCase): number {
  const backing: VirtioBacking = openImage(path)
  const ring = new GuestRing({ backing, batch: one.depth, bytes: one.bytes, type: one.type ?? "write", placement: "apart" })
  const at = Float64Array.from({ length: one.count }, (_, index) => (index * one.step) % IMAGE_BYTES)
  // A first write is one only once; everything else can be repeated.
  const passes = one.fresh === undefined || one.type === "read" ? 9 : 1
  const times = Array.from({ length: passes }, () => {
    const start = wallTime()
    for (let done = 0; done < one.count; done += one.depth) ring.kick(at, done)
    return (wallTime() - start) / one.count
  })
  ring.check()
  void backing.close()
  return median(times)
}

/** Reading compressed clusters against inflating the same streams. */
function compressed(folder: string): void {
  if (!hasQemuImg) return
  heading("Compressed clusters of 64 KiB through the device against inflateRawSync alone; ns of CPU time a request", "device", "inflate")
  const plain = join(folder, "text.raw")
  const fd = openSync(plain, "w")
  const count = 256
  const clusters = Array.from(
    { length: count },
    (_, index) => Buffer.from(
      Array.from({ length: 4096 }, (_, word) => `${(index * 4096 + word) * 2654435761}`.padStart(16)).join("").slice(0, CLUSTER),
    ),
  )
  for (const cluster of clusters) writeSync(fd, cluster)
  closeSync(fd)
  const path = join(folder, "compressed.qcow2")
  if (spawnSync("qemu-img", ["convert", "-c", "-O", "qcow2", "-f", "raw", plain, path]).status !== 0) {
    throw new Error("qemu-img convert failed")
  }
  const streams = clusters.map((cluster) => deflateRawSync(cluster, { windowBits: 12 }))
  const backing = openImage(path, { readOnly: true })
  const ring = new GuestRing({ backing, batch: 1, bytes: CLUSTER, type: "read", placement: "touching" })
  const at = Float64Array.from({ length: count }, (_, index) => index * CLUSTER)
  const [ours, theirs] = interleave(
    [
      { name: "device", run: runner(ring, at, 1) },
      {
        name: "inflate",
        run: (total) => { for (let i = 0; i < total; i++) inflateRawSync(streams[i % count] ?? Buffer.alloc(0), { chunkSize: CLUSTER }) },
      },
    ],
    count * 4,
  )
  console.log(row("read 64 KiB", ours?.ns ?? Number.NaN, theirs?.ns ?? Number.NaN, ">= 0.9"))
  const small = new GuestRing({ backing, batch: 64, bytes: 1024, type: "read", placement: "apart" })
  const inOrder = Float64Array.from({ length: (count * CLUSTER) / 1024 }, (_, index) => index * 1024)
  const [pieces] = interleave([{ name: "1 KiB", run: runner(small, inOrder, 64) }], inOrder.length)
  console.log(
    row("read 64 KiB in 64 requests of 1 KiB, each cluster once", (pieces?.ns ?? Number.NaN) * 64, theirs?.ns ?? Number.NaN, "about 1"),
  )
  backing.close()
}

/** Opening an image of 1 TiB whose L1 table is full, as a process: Node's own start against Node's start and the opening. */
function opening(folder: string): void {
  const path = join(folder, "large.qcow2")
  createImage(path, { size: 2 ** 40 })
  const image = openImage(path)
  const word = new Uint8Array(512).fill(1)
  for (let offset = 0; offset < image.size; offset += 2 ** 29) image.pwrite(word, offset)
  image.close()
  const time = (options: { readonly readOnly: boolean }): { cpu: number; wall: number } => {
    const [cpu, wall] = [cpuTime(), wallTime()]
    openImage(path, options).close()
    return { cpu: (cpuTime() - cpu) / 1e6, wall: (wallTime() - wall) / 1e6 }
  }
  console.log("\nOpening and closing an image of 1 TiB with a full L1 table, with the child that sets its locks")
  console.log("ms of CPU time (target: under 50), and of a wall clock")
  for (const readOnly of [true, false]) {
    const first = time({ readOnly })
    const times = Array.from({ length: 9 }, () => time({ readOnly }))
    const [cpu, wall] = [median(times.map((one) => one.cpu)), median(times.map((one) => one.wall))]
    const line = `${cpu.toFixed(1)} and ${wall.toFixed(1)}; the first time ${first.cpu.toFixed(1)} and ${first.wall.toFixed(1)}`
    console.log(`  ${readOnly ? "read-only" : "for writing"}: ${line}`)
  }
}
