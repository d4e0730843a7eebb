/** The NBD server, as `vioblk serve` starts it, against qemu-nbd under the same clients: nbdcopy and `qemu-img bench`. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { IMAGE_BYTES, withImageAwaited } from "./image.ts"
import { heading, Pairs, type Way, wallTime } from "./measure.ts"

const ROUNDS = 9
/** Rounds that are not counted: the compiler of a server that has just begun is at work for some GiB. */
const WARM_UP = 3
/** Of 256 MiB each: the first three take 0.5, 0.3 and 0.25 s of the server's CPU time, the sixth and later ones 0.2 s. */
const WRITES_WARM_UP = 8
const STRIDE = 1_052_672
const WRITTEN = 256 << 20

export async function benchNbdServer(): Promise<void> {
  const isThere = ["qemu-nbd", "qemu-img", "nbdcopy"].every((tool) => spawnSync(tool, ["--version"]).status === 0)
  if (!isThere) return console.log("\nqemu-nbd or nbdcopy is not installed: no comparison of NBD servers")
  await withImageAwaited(async (path, folder) => {
    heading(
      "NBD server (vioblk serve) against qemu-nbd on the same raw image, over a Unix socket; ns of a wall clock a unit",
      "vioblk",
      "qemu-nbd",
    )
    await withServers({ folder, ours: path, theirs: path, readOnly: true }, async (ours, theirs) => {
      const copy = (uri: string): number => nsOf(["nbdcopy", uri, "null:"], IMAGE_BYTES / 2 ** 20)
      await compare("nbdcopy reads 1 GiB; a MiB", { ours: () => copy(ours), theirs: () => copy(theirs) })
      const numbers = ["-c", "20000", "-d", "32", "-s", "4096", "-S", String(STRIDE)]
      const read = (uri: string): number => nsOf(["qemu-img", "bench", "-f", "raw", ...numbers, uri], 20_000)
      await compare("qemu-img bench reads 4 KiB, stride, 32 in flight", { ours: () => read(ours), theirs: () => read(theirs) })
    })
    const [ours, theirs] = [join(folder, "ours.raw"), join(folder, "theirs.raw")]
    for (const file of [ours, theirs]) {
      writeFileSync(file, "")
      truncateSync(file, IMAGE_BYTES)
    }
    await withServers({ folder, ours, theirs, readOnly: false }, async (our, their) => {
      const source = join(folder, "source.raw")
      writeFileSync(source, readFileSync(path).subarray(0, WRITTEN))
      truncateSync(source, IMAGE_BYTES)
      const copy = (uri: string): number => nsOf(["nbdcopy", "--sparse=0", source, uri], WRITTEN / 2 ** 20)
      await compare("nbdcopy writes 256 MiB; a MiB", { ours: () => copy(our), theirs: () => copy(their), warmUp: WRITES_WARM_UP })
    })
  })
}

interface Comparison {
  readonly ours: Way
  readonly theirs: Way
  readonly warmUp?: number
}

interface Images {
  readonly folder: string
  readonly ours: string
  readonly theirs: string
  readonly readOnly: boolean
}

/** Calls `use` with the URIs of both servers while they run. */
async function withServers({ folder, ours, theirs, readOnly }: Images, use: (our: string, their: string) => Promise<void>): Promise<void> {
  const [ourSocket, theirSocket, pidFile] = [join(folder, "ours"), join(folder, "theirs"), join(folder, "pid")]
  const words = ["--persistent", "--fork", "--shared=0", "-f", "raw", "--socket", theirSocket, "--pid-file", pidFile]
  const { status } = spawnSync("qemu-nbd", [...words, ...(readOnly ? ["--read-only"] : []), theirs], { stdio: "ignore" })
  if (status !== 0) throw new Error("qemu-nbd does not start")
  const child = await startOurs([ours, "--format", "raw", "--socket", ourSocket, ...(readOnly ? ["--read-only"] : [])])
  try {
    await use(`nbd+unix:///?socket=${ourSocket}`, `nbd+unix:///?socket=${theirSocket}`)
  } finally {
    process.kill(Number(readFileSync(pidFile, "utf8")))
    child.kill("SIGTERM")
    await once(child, "exit")
  }
}

/** `vioblk serve`, once it says that it listens. */
async function startOurs(words: readonly string[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", "serve", ...words], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  await once(child.stdout, "data")
  return child
}

async function compare(name: string, { warmUp = WARM_UP, ...ways }: Comparison): Promise<void> {
  const pairs = new Pairs()
  for (let round = -warmUp; round < ROUNDS; round++) await pairs.run(ways.ours, ways.theirs, { counts: round >= 0 })
  console.log(pairs.row(name, ">= 0.8"))
}

/** Nanoseconds that a client takes, by the number of `units` that it moves. */
function nsOf([tool = "", ...words]: readonly string[], units: number): number {
  const start = wallTime()
  const { status, stderr } = spawnSync(tool, words, { encoding: "utf8" })
  if (status !== 0) throw new Error(`${tool}: ${stderr}`)
  return (wallTime() - start) / units
}
