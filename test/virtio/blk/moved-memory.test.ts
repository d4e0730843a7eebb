/** An embedder that moves RAM to another buffer at the end of a call of its backing: the calls after it read and write there. */
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { RamRegion } from "../../../src/virtio/guest-memory.ts"
import { RegionsGuest } from "../../harness/regions-guest.ts"
import { header, pattern } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { OK, T, UNTOUCHED } from "../../harness/words.ts"

const RAM = 0x1_0000
const CONTENT = pattern(0, 16)
/** Where the parts of request n are. */
const headerOf = (n: number): number => 0x4000 + 0x1000 * n
const statusOf = (n: number): number => headerOf(n) + 0x20
const dataOf = (n: number): number => headerOf(n) + 0x100

type Shape = "plain" | "vectored" | "in place"

interface Disk {
  readonly backing: VirtioBacking
  readonly content: Uint8Array
}

/** A disk that calls `moved` at the end of its first call, in any of its methods. */
function diskOf(shape: Shape, moved: () => void): Disk {
  const content = CONTENT.slice()
  let calls = 0
  const transfer = (work: (buffer: Uint8Array, part: Uint8Array) => void) => (buffers: readonly Uint8Array[], offset: number): void => {
    let at = offset
    for (const buffer of buffers) {
      work(buffer, content.subarray(at, at + buffer.length))
      at += buffer.length
    }
    if (++calls === 1) moved()
  }
  const read = transfer((buffer, part) => buffer.set(part))
  const write = transfer((buffer, part) => part.set(buffer))
  type InPlace = (ram: Uint8Array, start: number, length: number, offset: number) => void
  const inPlace = (work: typeof read): InPlace => (ram, start, length, offset) => work([ram.subarray(start, start + length)], offset)
  const backing = {
    size: content.length, readOnly: false, close() {}, flush() {},
    pread: (buffer: Uint8Array, offset: number) => read([buffer], offset),
    pwrite: (buffer: Uint8Array, offset: number) => write([buffer], offset),
    ...(shape !== "plain" && { preadv: read, pwritev: write }),
    ...(shape === "in place" && { preadInto: inPlace(read), pwriteFrom: inPlace(write) }),
  }
  return { backing, content }
}

describe.each(["split", "packed"] as const)("a %s ring in RAM that moves during a batch", (ring) => {
  it.each([
    ["plain", 1], ["vectored", 1], ["vectored", 2], ["in place", 1],
  ] as const)("VQ-21 over a disk that is %s is accessed at its new place after the move, with %i buffers", (shape, buffers) => {
    const space = { start: 0, ram: new Uint8Array(RAM) }
    const { backing, content } = diskOf(shape, () => {
      const old = space.ram
      space.ram = old.slice()
      old.fill(0xcc)
      guest.regions = [new RamRegion(0, space.ram)]
      guest.generation++
    })
    const guest = new RegionsGuest({ backing, spaces: [space], queues: [0], packed: ring === "packed" })
    const [queue] = guest.rings
    if (queue === undefined) throw new Error("no queue")
    const requests = [T.IN, T.OUT, T.IN, T.OUT].map((type, n) => ({ type, sector: 4 * n, out: pattern(100 + n, 1) }))
    const piece = (n: number, at: number): number => dataOf(n) + 0x400 * at
    const length = 512 / buffers
    for (const [n, { type, sector, out }] of requests.entries()) {
      space.ram.set(header({ type, sector }), headerOf(n))
      space.ram[statusOf(n)] = UNTOUCHED
      const data = Array.from({ length: buffers }, (_, at): Piece => ({ address: piece(n, at), length, writable: type === T.IN }))
      if (type === T.OUT) for (const at of data.keys()) space.ram.set(out.subarray(length * at, length * (at + 1)), piece(n, at))
      const pieces = [{ address: headerOf(n), length: 16, writable: false }, ...data, { address: statusOf(n), length: 1, writable: true }]
      queue.publish(queue.chain(pieces))
    }
    guest.disk.virtio.notify(0)
    for (const [n, { type, sector, out }] of requests.entries()) {
      const found = Array.from({ length: buffers }, (_, at) => space.ram.subarray(piece(n, at), piece(n, at) + length))
      const [start, end] = [512 * sector, 512 * (sector + 1)]
      expect([n, space.ram[statusOf(n)]]).toEqual([n, OK])
      expect(Buffer.compare(Buffer.concat(found), type === T.IN ? CONTENT.subarray(start, end) : out)).toBe(0)
      expect(Buffer.compare(content.subarray(start, end), type === T.IN ? CONTENT.subarray(start, end) : out)).toBe(0)
    }
  })
})
