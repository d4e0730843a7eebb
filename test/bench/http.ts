/** A disk over HTTP against bare `fetch` of the same bytes, from one server on the same machine; nothing is cached before. Wall clock. */
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../src/backing/sources/http/http-file.ts"
import { withServer } from "./http-process.ts"
import { IMAGE_BYTES, withImageAwaited } from "./image.ts"
import { heading, median, row, wallTime } from "./measure.ts"

const BLOCK = 1 << 20
const RANDOM_READS = 500
/** Reads at random that are made in one go: in turn, for what else the machine does hits both. */
const IN_TURN = 25
const ROUNDS = 5

/** Prints the rows. */
export function benchHttp(): Promise<void> {
  return withImageAwaited((path) => withServer("http-server.ts", [path], async (url) => {
    heading("A raw disk over HTTP (openDisk of httpFile) against bare fetch, cold; ns of wall clock", "disk", "fetch")
    console.log(await compare("sequential, each MiB of 1 GiB", IMAGE_BYTES / BLOCK, () => readAll(url), () => fetchAll(url), ">= 0.7"))
    console.log(await compareRandom(url))
  }))
}

async function compare(name: string, count: number, ours: () => Promise<void>, bare: () => Promise<void>, target: string): Promise<string> {
  const samples: [number[], number[]] = [[], []]
  for (let round = -1; round < ROUNDS; round++) {
    for (const [index, run] of [ours, bare].entries()) {
      const start = wallTime()
      await run()
      if (round >= 0) samples[index]?.push((wallTime() - start) / count)
    }
  }
  return row(name, median(samples[0]), median(samples[1]), target)
}

async function readAll(url: string): Promise<void> {
  const disk = await openDisk(httpFile(url), { format: "raw" })
  const buffer = new Uint8Array(BLOCK)
  for (let at = 0; at < disk.size; at += BLOCK) await disk.pread(buffer, at)
  await disk.close()
}

async function fetchAll(url: string): Promise<void> {
  const reader = (await fetch(url)).body?.getReader()
  let total = 0
  for (;;) {
    const piece = await reader?.read()
    if (piece === undefined || piece.done) break
    total += piece.value.length
  }
  if (total !== IMAGE_BYTES) throw new Error(`fetch gave ${total} bytes`)
}

/** Places 2 MiB apart, so that no read finds what another one has fetched, in an order that looks like chance. */
const PLACES = Array.from({ length: RANDOM_READS }, (_, index) => (((index * 211) % 512) << 21) + (1 << 20))

/** Both in turn, some reads at a time. Each figure is the median of all turns; the first disk warms up. */
async function compareRandom(url: string): Promise<string> {
  const samples: [number[], number[]] = [[], []]
  for (let round = -1; round < ROUNDS; round++) {
    const disk = await openDisk(httpFile(url), { format: "raw" })
    const buffer = new Uint8Array(4096)
    for (let done = 0; done < RANDOM_READS; done += IN_TURN) {
      const places = PLACES.slice(done, done + IN_TURN)
      for (const [index, read] of [(at: number) => disk.pread(buffer, at), (at: number) => fetchBlock(url, at)].entries()) {
        const start = wallTime()
        for (const at of places) await read(at)
        if (round >= 0) samples[index]?.push((wallTime() - start) / IN_TURN)
      }
    }
    await disk.close()
  }
  return row("4 KiB random", median(samples[0]), median(samples[1]), ">= 0.77")
}

async function fetchBlock(url: string, at: number): Promise<void> {
  await (await fetch(url, { headers: { Range: `bytes=${at}-${at + 4095}` } })).arrayBuffer()
}
