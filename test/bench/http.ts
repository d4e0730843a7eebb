/** A disk over HTTP against bare `fetch` of the same bytes, from one server on the same machine; nothing is cached before. Wall clock. */
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../src/backing/sources/http/http-file.ts"
import { withServer } from "./http-process.ts"
import { IMAGE_BYTES, withImageAwaited } from "./image.ts"
import { heading, median, row, wallTime } from "./measure.ts"

const BLOCK = 1 << 20
const RANDOM_READS = 500
const ROUNDS = 5

/** Prints the rows. */
export function benchHttp(): Promise<void> {
  return withImageAwaited((path) => withServer("http-server.ts", [path], async (url) => {
    heading("A raw disk over HTTP (openDisk of httpFile) against bare fetch, cold; ns of wall clock", "disk", "fetch")
    console.log(await compare("sequential, each MiB of 1 GiB", IMAGE_BYTES / BLOCK, () => readAll(url), () => fetchAll(url), ">= 0.7"))
    console.log(await compare("4 KiB random", RANDOM_READS, () => readRandom(url), () => fetchRandom(url), ">= 0.77"))
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

async function readRandom(url: string): Promise<void> {
  const disk = await openDisk(httpFile(url), { format: "raw" })
  const buffer = new Uint8Array(4096)
  for (const at of PLACES) await disk.pread(buffer, at)
  await disk.close()
}

async function fetchRandom(url: string): Promise<void> {
  for (const at of PLACES) await (await fetch(url, { headers: { Range: `bytes=${at}-${at + 4095}` } })).arrayBuffer()
}
