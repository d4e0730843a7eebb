/** A small HTTP server for pages: files below folders, with ranges and validators, and a count of what was asked for. */
import { createReadStream, statSync } from "node:fs"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { extname, join, normalize, sep } from "node:path"

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
}

export interface ServerOptions {
  /** Folders and files by the beginning of the path: the first that fits counts. */
  readonly mounts: readonly (readonly [prefix: string, path: string])[]
  /** Headers for every answer. */
  readonly headers?: Readonly<Record<string, string>>
  /** Default: any free port. */
  readonly port?: number
}

/** What clients have asked for below one path. */
export interface Traffic {
  requests: number
  /** Bytes of bodies that were sent, or begun to be sent. */
  bytes: number
}

export class PageServer {
  readonly #server: Server
  readonly #options: ServerOptions
  readonly #traffic = new Map<string, Traffic>()
  readonly #waiting: { readonly path: string; readonly bytes: number; readonly resolve: () => void }[] = []

  private constructor(options: ServerOptions) {
    this.#options = options
    this.#server = createServer((request, response) => this.#answer(request, response))
  }

  static async start(options: ServerOptions): Promise<PageServer> {
    const server = new PageServer(options)
    await new Promise<void>((resolve, reject) => {
      server.#server.once("error", reject)
      server.#server.listen(options.port ?? 0, "localhost", resolve)
    })
    return server
  }

  /** "http://localhost:1234": browsers take localhost for a secure context. */
  get origin(): string {
    return `http://localhost:${(this.#server.address() as AddressInfo).port}`
  }

  /** What was asked for at `path` so far. */
  trafficOf(path: string): Traffic {
    const traffic = this.#traffic.get(path) ?? { requests: 0, bytes: 0 }
    this.#traffic.set(path, traffic)
    return traffic
  }

  /** Resolves when so many bytes of `path` were sent. */
  whenSent(path: string, bytes: number): Promise<void> {
    return new Promise((resolve) => this.#waiting.push({ path, bytes, resolve }))
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname)
    const file = this.#find(path)
    if (file === undefined) {
      response.writeHead(404, { "Content-Type": "text/plain" }).end(`${path}: no such file\n`)
      return
    }
    const { size, mtimeMs } = statSync(file)
    const headers = {
      "Content-Type": TYPES[extname(file)] ?? "application/octet-stream", "Accept-Ranges": "bytes", ETag: `"${size}-${mtimeMs}"`,
      "Cache-Control": "no-cache", ...this.#options.headers,
    }
    const range = rangeOf(request.headers.range, size)
    if (range === "impossible") {
      response.writeHead(416, { ...headers, "Content-Range": `bytes */${size}` }).end()
      return
    }
    const [start, end] = range ?? [0, size - 1]
    const about = { ...headers, "Content-Length": end + 1 - start }
    if (range === undefined) response.writeHead(200, about)
    else response.writeHead(206, { ...about, "Content-Range": `bytes ${start}-${end}/${size}` })
    if (request.method === "HEAD" || size === 0) response.end()
    else this.#send(path, createReadStream(file, { start, end }), response)
  }

  #send(path: string, stream: ReturnType<typeof createReadStream>, response: ServerResponse): void {
    const traffic = this.trafficOf(path)
    traffic.requests++
    stream.on("data", (part) => {
      traffic.bytes += part.length
      for (const waiting of this.#waiting) if (waiting.path === path && waiting.bytes <= traffic.bytes) waiting.resolve()
    })
    stream.on("error", () => response.destroy())
    response.on("close", () => stream.destroy())
    stream.pipe(response)
  }

  #find(path: string): string | undefined {
    for (const [prefix, target] of this.#options.mounts) {
      if (!path.startsWith(prefix)) continue
      const rest = normalize(path.slice(prefix.length))
      if (rest.split(sep).includes("..")) return undefined
      const file = rest === "." || rest === "" ? target : join(target, rest)
      const stat = statSync(file, { throwIfNoEntry: false })
      if (stat?.isFile()) return file
      const index = join(file, "index.html")
      if (stat?.isDirectory() && statSync(index, { throwIfNoEntry: false })?.isFile()) return index
    }
    return undefined
  }
}

/** First and last byte of a single range; undefined where the whole file is asked for. */
function rangeOf(header: string | undefined, size: number): readonly [number, number] | "impossible" | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? "")
  if (match === null) return undefined
  const [, first = "", last = ""] = match
  if (first === "" && last === "") return undefined
  const start = first === "" ? Math.max(0, size - Number(last)) : Number(first)
  const end = first === "" || last === "" ? size - 1 : Math.min(Number(last), size - 1)
  return start > end ? "impossible" : [start, end]
}
