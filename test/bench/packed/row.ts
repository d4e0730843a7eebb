/** One row of the bench `packed`, in a process of its own: takes a `PackedRow` as JSON, and prints a `PackedTiming`. */
import { HostFile } from "../../../src/backing/host/host-file.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { GuestRing, type GuestRingOptions } from "../guest-ring.ts"
import { offsets } from "../image.ts"
import { cpuTime, median } from "../measure.ts"
import { withoutViews } from "../ring/ring.ts"

/** What a row measures. */
export interface PackedRow {
  readonly ring: Omit<GuestRingOptions, "backing" | "packed">
  /** A raw image. Left out: a backing that does nothing. */
  readonly path?: string
  /** Pairs of pieces. */
  readonly pairs: number
}

/** Nanoseconds of CPU time a request, and the median of the pieces' ratios, split to packed. */
export interface PackedTiming {
  readonly packed: number
  readonly split: number
  readonly ratio: number
}

/** Milliseconds for which both rings run before anything counts, so that V8 has compiled what it will. */
const WARM_UP = 300
/** Nanoseconds of a piece, about. */
const PIECE = 300_000

function measure({ ring: options, path, pairs }: PackedRow): PackedTiming {
  const backing = path === undefined ? withoutViews : new RawBacking(new HostFile(path))
  const at = offsets(1 << 14, 4096, "random")
  const { batch } = options
  const runner = (packed: boolean) => {
    const ring = new GuestRing({ ...options, backing, packed })
    return (count: number): number => {
      const start = cpuTime()
      for (let done = 0; done < count; done += batch) ring.kick(at, done % at.length)
      const ns = (cpuTime() - start) / count
      ring.check()
      return ns
    }
  }
  const [packed, split] = [runner(true), runner(false)]
  for (const end = Date.now() + WARM_UP; Date.now() < end; ) {
    packed(1 << 11)
    split(1 << 11)
  }
  const count = batch * Math.ceil(PIECE / split(1 << 12) / batch)
  const times: { readonly packed: number; readonly split: number }[] = []
  for (let pair = 0; pair < pairs; pair++) {
    // Each kind comes first as often as second.
    const first = packed(count)
    const both = split(count) + split(count)
    times.push({ packed: (first + packed(count)) / 2, split: both / 2 })
  }
  return {
    packed: median(times.map((time) => time.packed)), split: median(times.map((time) => time.split)),
    ratio: median(times.map((time) => time.split / time.packed)),
  }
}

const row: PackedRow = JSON.parse(process.argv[2] ?? "{}")
console.log(JSON.stringify(measure(row)))
