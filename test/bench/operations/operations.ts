/** Work on whole images against qemu-img on the same files: page cache warm, output on tmpfs. */
import { spawnSync } from "node:child_process"
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { compareDisks } from "../../../src/backing/operations/compare.ts"
import { convertImage, type ConvertImageOptions } from "../../../src/backing/operations/convert/convert-image.ts"
import { checkImage } from "../../../src/backing/check.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { cpuTime, heading, median, row, wallTime } from "../measure.ts"
import { hasQemuImg } from "../qemu-bench.ts"

const MIB = 1 << 20
const DATA = 256 * MIB
const ROUNDS = 10

/** Nanoseconds. */
interface Cost {
  readonly cpu: number
  readonly wall: number
}

interface Case {
  readonly name: string
  readonly target: string
  ours(): Promise<unknown>
  /** Arguments of qemu-img. */
  readonly theirs: readonly string[]
  /** Made by both, and removed before. */
  readonly output?: string
  /** Undoes what either has done, out of the time that is taken. */
  readonly undo?: () => void
}

/** `npm run bench -- operations` */
export async function benchOperations(): Promise<void> {
  if (!hasQemuImg) return void console.log("\nqemu-img is not installed: no comparison with it")
  const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "vioblk-bench-"))
  try {
    const cases = await makeCases(folder)
    const costs: { readonly ours: Cost; readonly theirs: Cost }[] = []
    for (const one of cases) costs.push(await measure(one))
    for (const kind of ["cpu", "wall"] as const) {
      heading(`Whole images against qemu-img; microseconds of ${kind === "cpu" ? "CPU time" : "a wall clock"}`, "vioblk", "qemu-img")
      cases.forEach(({ name, target }, index) => {
        const cost = costs[index]
        if (cost !== undefined) console.log(row(name, cost.ours[kind] / 1000, cost.theirs[kind] / 1000, target))
      })
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

async function makeCases(folder: string): Promise<Case[]> {
  const path = (name: string): string => join(folder, name)
  const [raw, full, sparse, text, large] = ["raw", "full.qcow2", "sparse.qcow2", "text.raw", "large.qcow2"].map(path)
  if (raw === undefined || full === undefined || sparse === undefined || text === undefined || large === undefined) throw new Error("five")
  writeNoise(raw)
  await convertImage(raw, full, { source: { format: "raw" } })
  makeSparse(sparse)
  writeFileSync(text, Buffer.from(Array.from({ length: MIB }, (_, word) => `${word * 2654435761}`.padStart(16)).join("")))
  makeLarge(large)
  const output = path("output")
  const convert = (name: string, source: string, options: ConvertImageOptions, words: readonly string[]): Case => ({
    name, output, target: ">= 1.0", ours: () => convertImage(source, output, options), theirs: ["convert", ...words, source, output],
  })
  const other = path("other.qcow2")
  makeLarge(other)
  const mapped = path("mapped.qcow2")
  createImage(mapped, { size: 128 * 1024 * MIB, preallocation: "metadata" })
  return [
    convert("convert raw to qcow2, 256 MiB", raw, { source: { format: "raw" } }, ["-f", "raw", "-O", "qcow2"]),
    convert("convert sparse qcow2 to raw, 64 MiB in 10 GiB", sparse, { format: "raw" }, ["-O", "raw"]),
    convert("convert qcow2 to qcow2, 256 MiB", full, {}, ["-O", "qcow2"]),
    convert("convert -c -m 2 raw to qcow2, 16 MiB of digits", text, { source: { format: "raw" }, compressed: true }, [
      "-c", "-m", "2", "-f", "raw", "-O", "qcow2",
    ]),
    {
      name: "compare two sparse images of 100 GiB",
      target: ">= 1.0",
      ours: () => compare(large, other),
      theirs: ["compare", large, other],
    },
    { name: "compare raw with qcow2, 256 MiB", target: ">= 1.0", ours: () => compare(raw, full), theirs: ["compare", raw, full] },
    { name: "check of a sparse image of 100 GiB", target: ">= 1.0", ours: async () => checkImage(large), theirs: ["check", large] },
    { name: "map of a sparse image of 100 GiB", target: ">= 1.0", ours: async () => map(large), theirs: ["map", "--output=json", large] },
    {
      name: "snapshot of an image with 128 GiB mapped",
      target: ">= 1.0",
      ours: async () => changeSnapshots(mapped, (snapshots) => void snapshots.create({ name: "taken" })),
      theirs: ["snapshot", "-c", "taken", mapped],
      undo: () => changeSnapshots(mapped, (snapshots) => snapshots.delete("taken")),
    },
  ]
}

function writeNoise(path: string): void {
  const fd = openSync(path, "w")
  const words = new Uint32Array(MIB / 4)
  for (let at = 0; at < DATA; at += MIB) {
    for (let index = 0; index < words.length; index++) words[index] = Math.imul(at + index + 1, 0x9e37_79b1)
    writeSync(fd, new Uint8Array(words.buffer))
  }
  closeSync(fd)
}

/** A cluster in each of 1024 places. */
function makeSparse(path: string): void {
  createImage(path, { size: 10 * 1024 * MIB })
  const image = openImage(path)
  for (let index = 0; index < 1024; index++) image.pwrite(new Uint8Array(65_536).fill(index + 1), index * 10 * MIB)
  image.close()
}

/** Every L2 table is there, with eight clusters in it. */
function makeLarge(path: string): void {
  createImage(path, { size: 100 * 1024 * MIB })
  const image = openImage(path)
  for (let offset = 0; offset < image.size; offset += 64 * MIB) image.pwrite(new Uint8Array(65_536).fill(1), offset)
  image.close()
}

async function compare(one: string, other: string): Promise<void> {
  const disks = [openImage(one, { readOnly: true }), openImage(other, { readOnly: true })] as const
  if (!(await compareDisks(...disks)).same) throw new Error("they differ")
  for (const disk of disks) disk.close()
}

function map(path: string): number {
  const image = openImage(path, { readOnly: true })
  let extents = 0
  if ("map" in image) for (const _ of image.map(0, image.size)) extents++
  image.close()
  return extents
}

function changeSnapshots(path: string, change: (snapshots: Qcow2Image["snapshots"]) => void): void {
  const image = openImage(path)
  if (!(image instanceof Qcow2Image)) throw new Error("it is a raw image")
  change(image.snapshots)
  image.close()
}

async function measure(one: Case): Promise<{ readonly ours: Cost; readonly theirs: Cost }> {
  const ours: Cost[] = []
  const theirs: Cost[] = []
  // The first round is not counted: it compiles.
  for (let round = -1; round < ROUNDS; round++) {
    const mine = await timeOurs(one)
    one.undo?.()
    const yours = timeTheirs(one)
    one.undo?.()
    if (round < 0) continue
    ours.push(mine)
    theirs.push(yours)
  }
  const middle = (costs: readonly Cost[]): Cost => ({
    cpu: median(costs.map(({ cpu }) => cpu)), wall: median(costs.map(({ wall }) => wall)),
  })
  return { ours: middle(ours), theirs: middle(theirs) }
}

async function timeOurs(one: Case): Promise<Cost> {
  if (one.output !== undefined) rmSync(one.output, { force: true })
  const [cpu, wall] = [cpuTime(), wallTime()]
  await one.ours()
  return { cpu: cpuTime() - cpu, wall: wallTime() - wall }
}

/** As a process, its start included. */
function timeTheirs(one: Case): Cost {
  if (one.output !== undefined) rmSync(one.output, { force: true })
  const script = 'TIMEFORMAT="%U %S %R"; time qemu-img "$@" >/dev/null'
  const { status, stderr } = spawnSync("bash", ["-c", script, "qemu-img", ...one.theirs], { encoding: "utf8" })
  const [user = Number.NaN, system = Number.NaN, real = Number.NaN] = (stderr.trim().split("\n").at(-1) ?? "").split(" ").map(Number)
  if (status !== 0) throw new Error(`qemu-img ${one.theirs.join(" ")}: ${stderr}`)
  return { cpu: (user + system) * 1e9, wall: real * 1e9 }
}
