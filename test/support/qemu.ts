/**
 * QEMU's qemu-img and qemu-io as an oracle. If CI is set, a missing tool fails the tests; otherwise they show as skipped.
 */
import { spawnSync, type SpawnSyncReturns } from "node:child_process"
import { it } from "vitest"

function has(tool: string): boolean {
  return spawnSync(tool, ["--version"], { encoding: "utf8" }).status === 0
}

export const hasQemu: boolean = has("qemu-img") && has("qemu-io")

/** `it` for tests that need QEMU's tools. */
export const itWithQemu = it.runIf(hasQemu || process.env["CI"] !== undefined)

/** Runs `qemu-img`. Fails the test if it fails. Returns its output. */
export function qemuImg(...words: string[]): string {
  return run("qemu-img", words)
}

/** Runs qemu-io commands on an image, in order. Fails the test if one of them fails. */
export function qemuIo(image: string, commands: readonly string[], ...options: string[]): string {
  const words = commands.flatMap((command) => ["-c", command])
  const output = run("qemu-io", [...options, image], commands.join("\n") + "\n")
  // qemu-io exits with 0 after a failed command that did not come by -c, and reports mismatches of read patterns only as text.
  if (/verification failed|failed:|Input\/output error|invalid/i.test(output)) throw new Error(`qemu-io ${words.join(" ")}: ${output}`)
  return output
}

function run(tool: string, words: readonly string[], input?: string): string {
  const result = runQemu(tool, words, input === undefined ? {} : { input })
  if (result.error !== undefined) throw result.error
  if (result.status !== 0) throw new Error(`${tool} ${words.join(" ")}: exit ${result.status}: ${result.stderr}${result.stdout}`)
  return result.stdout + result.stderr
}

/** Runs a tool of QEMU, up to 20 times: making a LUKS image fails by chance if QEMU derives a key faster than it can measure. */
export function runQemu(
  tool: string, words: readonly string[], options: { readonly cwd?: string; readonly input?: string } = {},
): SpawnSyncReturns<string> {
  for (let tries = 1; ; tries++) {
    const result = spawnSync(tool, words, { encoding: "utf8", ...options })
    if (tries === 20 || result.status === 0 || !result.stderr?.includes("Unable to get accurate CPU usage")) return result
  }
}

/** The output of `qemu-img check --output=json`; counts that it leaves out are 0. */
export interface QemuCheck {
  readonly exitCode: number
  readonly corruptions: number
  readonly leaks: number
  readonly checkErrors: number
  readonly imageEndOffset: number
  readonly totalClusters: number
  readonly allocatedClusters: number
  readonly fragmentedClusters: number
  readonly compressedClusters: number
  readonly text: string
}

/** Checks an image, without failing the test. Exit codes: 0 clean, 1 not checked, 2 corruptions, 3 leaks only. */
export function qemuCheck(image: string, ...options: string[]): QemuCheck {
  const result = spawnSync("qemu-img", ["check", "--output=json", "-f", "qcow2", ...options, image], {
    encoding: "utf8", maxBuffer: 1 << 28,
  })
  if (result.error !== undefined) throw result.error
  const begin = result.stdout.indexOf("{")
  const report: Record<string, unknown> = begin < 0 ? {} : JSON.parse(result.stdout.slice(begin))
  const count = (name: string): number => (typeof report[name] === "number" ? report[name] : 0)
  return {
    exitCode: result.status ?? -1,
    corruptions: count("corruptions"),
    leaks: count("leaks"),
    checkErrors: count("check-errors"),
    imageEndOffset: count("image-end-offset"),
    totalClusters: count("total-clusters"),
    allocatedClusters: count("allocated-clusters"),
    fragmentedClusters: count("fragmented-clusters"),
    compressedClusters: count("compressed-clusters"),
    text: result.stderr + result.stdout,
  }
}
