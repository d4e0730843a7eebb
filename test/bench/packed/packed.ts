/**
 * Packed rings against split ones: the same requests, with a driver that writes its descriptors for each request, as real ones do; requests
 * a second, driver and device together. Over a backing that does nothing, and over a raw image.
 *
 * Each row has processes of its own, as an emulator has one kind of access and of RAM: the rows before would make its call sites
 * polymorphic, which moved rows by 10 %. Inside of a process both rings take turns, in pieces of 0.3 ms, so that the machine's moods hit
 * both alike. That both kinds are in one process costs the split ring 1 to 3 % more than the packed one (measured beside processes of one
 * kind). What V8 compiles and inlines is different in each process, and with it a kick of one request by 5 %: the median of several
 * processes counts.
 */
import { execFile } from "node:child_process"
import { availableParallelism } from "node:os"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import type { GuestRingOptions } from "../guest-ring.ts"
import { withImageAwaited } from "../image.ts"
import { heading, median, row } from "../measure.ts"
import type { PackedRow, PackedTiming } from "./row.ts"

interface Case extends Partial<Omit<GuestRingOptions, "backing">> {
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

/** Processes of a row. */
const [OF_BATCHES, OF_ONE] = [3, 5] as const
/** Pairs of pieces in each. */
const PAIRS = 200

const run = promisify(execFile)

export async function benchPacked(): Promise<void> {
  heading("Packed rings against split ones, driver and device together; ns of CPU time a request", "packed", "split")
  await withImageAwaited(async (path) => {
    const rows = [...RING.map((one) => ({ one, more: {} })), ...RAW.map((one) => ({ one, more: { path } }))]
    const jobs = rows.flatMap(({ one, more }, index) => {
      const { name: _, ...options } = one
      const row: PackedRow = { ring: { bytes: 4096, type: "read", placement: "apart", rewrites: true, ...options }, pairs: PAIRS, ...more }
      return Array.from({ length: one.batch === 1 ? OF_ONE : OF_BATCHES }, () => ({ row, index }))
    })
    const timings = rows.map((): PackedTiming[] => [])
    const lane = async (): Promise<void> => {
      for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) timings[job.index]?.push(await timeAlone(job.row))
    }
    await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, lane))
    rows.forEach(({ one }, index) => console.log(line(one.name, timings[index] ?? [])))
  })
}

async function timeAlone(row: PackedRow): Promise<PackedTiming> {
  const script = fileURLToPath(new URL("row.ts", import.meta.url))
  const { stdout } = await run(process.execPath, [...process.execArgv, script, JSON.stringify(row)])
  return JSON.parse(stdout)
}

function line(name: string, timings: readonly PackedTiming[]): string {
  const ratios = timings.map(({ ratio }) => ratio)
  const spread = `(${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)})`
  const [packed, split] = [median(timings.map((one) => one.packed)), median(timings.map((one) => one.split))]
  return row(name, packed, split, `>= 1.00   ${spread}`, median(ratios))
}
