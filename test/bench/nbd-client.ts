/** The NBD client against `qemu-img bench` on the same export: qemu-nbd over a Unix socket. */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { type NbdDisk, nbdDisk } from "../../src/index.ts"
import { IMAGE_BYTES, withImageAwaited } from "./image.ts"
import { heading, median, row, wallTime } from "./measure.ts"

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
const ROUNDS = 3

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

/** In turn, for what else the machine does hits both. */
async function compare(uri: string, load: Load): Promise<void> {
  const ours: number[] = []
  const theirs: number[] = []
  const disk = await nbdDisk(uri)
  for (let round = 0; round <= ROUNDS; round++) {
    const [our, their] = [await runOurs(disk, load), runTheirs(uri, load)]
    if (round === 0) continue
    ours.push(our)
    theirs.push(their)
  }
  await disk.close()
  console.log(row(load.name, median(ours), median(theirs), load.target))
}

async function runOurs(disk: NbdDisk, { bytes, step, depth, count, write = false }: Load): Promise<number> {
  let issued = 0
  const lane = async (): Promise<void> => {
    const buffer = new Uint8Array(bytes).fill(3)
    while (issued < count) {
      const offset = (issued++ * step) % IMAGE_BYTES
      await (write ? disk.pwrite(buffer, offset) : disk.pread(buffer, offset))
    }
  }
  const start = wallTime()
  await Promise.all(Array.from({ length: depth }, lane))
  return (wallTime() - start) / count
}

function runTheirs(uri: string, { bytes, step, depth, count, write = false, flushAfter }: Load): number {
  const numbers = ["-c", String(count), "-d", String(depth), "-s", String(bytes), "-S", String(step)]
  if (flushAfter !== undefined) numbers.push(`--flush-interval=${flushAfter}`, "--no-drain")
  const { stdout } = spawnSync("qemu-img", ["bench", "-f", "raw", ...numbers, ...(write ? ["-w"] : []), uri], { encoding: "utf8" })
  const seconds = /completed in ([\d.]+) seconds/.exec(stdout)?.[1]
  return seconds === undefined ? Number.POSITIVE_INFINITY : (Number(seconds) * 1e9) / count
}
