/** The guest tests' cache folder. Downloads and unpacked packages are kept there between runs; everything else is made anew. */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { spawnSync } from "node:child_process"

/** `VIOBLK_GUEST_CACHE`, or a folder in the system's temporary one. */
export function cacheFolder(): string {
  const path = process.env["VIOBLK_GUEST_CACHE"] ?? join(tmpdir(), "vioblk-guest")
  mkdirSync(path, { recursive: true })
  return path
}

/** The folder `name` in the cache. `make` fills it the first time; if it is interrupted, the next run starts again. */
export function once(name: string, make: (folder: string) => void): string {
  const path = join(cacheFolder(), name)
  if (existsSync(path)) return path
  const unfinished = `${path}.unfinished`
  rmSync(unfinished, { recursive: true, force: true })
  mkdirSync(unfinished, { recursive: true })
  make(unfinished)
  renameSync(unfinished, path)
  return path
}

export interface RunOptions {
  readonly cwd?: string
  readonly env?: Readonly<Record<string, string>>
  readonly input?: string
  readonly allowed?: readonly number[]
}

/**
 * Runs a program and returns what it printed. An exit status that is not in `allowed` (default 0) is an error with the end of its output.
 */
export function run(command: string, args: readonly string[], options: RunOptions = {}): string {
  const result = spawnSync(command, args, {
    encoding: "utf8", maxBuffer: 1 << 28, cwd: options.cwd, input: options.input, env: { ...process.env, LC_ALL: "C", ...options.env },
  })
  if (result.error !== undefined) throw new Error(`${command}: ${result.error.message}`)
  if (!(options.allowed ?? [0]).includes(result.status ?? -1)) {
    const tail = `${result.stdout}${result.stderr}`.trim().split("\n").slice(-12).join("\n")
    throw new Error(`${command} ${args.join(" ")}: exit status ${result.status ?? result.signal}\n${tail}`)
  }
  return result.stdout
}
