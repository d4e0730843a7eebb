/** A process that serves one file by ranges: `tsx http-server.ts FILE` prints the address once it listens, and ends with its stdin. */
import { createReadStream, statSync } from "node:fs"
import { createServer } from "node:http"

const path = process.argv[2] ?? ""
const { size } = statSync(path)

const server = createServer((request, response) => {
  const [, first = "0", last = String(size - 1)] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? []
  const [start, end] = [Number(first), Math.min(Number(last), size - 1)]
  const range = request.headers.range === undefined ? {} : { "Content-Range": `bytes ${start}-${end}/${size}` }
  response.writeHead(request.headers.range === undefined ? 200 : 206, { ...range, "Content-Length": end - start + 1, ETag: '"bench"' })
  createReadStream(path, { start, end, highWaterMark: 1 << 20 }).pipe(response)
})
server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  console.log(`http://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}/disk.raw`)
})
process.stdin.on("end", () => process.exit()).resume()
