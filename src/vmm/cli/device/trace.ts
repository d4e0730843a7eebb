/** `--trace`: prints a line for each completed request on standard error, apart from the command's output. */
import type { ObservedRequest } from "../../../virtio/blk/observation/observed-request.ts"
import { printTrace } from "../output.ts"

const STATUSES = ["OK", "IOERR", "UNSUPP"]

/** An observer that prints. Seconds count from the first request. */
export function tracer(): (request: ObservedRequest) => void {
  let start: number | undefined
  return (request) => {
    start ??= request.arrived
    printTrace(traceLine(request, start))
  }
}

/** "  0.001234 queue 0 read sector 2048, 4096 bytes: OK after 0.103 ms" */
function traceLine({ queue, kind, type, sector, bytes, status, arrived, completed }: ObservedRequest, start: number): string {
  const what = kind === "unknown" ? `unknown type ${type}` : kind
  const where = kind === "flush" || kind === "getId" ? "" : ` sector ${sector}, ${bytes} bytes`
  const seconds = ((arrived - start) / 1000).toFixed(6).padStart(10)
  return `${seconds} queue ${queue} ${what}${where}: ${STATUSES[status] ?? status} after ${(completed - arrived).toFixed(3)} ms`
}
