/**
 * A process that serves disks of 1 TiB by ranges, whose bytes it makes up: `tsx huge-server.ts` prints its address once it listens, and
 * ends with its stdin. /disk.raw is the disk, /disk.qcow2 an image in which every cluster of the disk has a place.
 */
import { createServer } from "node:http"

const DISK = 2 ** 40
const CLUSTER = 65_536
/** Clusters of the image: header, refcount table, L1 table, an L2 table for each 8192 clusters of the disk, and those. */
const L2_TABLES = DISK / CLUSTER / 8192
const FIRST_L2 = 3
const FIRST_DATA = FIRST_L2 + L2_TABLES
const COPIED = 2 ** 63

/** [QCOW2] "Header", version 3. */
function header(): DataView {
  const view = new DataView(new ArrayBuffer(CLUSTER))
  const words: readonly (readonly [at: number, value: number])[] = [
    [0, 0x5146_49fb], [4, 3], [20, 16], [36, L2_TABLES], [56, 1], [96, 4], [100, 104],
  ]
  for (const [at, value] of words) view.setUint32(at, value)
  view.setBigUint64(24, BigInt(DISK))
  view.setBigUint64(40, BigInt(2 * CLUSTER))
  view.setBigUint64(48, BigInt(CLUSTER))
  return view
}

/** One cluster of entries that point to clusters in order. */
function table(first: number, count: number): DataView {
  const view = new DataView(new ArrayBuffer(CLUSTER))
  for (let entry = 0; entry < count; entry++) view.setBigUint64(entry * 8, BigInt(COPIED) + BigInt((first + entry) * CLUSTER))
  return view
}

/** The disk's cluster that begins at `offset`: each 4 KiB begin with their own place. */
function data(offset: number): DataView {
  const view = new DataView(new ArrayBuffer(CLUSTER))
  for (let at = 0; at < CLUSTER; at += 4096) view.setFloat64(at, offset + at)
  return view
}

function imageCluster(index: number): DataView {
  if (index === 0) return header()
  if (index === 1) return new DataView(new ArrayBuffer(CLUSTER))
  if (index === 2) return table(FIRST_L2, L2_TABLES)
  if (index < FIRST_DATA) return table(FIRST_DATA + (index - FIRST_L2) * 8192, 8192)
  return data((index - FIRST_DATA) * CLUSTER)
}

function bytes(start: number, end: number, cluster: (index: number) => DataView): Buffer {
  const body = Buffer.alloc(end - start)
  for (let index = Math.floor(start / CLUSTER); index * CLUSTER < end; index++) {
    const from = Math.max(start, index * CLUSTER)
    const to = Math.min(end, (index + 1) * CLUSTER)
    body.set(new Uint8Array(cluster(index).buffer).subarray(from - index * CLUSTER, to - index * CLUSTER), from - start)
  }
  return body
}

const server = createServer((request, response) => {
  const [, first = NaN, last = NaN] = (/^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? []).map(Number)
  const isImage = request.url === "/disk.qcow2"
  const size = isImage ? FIRST_DATA * CLUSTER + DISK : DISK
  const body = bytes(first, Math.min(last + 1, size), isImage ? imageCluster : (index) => data(index * CLUSTER))
  const range = `bytes ${first}-${first + body.length - 1}/${size}`
  response.writeHead(206, { "Content-Range": range, "Content-Length": body.length, ETag: '"huge"' }).end(body)
})
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  console.log(`http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`)
})
process.stdin.on("end", () => process.exit()).resume()
