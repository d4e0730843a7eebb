/** A disk over HTTP against bare `fetch` of the same bytes, from one server on the same machine; nothing is cached before. Wall clock. */
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../src/backing/sources/http/http-file.ts"
import { withServer } from "./http-process.ts"
import { IMAGE_BYTES, withImageAwaited } from "./image.ts"
import { heading, Pairs, type Way, wallTime } from "./measure.ts"

const BLOCK = 1 << 20
const SEQUENTIAL_ROUNDS = 7
const RANDOM_READS = 500
/** Random reads of one turn: few, because the machine's speed changes from second to second. */
const IN_TURN = 25
const RANDOM_ROUNDS = 15
/** Milliseconds before each turn, in which the last request of the turn before comes to its end. */
const SETTLING = 1

/** Prints the rows. */
export function benchHttp(): Promise<void> {
  return withImageAwaited((path) => withServer("http-server.ts", [path], async (url) => {
    heading("A raw disk over HTTP (openDisk of httpFile) against bare fetch, cold; ns of wall clock", "disk", "fetch")
    console.log(await compareSequential(url))
    console.log(await compareRandom(url))
  }))
}

/** `way` as a turn of `count` reads. */
function timed(count: number, way: () => Promise<void>): Way {
  return async () => {
    await new Promise((resolve) => setTimeout(resolve, SETTLING))
    const start = wallTime()
    await way()
    return (wallTime() - start) / count
  }
}

async function compareSequential(url: string): Promise<string> {
  const pairs = new Pairs()
  const [ours, bare] = [timed(IMAGE_BYTES / BLOCK, () => readAll(url)), timed(IMAGE_BYTES / BLOCK, () => fetchAll(url))]
  for (let round = -1; round < SEQUENTIAL_ROUNDS; round++) await pairs.run(ours, bare, { counts: round >= 0 })
  return pairs.row("sequential, each MiB of 1 GiB", ">= 0.7")
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

/** Each round reads all places from a new disk, which has none of them in memory. */
async function compareRandom(url: string): Promise<string> {
  const pairs = new Pairs()
  const buffer = new Uint8Array(4096)
  for (let round = -1; round < RANDOM_ROUNDS; round++) {
    const disk = await openDisk(httpFile(url), { format: "raw" })
    for (let done = 0; done < RANDOM_READS; done += IN_TURN) {
      const each = (read: (at: number) => void | Promise<void>): Way => timed(IN_TURN, async () => {
        for (const at of PLACES.slice(done, done + IN_TURN)) await read(at)
      })
      await pairs.run(each((at) => disk.pread(buffer, at)), each((at) => fetchBlock(url, at)), { counts: round >= 0 })
    }
    await disk.close()
  }
  return pairs.row("4 KiB random", ">= 0.77")
}

async function fetchBlock(url: string, at: number): Promise<void> {
  await (await fetch(url, { headers: { Range: `bytes=${at}-${at + 4095}` } })).arrayBuffer()
}
