/** A server in a process of its own, for benchmarks over HTTP. */
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

/** Calls `use` with the address that `script`, a file of this folder, prints once it listens; ends it by closing its stdin. */
export async function withServer(script: string, words: readonly string[], use: (url: string) => Promise<void>): Promise<void> {
  const path = fileURLToPath(new URL(script, import.meta.url))
  const server = spawn(process.execPath, ["--import", "tsx", path, ...words], { stdio: ["pipe", "pipe", "inherit"] })
  try {
    await use(await new Promise<string>((resolve) => createInterface({ input: server.stdout }).once("line", resolve)))
  } finally {
    server.stdin.end()
  }
}
