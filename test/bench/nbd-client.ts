/** The NBD client against `qemu-img bench` on the same export: qemu-nbd over a Unix socket. */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { type NbdDisk, nbdDisk } from "../../src/index.ts"
import { IMAGE_BYTES, pageAligned, withImageAwaited } from "./image.ts"
import { heading, Pairs, wallTime } from "./measure.ts"

interface Load {
  readonly name: string
  readonly bytes: number
  readonly step: number
  readonly depth: number
  readonly count: number
  readonly write?: boolean
  /** qemu-img flushes after so many requests. */
  readonly flushAfter?: number
  readonly target: string
}

/**
 * The disk keeps what it has written until the server has flushed it, and flushes by itself for every 32 MiB of that; qemu-img, which loses
 * what a server that crashes forgets, is told to flush as often. The strides of `benchQemu`; a request of 1 MiB begins where the last one
 * ends, for QEMU does not wrap one around.
 */
const STRIDE = 1_052_672
const LOADS: readonly Load[] = [
  { name: "read 4 KiB, stride, 32 in flight", bytes: 4096, step: STRIDE, depth: 32, count: 16_000, target: ">= 0.7" },
  { name: "read 4 KiB, stride, 1 in flight", bytes: 4096, step: STRIDE, depth: 1, count: 3000, target: "" },
  { name: "read 1 MiB, 4 in flight", bytes: 1 << 20, step: 1 << 20, depth: 4, count: 500, target: ">= 0.9" },
  { name: "read 1 MiB, 32 in flight", bytes: 1 << 20, step: 1 << 20, depth: 32, count: 500, target: ">= 0.9" },
  { name: "write 4 KiB, stride, 32 in flight", bytes: 4096, step: STRIDE, depth: 32, count: 10_000, write: true, target: "" },
  { name: "write 1 MiB, 4 in flight, flush", bytes: 1 << 20, step: 1 << 20, depth: 4, count: 300, write: true, flushAfter: 32, target: "" },
]
const ROUNDS = 7
/** Rounds that are not counted. */
const WARM_UP = 1

export async function benchNbdClient(): Promise<void> {
  const isThere = ["qemu-nbd", "qemu-img"].every((tool) => spawnSync(tool, ["--version"]).status === 0)
  if (!isThere) return console.log("\nqemu-nbd is not installed: no comparison over NBD")
  await withImageAwaited(async (path, folder) => {
    const [socket, pidFile] = [join(folder, "socket"), join(folder, "pid")]
    const words = ["--persistent", "--fork", "--shared=0", "-f", "raw", "--socket", socket, "--pid-file", pidFile, path]
    if (spawnSync("qemu-nbd", words, { stdio: "ignore" }).status !== 0) throw new Error("qemu-nbd does not start")
    const uri = `nbd+unix:///?socket=${socket}`
    try {
      heading("NBD client against qemu-img bench, qemu-nbd over a Unix socket; ns of a wall clock a request", "nbdDisk", "qemu-img")
      for (const load of LOADS) await compare(uri, load)
    } finally {
      process.kill(Number(readFileSync(pidFile, "utf8")))
    }
  })
}

async function compare(uri: string, load: Load): Promise<void> {
  const pairs = new Pairs()
  const disk = await nbdDisk(uri)
  // qemu-img, too, fills its buffers before it looks at the clock, and begins them on pages.
  const buffers = Array.from({ length: load.depth }, () => pageAligned(load.bytes).fill(3))
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    await pairs.run(() => runOurs(disk, load, buffers), () => runTheirs(uri, load), { counts: round >= 0 })
  }
  await disk.close()
  console.log(pairs.row(load.name, load.target))
}

async function runOurs(disk: NbdDisk, { step, count, write = false }: Load, buffers: readonly Uint8Array[]): Promise<number> {
  let issued = 0
  const lane = async (buffer: Uint8Array): Promise<void> => {
    while (issued < count) {
      const offset = (issued++ * step) % IMAGE_BYTES
      await (write ? disk.pwrite(buffer, offset) : disk.pread(buffer, offset))
    }
  }
  const start = wallTime()
  await Promise.all(buffers.map(lane))
  return (wallTime() - start) / count
}

function runTheirs(uri: string, { bytes, step, depth, count, write = false, flushAfter }: Load): number {
  const numbers = ["-c", String(count), "-d", String(depth), "-s", String(bytes), "-S", String(step)]
  if (flushAfter !== undefined) numbers.push(`--flush-interval=${flushAfter}`, "--no-drain")
  const { stdout } = spawnSync("qemu-img", ["bench", "-f", "raw", ...numbers, ...(write ? ["-w"] : []), uri], { encoding: "utf8" })
  const seconds = /completed in ([\d.]+) seconds/.exec(stdout)?.[1]
  return seconds === undefined ? Number.POSITIVE_INFINITY : (Number(seconds) * 1e9) / count
}
