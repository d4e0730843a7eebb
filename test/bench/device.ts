/**
 * Raw images through the device against a bare loop of file calls over the same offsets, and against the best that file calls could do:
 * into the buffers that the guest has, with new views of them, and in as few calls as the offsets allow. That is the ceiling: no device
 * exceeds it.
 *
 * Before its calls, each loop makes the stores of a guest that makes the same requests available: the guest's share is no part of the
 * device. With one request a kick it is 90 to 150 ns, because its code and data are cold after each file call (measured). The targets of
 * such rows count it too.
 *
 * The bare loop has one buffer, which stays in the cache of the processor; a second one has the guest's buffers, which do not. Hand-fused
 * code serves the same requests over the same backing, and does nothing else. The ratios of both to the device are printed beside the
 * other, without a target.
 */
import { closeSync, openSync, readSync, readvSync, writeSync, writevSync } from "node:fs"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { GuestRing, type GuestRingOptions } from "./guest-ring.ts"
import { offsets, pageAligned, withImage } from "./image.ts"
import { heading, interleave, row } from "./measure.ts"

interface Case extends Omit<GuestRingOptions, "backing"> {
  readonly name: string
  readonly order: "random" | "sequential"
  /** What the ratio should be. */
  readonly target: string
}

const CASES: readonly Case[] = [
  { name: "read 4 KiB random, 64 a kick", type: "read", bytes: 4096, batch: 64, placement: "apart", order: "random", target: ">= 0.93" },
  { name: "read 4 KiB random, 1 a kick", type: "read", bytes: 4096, batch: 1, placement: "apart", order: "random", target: ">= 0.89" },
  {
    name: "read 4 KiB sequential, 64 a kick",
    type: "read",
    bytes: 4096,
    batch: 64,
    placement: "apart",
    order: "sequential",
    target: ">= 2, aim 2.8",
  },
  {
    name: "read 4 KiB sequential, 64 a kick, buffers touch",
    type: "read",
    bytes: 4096,
    batch: 64,
    placement: "touching",
    order: "sequential",
    target: ">= 3",
  },
  {
    name: "read 32 KiB in 8 segments", type: "read", bytes: 32768, segments: 8, batch: 16, placement: "apart", order: "random", target: "",
  },
  {
    name: "read 128 KiB in 32 segments", type: "read", bytes: 131072, segments: 32, batch: 4, placement: "apart", order: "random",
    target: ">= 0.70",
  },
  { name: "read 128 KiB contiguous", type: "read", bytes: 131072, batch: 4, placement: "touching", order: "random", target: ">= 0.95" },
  { name: "write 4 KiB random, 64 a kick", type: "write", bytes: 4096, batch: 64, placement: "apart", order: "random", target: ">= 0.93" },
  { name: "write 4 KiB random, 1 a kick", type: "write", bytes: 4096, batch: 1, placement: "apart", order: "random", target: ">= 0.89" },
  {
    name: "write 4 KiB sequential, 64 a kick",
    type: "write",
    bytes: 4096,
    batch: 64,
    placement: "apart",
    order: "sequential",
    target: ">= 2, aim 2.8",
  },
  {
    name: "write 4 KiB sequential, 64 a kick, buffers touch",
    type: "write",
    bytes: 4096,
    batch: 64,
    placement: "touching",
    order: "sequential",
    target: ">= 3",
  },
  {
    name: "write 128 KiB in 32 segments", type: "write", bytes: 131072, segments: 32, batch: 4, placement: "apart", order: "random",
    target: ">= 0.70",
  },
  { name: "write 128 KiB contiguous", type: "write", bytes: 131072, batch: 4, placement: "touching", order: "random", target: ">= 0.95" },
]

export function benchDevice(): void {
  withImage((path) => {
    heading(
      "Raw image through the device against a bare readSync or writeSync loop, with one buffer; ns of CPU time a request and its guest",
      "device",
      "bare",
    )
    console.log(
      `${"".padEnd(93)}(the ratio of the least file calls that could do it) [against a loop into the guest's buffers, hand-fused code]`,
    )
    for (const one of CASES) console.log(compare(path, one))
  })
}

function compare(path: string, one: Case): string {
  const backing = new RawBacking(new HostFile(path))
  const [ring, guest] = [new GuestRing({ ...one, backing }), new GuestRing({ ...one, backing })]
  const fused = one.segments === undefined ? new GuestRing({ ...one, backing, fused: true }) : undefined
  const fd = openSync(path, "r+")
  const at = offsets(1 << 14, one.bytes, one.order)
  // The loop's buffer is in memory of the same kind, and as well aligned, as the guest's.
  const buffer = pageAligned(one.bytes)
  const bare: (fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => number = one.type === "read"
    ? readSync
    : writeSync
  const count = one.bytes > 4096 ? 1 << 12 : 1 << 15
  const least = leastCalls(fd, one)
  const { batch, bytes, segments = 1 } = one
  const views = segments > 1 ? [] : Array.from({ length: batch }, (_, request) => ring.dataView(request))
  const kicks = (served: GuestRing) => (total: number) => {
    for (let done = 0; done < total; done += batch) served.kick(at, done % at.length)
    served.check()
  }
  const calls = (act: (first: number) => void) => (total: number) => {
    for (let done = 0; done < total; done += batch) {
      guest.prepare(at, done % at.length)
      act(done % at.length)
    }
  }
  const bareCalls = (first: number) => {
    for (let request = 0; request < batch; request++) bare(fd, buffer, 0, bytes, at[first + request] ?? 0)
  }
  const scatteredCalls = (first: number) => {
    for (let request = 0; request < batch; request++) bare(fd, views[request] ?? buffer, 0, bytes, at[first + request] ?? 0)
  }
  const [device, loop, ceiling, scattered, handFused] = interleave(
    [
      { name: "device", run: kicks(ring) },
      { name: "bare", run: calls(bareCalls) },
      { name: "ceiling", run: calls((first) => least(at, first)) },
      { name: "the guest's buffers", run: calls(scatteredCalls) },
      ...(fused === undefined ? [] : [{ name: "hand-fused", run: kicks(fused) }]),
    ],
    count,
    15,
  )
  closeSync(fd)
  backing.close()
  const bareNs = loop?.ns ?? Number.NaN
  const deviceNs = device?.ns ?? Number.NaN
  const others = [scattered, handFused].map((other) => ((other?.ns ?? Number.NaN) / deviceNs).toFixed(3))
  const more = segments > 1 ? "" : `[${others.join(", ")}]`
  return row(one.name, deviceNs, bareNs, `${one.target.padEnd(14)} (${(bareNs / (ceiling?.ns ?? Number.NaN)).toFixed(3)}) ${more}`)
}

/**
 * What serves one batch in the fewest file calls: one vectored call for neighbours, one plain call where they touch in RAM too, else one
 * call each.
 */
function leastCalls(fd: number, one: Case): (at: Float64Array, first: number) => void {
  const { bytes, batch, segments = 1, placement, order, type } = one
  const ram = pageAligned(1 << 26)
  const part = bytes / segments
  const stride = part + (placement === "apart" ? 4096 : 0)
  const view = (index: number, length: number) => new Uint8Array(ram.buffer, ram.byteOffset + (1 << 21) + index * stride, length)
  const plain: (fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => number = type === "read"
    ? readSync
    : writeSync
  const vectored: (fd: number, buffers: Uint8Array[], position: number) => number = type === "read" ? readvSync : writevSync
  const together = order === "sequential" ? batch : 1
  return (at, first) => {
    for (let request = 0; request < batch; request += together) {
      const position = at[first + request] ?? 0
      const pieces = together * segments
      if (pieces === 1 || placement === "touching") plain(fd, view(request * segments, together * bytes), 0, together * bytes, position)
      else vectored(fd, Array.from({ length: pieces }, (_, index) => view(request * segments + index, part)), position)
    }
  }
}
