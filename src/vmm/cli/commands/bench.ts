/** `vioblk bench`: measures the speed of an image, like `qemu-img bench`; `--picture` draws latencies. */
import { openImage } from "../../../backing/open.ts"
import { LatencyHistogram } from "../../../virtio/blk/observation/latency-histogram.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { formatBytes } from "../format.ts"
import { imageOf } from "../image-name.ts"
import { print, printHelp, printJson } from "../output.ts"
import { type Terminal, terminal } from "../terminal.ts"

const MOST = 2 ** 31 - 1

/** The requests. */
interface Load {
  readonly count: number
  readonly length: number
  readonly step: number
  readonly start: number
  readonly write: boolean
  readonly pattern: number
  /** Requests between two flushes; 0: no flush. */
  readonly flushEvery: number
}

export async function bench(given: Arguments): Promise<number> {
  const { path, format, passphrase } = imageOf(given)
  const load = loadOf(given)
  const image = openImage(path, {
    passphrase, readOnly: !load.write, lockReadOnly: true, ignoreLocks: given.flag("force-share"), ...(format !== undefined && { format }),
  })
  try {
    if (load.start + load.length > image.size) throw new UsageError(`${path} has ${image.size} bytes: too few for one request`)
    const latencies = new LatencyHistogram()
    const counts = new Map<number, number>()
    const seconds = run(image, load, (ms) => {
      latencies.record(ms)
      const bucket = Math.ceil(Math.log2(Math.max(ms * 1000, 1)))
      counts.set(bucket, (counts.get(bucket) ?? 0) + 1)
    })
    report(given, load, { seconds, latencies, counts })
    return 0
  } finally {
    image.close()
  }
}

function loadOf(given: Arguments): Load {
  const write = given.flag("write")
  const depth = given.count("depth", 1, MOST) ?? 64
  const flushEvery = given.count("flush-interval", 0, MOST) ?? 0
  if (flushEvery > 0 && !write) throw new UsageError("--flush-interval needs -w")
  if (flushEvery > 0 && flushEvery < depth) {
    throw new UsageError(`--flush-interval ${flushEvery}: it must not be less than -d, which is ${depth}`)
  }
  const length = given.size("buffer-size") ?? 4096
  if (length < 1 || length > MOST) throw new UsageError(`-s ${length}: it must be from 1 to ${MOST} bytes`)
  const step = given.size("step-size") ?? 0
  return {
    count: given.count("count", 1, MOST) ?? 75000, length, step: step === 0 ? length : step, start: given.size("offset") ?? 0, write,
    pattern: given.count("pattern", 0, 0xff) ?? 0, flushEvery,
  }
}

type Disk = Pick<ReturnType<typeof openImage>, "size" | "pread" | "pwrite" | "flush">

/** Returns the duration in seconds. */
function run(disk: Disk, { count, length, step, start, write, pattern, flushEvery }: Load, record: (ms: number) => void): number {
  const buffer = new Uint8Array(length).fill(pattern)
  const began = performance.now()
  let [offset, before] = [start, began]
  for (let done = 1; done <= count; done++) {
    if (offset + length > disk.size) offset = start
    if (write) disk.pwrite(buffer, offset)
    else disk.pread(buffer, offset)
    if (flushEvery > 0 && done % flushEvery === 0) disk.flush()
    offset += step
    const now = performance.now()
    record(now - before)
    before = now
  }
  if (write) disk.flush()
  return (performance.now() - began) / 1000
}

interface Result {
  readonly seconds: number
  readonly latencies: LatencyHistogram
  /** By the exponent of 2: microseconds at most. */
  readonly counts: ReadonlyMap<number, number>
}

function report(given: Arguments, { count, length, step, start, write, flushEvery }: Load, { seconds, latencies, counts }: Result): void {
  const median = latencies.quantile(0.5)
  const late = latencies.quantile(0.99)
  const rate = count / Math.max(seconds, 1e-9)
  if (given.json) {
    printJson({
      requests: count, "request-size": length, write, seconds, "requests-per-second": rate,
      latency: { "median-ms": median, "p99-ms": late, "max-ms": latencies.max },
    })
    return
  }
  if (given.flag("quiet")) return
  print(
    `Sending ${count} ${write ? "write" : "read"} requests, ${length} bytes each, one after another ` +
      `(starting at offset ${start}, step size ${step})`,
  )
  if (flushEvery > 0) print(`Sending flush every ${flushEvery} requests`)
  print(`Run completed in ${seconds.toFixed(3)} seconds.`)
  print(`${Math.round(rate)} requests/s, ${formatBytes(Math.round(rate * length))}/s`)
  print(`Latency: median ${timeOf(median * 1000)}, 99 % within ${timeOf(late * 1000)}, longest ${timeOf(latencies.max * 1000)}`)
  if (given.flag("picture")) printHelp(histogramLines(counts, terminal()).join("\n"))
}

/** "12 us", "3.4 ms". */
function timeOf(microseconds: number): string {
  if (microseconds < 1000) return `${microseconds < 10 ? microseconds.toFixed(1) : Math.round(microseconds)} us`
  return `${(microseconds / 1000).toFixed(1)} ms`
}

/** A line for each power of two of microseconds, as long as its share. No line is wider than the terminal. */
export function histogramLines(counts: ReadonlyMap<number, number>, { columns, isUnicode }: Terminal): string[] {
  const buckets = [...counts.keys()].sort((a, b) => a - b)
  const [first = 0, last = -1] = [buckets[0], buckets.at(-1)]
  const most = Math.max(...counts.values(), 1)
  const lines: string[] = []
  for (let bucket = first; bucket <= last; bucket++) {
    const count = counts.get(bucket) ?? 0
    const title = `${timeOf(2 ** bucket).padStart(9)} ${String(count).padStart(8)} `
    const width = Math.max(columns - 1 - title.length, 0)
    // Anything that occurred has at least one sign.
    const length = count === 0 ? 0 : Math.max(Math.round((count / most) * width), 1)
    lines.push((title + (isUnicode ? "█" : "#").repeat(length)).slice(0, Math.max(columns - 1, 1)))
  }
  return lines
}
