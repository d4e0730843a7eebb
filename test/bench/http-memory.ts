/**
 * How much memory a disk of 1 TiB over HTTP takes up that is read at random, beyond what the process had when it was open: the bound of the
 * caches and 64 MiB. `READS=100000 npm run bench -- http-memory` reads for longer.
 */
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { httpFile } from "../../src/backing/sources/http/http-file.ts"
import { withServer } from "./http-process.ts"
import { heading, row } from "./measure.ts"

const MIB = 1 << 20
const READS = Number(process.env["READS"] ?? 2000)
const AT_ONCE = 16
/** Bytes: what `openDisk` keeps by default of pages, and of the tables of a qcow2 image. */
const CACHE = 32 * MIB
const BESIDE = 64 * MIB

export function benchHttpMemory(): Promise<void> {
  return withServer("huge-server.ts", [], async (url) => {
    heading(`1 TiB over HTTP, ${READS} reads at random, ${AT_ONCE} at a time; MiB`, "used", "bound")
    for (const [format, bound] of [["raw", CACHE + BESIDE], ["qcow2", 2 * CACHE + BESIDE]] as const) {
      const { resident, buffers } = await mostUsed(`${url}/disk.${format}`, format)
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

async function mostUsed(url: string, format: "raw" | "qcow2"): Promise<Used> {
  const disk = await openDisk(httpFile(url), { format })
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
      const offset = Math.floor((next() * (disk.size - buffer.length)) / 4096) * 4096
      await disk.pread(buffer, offset)
      const found = new DataView(buffer.buffer).getFloat64(0)
      if (found !== offset) throw new Error(`byte ${offset} of ${url} has the content of ${found}`)
      if (left % 100 === 0) resident = Math.max(resident, process.memoryUsage().rss - before.rss)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, readSome))
  globalThis.gc?.()
  const after = process.memoryUsage()
  await disk.close()
  return { resident, buffers: after.external - before.external }
}
