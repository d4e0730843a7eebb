/** The text for Prometheus, read back by the rules of its format. */
import { describe, expect, it } from "vitest"
import { prometheusText, VirtioBlk } from "../../../../src/index.ts"
import { eio, FakeDisk } from "../../../harness/fake-disk.ts"
import { RingGuest } from "../../../harness/guest.ts"
import { T } from "../../../harness/words.ts"

interface Sample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** Samples by the rules of the text format: HELP and TYPE once, before all samples of their metric, which stand together. */
function parse(text: string): { readonly samples: Sample[]; readonly types: Map<string, string> } {
  expect(text.endsWith("\n")).toBe(true)
  const types = new Map<string, string>()
  const samples: Sample[] = []
  let family = ""
  for (const line of text.slice(0, -1).split("\n")) {
    const [, keyword, metric = "", rest = ""] = /^# (HELP|TYPE) ([a-z_:]+) (.+)$/.exec(line) ?? []
    if (keyword === "HELP") {
      expect(types.has(metric), metric).toBe(false)
      family = metric
    } else if (keyword === "TYPE") {
      expect(metric).toBe(family)
      types.set(metric, rest)
    } else {
      const [, name = "", labels = "", value = ""] = /^([a-z_:]+)\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)*)\} (\S+)$/.exec(line) ?? []
      const base = types.get(family) === "histogram" ? name.replace(/_(bucket|sum|count)$/, "") : name
      expect([base, line]).toEqual([family, line])
      const pairs = [...labels.matchAll(/([a-z]+)="((?:[^"\\\n]|\\["\\n])*)"/g)]
      const unescape = (raw: string): string => raw.replace(/\\(.)/g, (_, char: string) => (char === "n" ? "\n" : char))
      samples.push({ name, labels: Object.fromEntries(pairs.map(([, key = "", raw = ""]) => [key, unescape(raw)])), value: Number(value) })
    }
  }
  return { samples, types }
}

function find(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>>): number[] {
  const matches = (sample: Sample): boolean => Object.entries(labels).every(([key, value]) => sample.labels[key] === value)
  return samples.filter((sample) => sample.name === name && matches(sample)).map(({ value }) => value)
}

describe("prometheusText", () => {
  it("has the counts of each disk, and histograms with cumulative buckets", () => {
    const disk = new FakeDisk()
    disk.failing = ({ offset }) => (offset === 512 ? eio() : undefined)
    const guest = new RingGuest({ backing: disk, disk: { latency: "all" } })
    for (const sector of [0, 1, 2, 3]) guest.run({ type: T.IN, sector, in: 512 })
    guest.write(4, new Uint8Array(1024))
    const { samples, types } = parse(prometheusText({ root: guest.disk.device, spare: new VirtioBlk(new FakeDisk({ size: 4096 })) }))
    const root = { disk: "root", kind: "read" }
    expect(find(samples, "vioblk_requests_total", root)).toEqual([4])
    expect(find(samples, "vioblk_errors_total", root)).toEqual([1])
    expect(find(samples, "vioblk_bytes_total", root)).toEqual([1536])
    expect(find(samples, "vioblk_bytes_total", { disk: "root", kind: "write" })).toEqual([1024])
    expect(find(samples, "vioblk_capacity_bytes", { disk: "spare" })).toEqual([4096])
    expect(find(samples, "vioblk_requests_total", { disk: "spare", kind: "read" })).toEqual([0])
    const buckets = samples.filter(({ name, labels }) => name === "vioblk_request_seconds_bucket" && labels["kind"] === "read")
    expect(buckets.map(({ labels }) => Number(labels["le"]?.replace("+Inf", "Infinity")))).toEqual([
      ...Array.from({ length: 28 }, (_, power) => 2 ** power / 1e6), Number.POSITIVE_INFINITY,
    ])
    expect(buckets.map(({ value }) => value)).toEqual(buckets.map(({ value }) => value).toSorted((a, b) => a - b))
    expect([buckets.at(-1)?.value, find(samples, "vioblk_request_seconds_count", root)]).toEqual([4, [4]])
    expect(find(samples, "vioblk_request_seconds_sum", root)[0]).toBeGreaterThan(0)
    expect(find(samples, "vioblk_request_seconds_count", { disk: "spare" })).toEqual([])
    expect(types.get("vioblk_request_seconds")).toBe("histogram")
  })

  it("distinguishes a disk that has stopped from others", () => {
    const disk = new FakeDisk()
    disk.failing = () => eio()
    const guest = new RingGuest({ backing: disk, disk: { readErrors: "stop" } })
    const { pieces } = guest.place({ type: T.IN, sector: 0, in: 512 })
    guest.publish([guest.chain(pieces)])
    guest.kick()
    const { samples } = parse(prometheusText({ root: guest.disk.device, spare: new VirtioBlk(new FakeDisk()) }))
    expect([find(samples, "vioblk_stopped", { disk: "root" }), find(samples, "vioblk_stopped", { disk: "spare" })]).toEqual([[1], [0]])
  })

  it("escapes names", () => {
    const name = 'a"b\\c\nd'
    const { samples } = parse(prometheusText({ [name]: new VirtioBlk(new FakeDisk()) }))
    expect(new Set(samples.map(({ labels }) => labels["disk"]))).toEqual(new Set([name]))
  })

  it("is empty without disks, and refuses values that are no disks", () => {
    expect(prometheusText({})).toBe("")
    const text: (disks: unknown) => string = (disks) => prometheusText(disks as Parameters<typeof prometheusText>[0])
    expect(() => text({ root: {} })).toThrow('prometheusText: the disk "root" has no statistics; it must be an object')
    expect(() => text(undefined)).toThrow(TypeError)
  })
})
