/** `vioblk serve` as its user meets it: a process of its own, which signals end. */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, writeFileSync } from "node:fs"
import { createServer } from "node:net"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { describe, expect, it, onTestFinished } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { commandLine } from "../../support/command-line.ts"
import { CMD, NbdClient } from "../../support/nbd/client.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const SIZE = 1 << 20

function image(folder: string): string {
  const path = join(folder, "disk.qcow2")
  createImage(path, { size: SIZE })
  return path
}

interface Served {
  readonly child: ChildProcess
  /** The line that says where. */
  readonly line: string
  readonly ended: Promise<{ readonly code: number | null; readonly signal: string | null }>
}

async function serve(...words: readonly string[]): Promise<Served> {
  const child = spawn(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", "serve", ...words], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  onTestFinished(() => void child.kill("SIGKILL"))
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once("exit", (code, signal) => resolve({ code, signal }))
  })
  const { value, done } = await createInterface({ input: child.stdout })[Symbol.asyncIterator]().next()
  if (done === true) throw new Error("it ended without a line")
  return { child, line: value, ended }
}

describe("vioblk serve", () => {
  it("prints how to connect, serves, and ends with SIGTERM: writes are stored, and the socket is removed", async () => {
    const folder = temporaryDirectory()
    const path = image(folder)
    const socket = join(folder, "a socket?")
    const { child, line, ended } = await serve(path, "--socket", socket, "--export", "my disk")
    expect(line).toBe(`serving ${path}, 1 MiB, at nbd+unix:///my%20disk?socket=${encodeURI(folder)}/a%20socket%3F`)
    const client = await NbdClient.connect({ path: socket })
    expect((await client.go("my disk")).size).toBe(BigInt(SIZE))
    expect(await client.perform({ type: CMD.write, offset: 4096, length: 4096, payload: Buffer.alloc(4096, 7) })).toBe(0)
    expect(() => openImage(path)).toThrow(expect.objectContaining({ code: "busy" }))
    child.kill("SIGTERM")
    expect(await ended).toEqual({ code: 0, signal: null })
    await client.rest()
    expect(existsSync(socket)).toBe(false)
    const disk = openImage(path)
    const read = Buffer.alloc(8192)
    disk.pread(read, 0)
    disk.close()
    expect(read).toEqual(Buffer.concat([Buffer.alloc(4096), Buffer.alloc(4096, 7)]))
  })

  it("listens at a port of this host read-only, and ends with SIGINT", async () => {
    const { child, line, ended } = await serve(image(temporaryDirectory()), "--port", "0", "--read-only")
    const port = Number(/^serving .*, 1 MiB, read-only, at nbd:\/\/127\.0\.0\.1:(\d+)$/.exec(line)?.[1])
    const client = await NbdClient.connect({ port })
    expect((await client.go()).flags & 2).toBe(2)
    child.kill("SIGINT")
    expect(await ended).toEqual({ code: 0, signal: null })
  })

  it("reports an error in one line, and changes no file", async () => {
    const folder = temporaryDirectory()
    const path = image(folder)
    const other = createServer()
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve))
    onTestFinished(() => void other.close())
    const address = other.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    writeFileSync(join(folder, "pem"), "no certificate")
    const failures: readonly (readonly [number, string, readonly string[]])[] = [
      [1, `vioblk: cannot listen at port ${port} of 127.0.0.1: it is in use; choose another one\n`, [path, "--port", String(port)]],
      [1, `vioblk: cannot listen at ${path}: it exists already; remove it if no server listens there\n`, [path, "--socket", path]],
      [1, "vioblk: --port 65536: it must be a whole number from 0 to 65535; see vioblk serve --help\n", [path, "--port", "65536"]],
      [1, "vioblk: --socket and --port exclude each other; see vioblk serve --help\n", [path, "--port", "1", "--socket", "x"]],
      [1, "vioblk: TLS needs a certificate and its key: --tls-cert and --tls-key; see vioblk serve --help\n", [
        path, "--tls-ca", join(folder, "pem"),
      ]],
      [1, "vioblk: the name of the image is missing; see vioblk serve --help\n", []],
    ]
    for (const [code, err, words] of failures) expect(await commandLine("serve", ...words)).toEqual({ code, out: "", err })
    const tls = ["--tls-cert", join(folder, "pem"), "--tls-key", join(folder, "pem")]
    expect((await commandLine("serve", path, ...tls)).err).toMatch(/^vioblk: the certificate or the key for TLS cannot be used: .*\n$/)
    expect((await commandLine("serve", join(folder, "none"))).err).toContain("no such file")
    // Each has let go of the image.
    openImage(path).close()
  })
})
