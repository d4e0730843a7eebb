/**
 * How much memory a disk of 1 TiB over HTTP takes up that is read at random: the bound of the caches and 64 MiB. The same reads by bare
 * `fetch` come first, because V8's heap grows with them as well; the disk's part is what it adds to them.
 * `READS=60000 npm run bench -- http-memory` reads for some minutes.
 */
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../src/backing/sources/http/http-file.ts"
import { withServer } from "./http-process.ts"
import { format as figure, heading, row } from "./measure.ts"

const MIB = 1 << 20
const READS = Number(process.env["READS"] ?? 2000)
const AT_ONCE = 16
/** Bytes: what `openDisk` keeps by default of pages, and of the tables of a qcow2 image. */
const CACHE = 32 * MIB
const BESIDE = 64 * MIB

/** Reads `buffer.length` bytes at `offset`. */
type Read = (buffer: Uint8Array<ArrayBuffer>, offset: number) => Promise<void> | void

export function benchHttpMemory(): Promise<void> {
  return withServer("huge-server.ts", [], async (url) => {
    heading(`1 TiB over HTTP, ${READS} reads at random, ${AT_ONCE} at a time; MiB that each adds`, "used", "bound")
    const bare = await mostUsed(2 ** 40, async (buffer, offset) => {
      const range = { Range: `bytes=${offset}-${offset + buffer.length - 1}` }
      buffer.set(new Uint8Array(await (await fetch(`${url}/disk.raw`, { headers: range })).arrayBuffer()))
    })
    console.log(`${"memory of bare fetch: resident, at most".padEnd(58)} ${figure(bare.resident / MIB)}`)
    for (const [format, bound] of [["raw", CACHE + BESIDE], ["qcow2", 2 * CACHE + BESIDE]] as const) {
      const disk = await openDisk(httpFile(`${url}/disk.${format}`), { format })
      const { resident, buffers } = await mostUsed(disk.size, (buffer, offset) => disk.pread(buffer, offset))
      await disk.close()
      console.log(row(`memory of ${format}: resident, at most`, resident / MIB, bound / MIB, ">= 1"))
      console.log(row(`memory of ${format}: buffers, after a collection`, buffers / MIB, bound / MIB, ">= 1"))
    }
  })
}

interface Used {
  /** Bytes beyond what there was at first. */
  readonly resident: number
  readonly buffers: number
}

async function mostUsed(size: number, read: Read): Promise<Used> {
  globalThis.gc?.()
  const before = process.memoryUsage()
  let [left, resident, state] = [READS, 0, 20_261_126]
  const next = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
  const readSome = async (): Promise<void> => {
    while (left-- > 0) {
      const buffer = new Uint8Array(next() < 0.9 ? 4096 : 131_072)
      const offset = Math.floor((next() * (size - buffer.length)) / 4096) * 4096
      await read(buffer, offset)
      const found = new DataView(buffer.buffer).getFloat64(0)
      if (found !== offset) throw new Error(`byte ${offset} of the disk has the content of ${found}`)
      if (left % 100 === 0) resident = Math.max(resident, process.memoryUsage().rss - before.rss)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, readSome))
  globalThis.gc?.()
  const after = process.memoryUsage()
  return { resident, buffers: after.external - before.external }
}
