/** `qemu-img bench` as a contender. */
import { spawnSync } from "node:child_process"

export interface QemuBench {
  readonly path: string
  readonly format: "raw" | "qcow2"
  readonly engine: "threads" | "io_uring"
  readonly count: number
  readonly depth: number
  /** Bytes of a request, and from the start of one to the next. */
  readonly bytes: number
  readonly step: number
  readonly write?: boolean
}

export const hasQemuImg: boolean = spawnSync("qemu-img", ["--version"]).status === 0

/** Nanoseconds a request, of the time that qemu-img itself reports for the run; infinite when it cannot do it (no io_uring, say). */
export function qemuBench(options: QemuBench): number {
  const { path, format, engine, count, depth, bytes, step, write = false } = options
  const args = [
    "bench",
    "-f",
    format,
    "-i",
    engine,
    "-c",
    String(count),
    "-d",
    String(depth),
    "-s",
    String(bytes),
    "-S",
    String(step),
    ...(write ? ["-w"] : []),
    path,
  ]
  const { stdout, status } = spawnSync("qemu-img", args, { encoding: "utf8" })
  const seconds = /completed in ([\d.]+) seconds/.exec(stdout)?.[1]
  return status === 0 && seconds !== undefined ? (Number(seconds) * 1e9) / count : Number.POSITIVE_INFINITY
}
