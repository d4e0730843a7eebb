/**
 * NBD servers of Debian's as the other side: nbdkit, qemu-nbd and nbd-server. Where CI is set a missing tool fails the tests; elsewhere
 * they show as skipped.
 */
import { spawnSync } from "node:child_process"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { connect } from "node:net"
import { join } from "node:path"
import { it, onTestFinished } from "vitest"
import { temporaryDirectory } from "../support/temporary.ts"

const has = (tool: string): boolean => spawnSync(tool, ["--version"]).error === undefined

const TOOLS = ["nbdkit", "qemu-nbd", "nbd-server", "qemu-img", "qemu-io", "openssl"] as const

/** `it` for tests that need NBD servers: runs where they are, fails in CI where they are not, is shown as skipped otherwise. */
export const itWithNbdServers = it.runIf(TOOLS.every(has) || process.env["CI"] !== undefined)

/** A server in the background, until the test has finished. */
export interface RunningServer {
  readonly uri: string
  /** The URI with another name for the export. */
  named(name: string): string
  /** Kills it, as the machine under it would. */
  kill(): void
}

interface Place {
  readonly directory: string
  readonly socket: string
  readonly pidFile: string
}

/** `nbdkit` with these words: options, filters, a plugin and its parameters. */
export function nbdkit(...words: readonly string[]): RunningServer {
  return inBackground("nbd+unix", ({ socket, pidFile }) => ["nbdkit", "-U", socket, "-P", pidFile, ...words])
}

/** `nbdkit` that speaks TLS only, with a certificate for `host`. Returns the certificate of the authority too. */
export function nbdkitWithTls(host: string, ...words: readonly string[]): RunningServer & { readonly ca: string } {
  const certificates = makeCertificates(host)
  const tls = ["--tls=require", `--tls-certificates=${certificates}`]
  const server = inBackground("nbds+unix", ({ socket, pidFile }) => ["nbdkit", "-U", socket, "-P", pidFile, ...tls, ...words])
  return { ...server, ca: readCertificate(certificates, "ca-cert") }
}

/** `qemu-nbd` for an image, for several clients one after the other; it stays until it is killed. */
export function qemuNbd(image: string, format: "raw" | "qcow2", ...words: readonly string[]): RunningServer {
  const common = ["--persistent", "--fork", "--format", format, ...words]
  return inBackground("nbd+unix", ({ socket, pidFile }) => ["qemu-nbd", "--socket", socket, "--pid-file", pidFile, ...common, image])
}

/** `nbd-server` with one export "disk" over a file. */
export async function nbdServer(image: string, ...settings: readonly string[]): Promise<RunningServer> {
  const server = inBackground("nbd+unix", ({ directory, socket, pidFile }) => {
    const config = join(directory, "config")
    const lines = ["[generic]", `unixsock = ${socket}`, "allowlist = true", "[disk]", `exportname = ${image}`, ...settings]
    writeFileSync(config, `${lines.join("\n")}\n`)
    return ["nbd-server", "-C", config, "-p", pidFile]
  })
  // It is in the background before it listens.
  await untilListening(server.uri.slice(server.uri.indexOf("=") + 1))
  return { ...server, uri: server.named("disk") }
}

async function untilListening(socket: string): Promise<void> {
  for (let tries = 0; tries < 1000; tries++) {
    const isThere = await new Promise<boolean>((resolve) => {
      const connection = connect(socket, () => resolve(true)).on("error", () => resolve(false)).on("connect", () => connection.destroy())
    })
    if (isThere) return
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  throw new Error(`nobody listens at ${socket}`)
}

/** Every one of them puts itself into the background, and leaves its number behind. */
function inBackground(scheme: string, commandFor: (place: Place) => readonly string[]): RunningServer {
  const directory = temporaryDirectory()
  const place = { directory, socket: join(directory, "socket"), pidFile: join(directory, "pid") }
  const [program = "", ...words] = commandFor(place)
  const errors = join(directory, "errors")
  const { status, error } = spawnSync("sh", ["-c", 'exec "$0" "$@" 2>"$ERRORS" >/dev/null </dev/null', program, ...words], {
    env: { ...process.env, ERRORS: errors }, stdio: "ignore",
  })
  const said = existsSync(errors) ? readFileSync(errors, "utf8") : ""
  if (error !== undefined || status !== 0) throw new Error(`${program} ${words.join(" ")}: exit ${status}: ${said}`)
  let isOver = false
  const kill = (): void => {
    if (isOver || !existsSync(place.pidFile)) return
    isOver = true
    const pid = readFileSync(place.pidFile, "utf8").trim()
    // Its children too: nbd-server has one for each client.
    spawnSync("sh", ["-c", `kill -9 $(ps -o pid= --ppid ${pid}) ${pid}`], { stdio: "ignore" })
  }
  onTestFinished(kill)
  const named = (name: string): string => `${scheme}:///${name}?socket=${place.socket}`
  return { uri: named(""), named, kill }
}

/**
 * A folder with certificates as nbdkit wants them: of an authority, and one for `host` that it has signed, good for servers and clients.
 */
export function makeCertificates(host: string): string {
  const directory = temporaryDirectory()
  const openssl = (...words: readonly string[]): void => {
    const { status, stderr } = spawnSync("openssl", words, { cwd: directory, encoding: "utf8" })
    if (status !== 0) throw new Error(`openssl ${words.join(" ")}: ${stderr}`)
  }
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
  openssl("req", "-x509", ...key, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=test authority", "-days", "2")
  openssl("req", ...key, "-keyout", "server-key.pem", "-out", "request.pem", "-subj", `/CN=${host}`)
  writeFileSync(join(directory, "extensions"), `subjectAltName=DNS:${host}\n`)
  const signing = ["-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "extensions", "-days", "2"]
  openssl("x509", "-req", "-in", "request.pem", "-out", "server-cert.pem", ...signing)
  return directory
}

/** One of them in PEM. */
export function readCertificate(folder: string, name: "ca-cert" | "server-cert" | "server-key"): string {
  return readFileSync(join(folder, `${name}.pem`), "utf8")
}
