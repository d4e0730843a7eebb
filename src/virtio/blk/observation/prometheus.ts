/** prometheusText: statistics of block devices in Prometheus's text format, version 0.0.4, which other collectors read as well. */
import { checkMembers, checkValue, type Rules } from "../../../options.ts"
import { SECTOR_SIZE } from "../spec.ts"
import type { BlkStatistics, RequestCounts, RequestKind } from "../statistics.ts"

/** The members of a disk that `prometheusText` reads. `VirtioBlk` has them. */
export interface MeasuredDisk {
  readonly statistics: BlkStatistics
  /** Sectors of 512 bytes. */
  readonly capacity: number
  /** Why the disk has stopped; undefined while it has not. */
  readonly stoppedBy?: unknown
}

const MEASURED_DISK_RULES: Rules<MeasuredDisk> = { statistics: "object", capacity: "number", stoppedBy: "any?" }

type Labels = Readonly<Record<string, string>>
type Disks = readonly (readonly [name: string, disk: MeasuredDisk])[]

/**
 * The statistics of disks as text for Prometheus. The keys of `disks` become the label `disk`. Disks with the option `latency` have
 * histograms.
 * @throws TypeError for anything but disks
 */
export function prometheusText(disks: Readonly<Record<string, MeasuredDisk>>): string {
  checkValue("prometheusText", "disks", disks, "object")
  const list: Disks = Object.entries(disks)
  for (const [name, disk] of list) checkMembers("prometheusText", `the disk "${name}"`, disk, MEASURED_DISK_RULES, "MeasuredDisk")
  return [
    ...family("capacity_bytes", "gauge", "Size of the disk.", list, (disk) => [[{}, disk.capacity * SECTOR_SIZE]]),
    ...family("stopped", "gauge", "1 while the disk has stopped at an error.", list, ({ stoppedBy }) => [
      [{}, stoppedBy === undefined ? 0 : 1],
    ]),
    ...family("requests_total", "counter", "Requests completed.", list, counter(({ requests }) => requests)),
    ...family("bytes_total", "counter", "Bytes of data of requests that succeeded.", list, counter(({ bytes }) => bytes)),
    ...family("errors_total", "counter", "Requests that failed or were refused.", list, counter(({ errors }) => errors)),
    ...family(
      "merged_total", "counter", "Requests that went to the backing with the one before them.", list,
      ({ statistics }) => [[{}, statistics.merged]],
    ),
    ...latencies(list),
  ].map((line) => `${line}\n`).join("")
}

/** The lines of one metric: its help and type, and a sample for each of its series. */
function family(
  name: string, type: "gauge" | "counter", help: string, disks: Disks, samples: (disk: MeasuredDisk) => (readonly [Labels, number])[],
): string[] {
  const lines = disks.flatMap(([disk, measured]) =>
    samples(measured).map(([labels, value]) => `vioblk_${name}${labelText({ disk, ...labels })} ${value}`))
  return lines.length === 0 ? [] : [`# HELP vioblk_${name} ${help}`, `# TYPE vioblk_${name} ${type}`, ...lines]
}

/** A counter of each kind of request. */
function counter(value: (counts: RequestCounts) => number): (disk: MeasuredDisk) => (readonly [Labels, number])[] {
  return ({ statistics }) => kinds(statistics).map(([kind, counts]) => [{ kind }, value(counts)])
}

function kinds({ merged: _, ...statistics }: BlkStatistics): (readonly [RequestKind, RequestCounts])[] {
  return Object.entries(statistics).map(([kind, counts]) => [kind as RequestKind, counts])
}

/** Histograms, with cumulative buckets: each counts requests of at most `le` seconds, up to infinity. */
function latencies(disks: Disks): string[] {
  const lines = disks.flatMap(([disk, { statistics }]) =>
    kinds(statistics).flatMap(([kind, { latency }]) => {
      if (latency === undefined) return []
      const sample = (suffix: string, labels: Labels, value: number): string =>
        `vioblk_request_seconds_${suffix}${labelText({ disk, kind, ...labels })} ${value}`
      return [
        ...latency.cumulative().map(({ ms, count }) => sample("bucket", { le: String(ms / 1000) }, count)),
        sample("bucket", { le: "+Inf" }, latency.count),
        sample("sum", {}, latency.sum / 1000),
        sample("count", {}, latency.count),
      ]
    }))
  if (lines.length === 0) return []
  return ["# HELP vioblk_request_seconds From the ring to the completion.", "# TYPE vioblk_request_seconds histogram", ...lines]
}

function labelText(labels: Labels): string {
  const escape = (value: string): string => value.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n")
  return `{${Object.entries(labels).map(([name, value]) => `${name}="${escape(value)}"`).join(",")}}`
}
