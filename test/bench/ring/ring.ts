/** The ring alone: a backing that does nothing, so that what is left is the queue, the parser and the completion. */
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { GuestRing, type GuestRingOptions } from "../guest-ring.ts"
import { IMAGE_BYTES, offsets } from "../image.ts"
import { type Contender, format, interleave } from "../measure.ts"

const nothing: VirtioBacking = {
  size: IMAGE_BYTES,
  readOnly: false,
  pread() {},
  pwrite() {},
  preadv() {},
  pwritev() {},
  flush() {},
  close() {},
}

/** The same, which needs no view of RAM. */
export const withoutViews: VirtioBacking = { ...nothing, preadInto() {}, pwriteFrom() {} }

interface Case extends Partial<GuestRingOptions> {
  readonly name: string
  readonly batch: number
  /** Nanoseconds, on the machine on which the targets were set. */
  readonly target?: number
}

/**
 * Hand-fused code, of which each row is a multiple: machines differ by a factor of two. On the one on which the targets were set it took
 * FUSED_THEN ns.
 */
const FUSED: Case = { name: "hand-fused code that does the same, 64 a kick", batch: 64, fused: true }
const FUSED_THEN = 20

const CASES: readonly Case[] = [
  FUSED,
  { name: "hand-fused code, with views, 64 a kick", batch: 64, fused: true, backing: nothing },
  { name: "hand-fused code, 1 a kick", batch: 1, fused: true },
  { name: "direct, 64 a kick", batch: 64, target: 45 },
  { name: "indirect, 64 a kick", batch: 64, indirect: true, target: 50 },
  { name: "direct, 1 a kick", batch: 1, target: 85 },
  { name: "writes, 64 a kick", batch: 64, type: "write" },
  { name: "a backing that wants views, 64 a kick", batch: 64, backing: nothing, target: 62 },
  { name: "shared RAM, 64 a kick", batch: 64, shared: true, target: 42 },
  { name: "shared RAM, 1 a kick", batch: 1, shared: true, target: 111 },
  { name: "IN_ORDER, 64 a kick", batch: 64, inOrder: true },
  { name: "the general walk, 64 a kick", batch: 64, general: true, target: 84 },
  { name: "the general walk, 1 a kick", batch: 1, general: true, target: 120 },
  { name: "MMIO, 64 a kick", batch: 64, mmio: true },
  { name: "MMIO, 1 a kick", batch: 1, mmio: true },
  { name: "MMIO with an interrupt, 1 a kick", batch: 1, mmio: true, intx: true },
  { name: "INTx, 64 a kick", batch: 64, intx: true },
  { name: "INTx, 1 a kick", batch: 1, intx: true },
]

/** Requests whose data are in several buffers, as those of guests with a page cache are: one vectored call each. */
const SEGMENTS: readonly Case[] = [
  { name: "8 segments, indirect, 16 a kick", batch: 16, segments: 8, bytes: 32768, indirect: true },
  { name: "8 segments, indirect, 1 a kick", batch: 1, segments: 8, bytes: 32768, indirect: true },
  { name: "8 segments, direct, 16 a kick", batch: 16, segments: 8, bytes: 32768 },
  { name: "8 segments, direct, 16 a kick, the general walk", batch: 16, segments: 8, bytes: 32768, general: true },
  { name: "8 segments that touch, 16 a kick", batch: 16, segments: 8, bytes: 32768, placement: "touching" },
  { name: "32 segments, indirect, 4 a kick", batch: 4, segments: 32, bytes: 131072, indirect: true },
]

export function benchRing(): void {
  console.log("\nRing alone: a backing that does nothing, random 4 KiB reads of 3 descriptors; ns of CPU time a request")
  console.log(`  ${"".padEnd(58)} ${"device".padStart(10)} ${"guest".padStart(10)}   of hand-fused code   target`)
  measure(CASES, 1 << 20)
  measure(SEGMENTS, 1 << 17)
  const views = interleave([{ name: "", run: makeViews }], 1 << 20)[0]
  console.log(`  ${"of which: one view of RAM, new Uint8Array(...)".padEnd(58)} ${format(views?.ns ?? Number.NaN)}`)
  benchNotify()
  benchHeap(offsets(1 << 16, 8192, "random"))
}

function measure(cases: readonly Case[], count: number): void {
  const contenders = ({ name, target: _, ...more }: Case): Contender[] => {
    const { batch, bytes = 4096 } = more
    // No request is the neighbour of another.
    const at = offsets(1 << 16, 2 * bytes, "random")
    const options = { backing: withoutViews, bytes: 4096, type: "read", placement: "apart", ...more } as const
    const [ring, alone] = [new GuestRing(options), new GuestRing(options)]
    return [
      {
        name,
        run(count) {
          for (let done = 0; done < count; done += batch) ring.kick(at, done % at.length)
          ring.check()
        },
      },
      {
        name: "guest",
        run(count) {
          for (let done = 0; done < count; done += batch) alone.prepare(at, done % at.length)
        },
      },
    ]
  }
  const timings = interleave(cases.flatMap(contenders), count)
  const guest = (index: number) => timings[2 * index + 1]?.ns ?? Number.NaN
  const device = (index: number) => (timings[2 * index]?.ns ?? Number.NaN) - guest(index)
  cases.forEach(({ name, segments, target }, index) => {
    const ratio = segments === undefined ? (device(index) / device(cases.indexOf(FUSED))).toFixed(2) : ""
    const most = target === undefined ? "" : `<= ${(target / FUSED_THEN).toFixed(2)} (${target} ns of ${FUSED_THEN})`
    console.log(`  ${name.padEnd(58)} ${format(device(index))} ${format(guest(index))}   ${ratio.padStart(18)}   ${most}`)
  })
}

/** What a kick itself costs: of a queue in which nothing waits. */
function benchNotify(): void {
  const contender = (name: string, mmio: boolean): Contender => {
    const ring = new GuestRing({ backing: withoutViews, bytes: 4096, type: "read", placement: "apart", batch: 1, mmio })
    return {
      name,
      run(count) {
        for (let done = 0; done < count; done++) ring.notify()
      },
    }
  }
  const [pci, mmio] = interleave([contender("PCI", false), contender("MMIO", true)], 1 << 17, 41)
  const ratio = (pci?.ns ?? Number.NaN) / (mmio?.ns ?? Number.NaN)
  console.log(`  ${"a kick for nothing, over PCI; over MMIO".padEnd(58)} ${format(pci?.ns ?? NaN)} ${format(mmio?.ns ?? NaN)}   ` +
    `MMIO is ${ratio.toFixed(2)} times as fast; target >= 1.00`)
}

const ram = new ArrayBuffer(1 << 20)
let sink = 0

function makeViews(count: number): void {
  for (let i = 0; i < count; i++) sink += new Uint8Array(ram, (i & 0xff) * 4096, 4096).length
}

/** Ten million requests must leave the heap as it was. */
function benchHeap(at: Float64Array): void {
  const ring = new GuestRing({ backing: withoutViews, batch: 64, bytes: 4096, type: "read", placement: "apart" })
  const run = (requests: number) => {
    for (let done = 0; done < requests; done += 64) ring.kick(at, done % at.length)
  }
  const collect = globalThis.gc ?? (() => {})
  run(1_000_000)
  collect()
  const before = process.memoryUsage().heapUsed
  run(10_000_000)
  collect()
  const grown = process.memoryUsage().heapUsed - before
  const hint = globalThis.gc === undefined ? "   (run with --expose-gc for an exact figure)" : ""
  console.log(`  ${"heap growth over 10,000,000 requests, bytes".padEnd(58)} ${String(grown).padStart(10)}${hint}`)
  if (sink < 0) console.log(sink)
}
