/** `vioblk serve`: an image for other programs and machines, over NBD, until a signal ends it. */
import { readFileSync } from "node:fs"
import { resolve } from "node:path"
import type { NbdAddress } from "../../../backing/nbd/server/server.ts"
import { NbdServer } from "../../../backing/nbd/server/server.ts"
import { openImage } from "../../../backing/open.ts"
import { DETECT_ZEROES } from "../../../backing/zeroes/detect-zeroes.ts"
import { type Arguments, UsageError } from "../arguments.ts"
import { passphraseOf } from "../secrets.ts"
import { formatBytes } from "../format.ts"
import { complain, print } from "../output.ts"

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const

export async function serve(given: Arguments): Promise<number> {
  const path = given.image
  const format = given.choice("format", ["raw", "qcow2", "luks"])
  const name = given.text("export") ?? ""
  const readOnly = given.flag("read-only")
  const where = whereToListen(given)
  const tls = tlsFiles(given)
  const detectZeroes = given.choice("detect-zeroes", DETECT_ZEROES) ?? "off"
  const image = openImage(path, {
    readOnly,
    lockReadOnly: true,
    detectZeroes,
    passphrase: passphraseOf(given),
    ...(format !== undefined && { format })
  })
  try {
    const server = new NbdServer({
      exports: [{ name: name, backing: image }], onError: complaints(), ...(tls !== undefined && { tls }),
    })
    const address = await server.listen(where)
    const ended = signal()
    warnOfStrangers(address, tls)
    print(
      `serving ${path}, ${formatBytes(image.size)}${readOnly ? ", read-only" : ""}, at ${uriOf(address, name, tls !== undefined)}`,
    )
    await ended
    await server.close()
    return 0
  } finally {
    await image.close()
  }
}

function whereToListen(given: Arguments): { readonly port: number; readonly host: string } | { readonly socket: string } {
  const [socket, host, port] = [given.text("socket"), given.text("host"), given.count("port", 0, 65_535)]
  if (socket === undefined) return { port: port ?? 10_809, host: host ?? "127.0.0.1" }
  const other = port === undefined ? "host" : "port"
  if (port !== undefined || host !== undefined) throw new UsageError(`--socket and --${other} exclude each other`)
  if (socket === "") throw new UsageError("--socket: the path of the socket is empty")
  return { socket }
}

function tlsFiles(given: Arguments): { readonly cert: string; readonly key: string; readonly ca?: string } | undefined {
  const [cert, key, ca] = [given.text("tls-cert"), given.text("tls-key"), given.text("tls-ca")]
  if (cert === undefined && key === undefined && ca === undefined) return undefined
  if (cert === undefined || key === undefined) throw new UsageError("TLS needs a certificate and its key: --tls-cert and --tls-key")
  const read = (file: string): string => readFileSync(file, "utf8")
  return { cert: read(cert), key: read(key), ...(ca !== undefined && { ca: read(ca) }) }
}

/** Resolves with the first signal that ends the program. The next one ends it at once, by its default action. */
function signal(): Promise<void> {
  return new Promise((resolve) => {
    const stop = (): void => {
      for (const name of SIGNALS) process.off(name, stop)
      resolve()
    }
    for (const name of SIGNALS) process.on(name, stop)
  })
}

/** Warns, because NBD without TLS has no authentication. */
function warnOfStrangers(address: NbdAddress, tls: { readonly ca?: string } | undefined): void {
  if ("socket" in address || tls?.ca !== undefined || /^(127\.|::1$)/.test(address.host)) return
  complain(`warning: whoever reaches ${address.host} can use the disk; --tls-ca with --tls-cert and --tls-key asks for certificates`)
}

/** [NBD] doc/uri.md */
function uriOf(address: NbdAddress, name: string, hasTls: boolean): string {
  const scheme = hasTls ? "nbds" : "nbd"
  const path = encodeURIComponent(name)
  if ("socket" in address) {
    return `${scheme}+unix:///${path}?socket=${encodeURI(resolve(address.socket)).replace(/[?#&+]/g, encodeURIComponent)}`
  }
  const host = address.host.includes(":") ? `[${address.host}]` : address.host
  return `${scheme}://${host}:${address.port}${path === "" ? "" : `/${path}`}`
}

/** Maximum of lines in a span of time, because any client could fill a disk with them. */
const MOST_COMPLAINTS = 20
const SPAN_MS = 10_000

/** Prints errors, one line each. */
function complaints(): (error: unknown) => void {
  let [since, count] = [0, 0]
  return (error) => {
    const now = performance.now()
    if (count === 0 || now - since >= SPAN_MS) {
      if (count > MOST_COMPLAINTS) complain(`and ${count - MOST_COMPLAINTS} more such lines`)
      since = now
      count = 0
    }
    if (++count <= MOST_COMPLAINTS) complain(error instanceof Error ? error.message : String(error))
  }
}
