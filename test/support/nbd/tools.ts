/**
 * Runs NBD's and QEMU's tools against a server in this process, so nothing here may wait synchronously. If CI is set, a missing tool fails
 * the tests; otherwise they show as skipped.
 */
import { execFile, spawnSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { it } from "vitest"

/** Debian's nbdsh runs the first python3 in PATH, but needs Debian's. */
const env = { ...process.env, PATH: `/usr/bin:${process.env["PATH"] ?? ""}` }

function has(name: string, ...words: readonly string[]): boolean {
  return spawnSync(name, words, { env }).status === 0
}

export const hasNbdTools: boolean =
  has("qemu-img", "--version") && has("qemu-io", "--version") && has("nbdinfo", "--version") && has("nbdcopy", "--version") &&
  has("nbdsh", "--version") && has("fio", "--version") && has("openssl", "version")

/** `it` for tests that need these tools. */
export const itWithNbdTools = it.runIf(hasNbdTools || process.env["CI"] !== undefined)

const execute = promisify(execFile)

/** Runs a tool. Fails the test if the tool fails or does not end. Returns its output. */
export async function tool(name: string, ...words: readonly string[]): Promise<string> {
  try {
    const { stdout } = await execute(name, words, { env, timeout: 25_000, maxBuffer: 1 << 28 })
    return stdout
  } catch (error) {
    const { stdout = "", stderr = "" } = error as { readonly stdout?: string; readonly stderr?: string }
    throw new Error(`${name} ${words.join(" ")}: ${error instanceof Error ? error.message.split("\n")[0] : ""}: ${stderr}${stdout}`)
  }
}

export function uri(path: string, name = "", scheme = "nbd"): string {
  return `${scheme}+unix:///${name}?socket=${path}`
}

/** PEM files in a directory, under the names that QEMU and libnbd look for. */
export interface Certificates {
  readonly directory: string
  readonly ca: string
  readonly serverCert: string
  readonly serverKey: string
  readonly clientCert: string
  readonly clientKey: string
}

/** Makes, with openssl, an authority, and a server's and a client's certificate for localhost signed by it. */
export async function makeCertificates(directory: string): Promise<Certificates> {
  const file = (name: string): string => join(directory, name)
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
  await tool(
    "openssl",
    "req",
    "-x509",
    ...key,
    "-keyout",
    file("ca-key.pem"),
    "-out",
    file("ca-cert.pem"),
    "-days",
    "2",
    "-subj",
    "/CN=test",
  )
  writeFileSync(file("extensions"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
  for (const role of ["server", "client"]) {
    await tool("openssl", "req", ...key, "-keyout", file(`${role}-key.pem`), "-out", file(`${role}.csr`), "-subj", "/CN=localhost")
    const authority = [
      "-CA",
      file("ca-cert.pem"),
      "-CAkey",
      file("ca-key.pem"),
      "-CAcreateserial",
      "-days",
      "2",
      "-extfile",
      file("extensions"),
    ]
    await tool("openssl", "x509", "-req", "-in", file(`${role}.csr`), ...authority, "-out", file(`${role}-cert.pem`))
  }
  return {
    directory, ca: file("ca-cert.pem"), serverCert: file("server-cert.pem"), serverKey: file("server-key.pem"),
    clientCert: file("client-cert.pem"), clientKey: file("client-key.pem"),
  }
}
