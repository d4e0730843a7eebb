/** Memory of writes is used again only when nobody needs it any more, and does not grow beyond what was needed lately. */
import { describe, expect, it } from "vitest"
import { type WriteBuffer, WriteBuffers } from "../../../src/backing/nbd/client/write-buffers.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"

const seed = seedFromEnvironment(47)
const HEADER = 28

function copied(buffers: WriteBuffers, payload: Uint8Array): WriteBuffer {
  const buffer = buffers.take(payload)
  buffer.copyTo(HEADER + payload.length)
  return buffer
}

describe("WriteBuffers", () => {
  it(`keeps every payload unchanged until it is given back (SEED=${seed})`, () => {
    const rng = new Rng(seed)
    const buffers = new WriteBuffers()
    const kept: { readonly payload: Uint8Array; readonly buffer: WriteBuffer }[] = []
    for (let step = 0; step < 2000; step++) {
      const roll = rng.below(10)
      if (roll < 6 && kept.length < 60) {
        const payload = rng.bytes(rng.between(1, rng.pick([100, 5000, 32 * 1024, 33 * 1024, 300_000])))
        const buffer = copied(buffers, payload)
        buffer.bytes.fill(0xee, 0, HEADER)
        kept.push({ payload: payload.slice(), buffer })
        payload.fill(0)
      } else if (roll < 9) {
        const [old] = kept.splice(rng.below(kept.length), 1)
        if (old === undefined) continue
        expect(Buffer.compare(old.buffer.bytes.subarray(HEADER), old.payload)).toBe(0)
        buffers.give(old.buffer)
      } else {
        buffers.trim()
      }
    }
    for (const { payload, buffer } of kept) expect(Buffer.compare(buffer.bytes.subarray(HEADER), payload)).toBe(0)
  })

  it("uses the same memory again for the next write of about that size", () => {
    const buffers = new WriteBuffers()
    const first = copied(buffers, new Uint8Array(1_000_000).fill(1))
    buffers.give(first)
    const second = copied(buffers, new Uint8Array(990_000).fill(2))
    expect(second.bytes.buffer).toBe(first.bytes.buffer)
    expect(second.bytes.length).toBe(HEADER + 990_000)
    expect(copied(buffers, new Uint8Array(990_000)).bytes.buffer).not.toBe(first.bytes.buffer)
  })

  it("takes at most the payload, a quarter more and a page", () => {
    const buffers = new WriteBuffers()
    for (let length = 1; length < 2 ** 21; length = Math.ceil(length * 1.37)) {
      expect(buffers.take(new Uint8Array(length)).size).toBeLessThanOrEqual(Math.max(length * 1.25, HEADER + length) + 4096)
    }
  })

  it("frees buffers that were not needed between two calls of trim", () => {
    const buffers = new WriteBuffers()
    const both = [copied(buffers, new Uint8Array(100_000)), copied(buffers, new Uint8Array(100_000))]
    for (const buffer of both) buffers.give(buffer)
    buffers.trim()
    const needed = copied(buffers, new Uint8Array(100_000))
    buffers.give(needed)
    buffers.trim()
    const memory = new Set(both.map(({ bytes }) => bytes.buffer))
    expect(memory.has(copied(buffers, new Uint8Array(100_000)).bytes.buffer)).toBe(true)
    expect(memory.has(copied(buffers, new Uint8Array(100_000)).bytes.buffer)).toBe(false)
  })

  it("copies up to the byte that it is asked for, and none twice", () => {
    const payload = new Uint8Array(100_000).fill(1)
    const buffer = new WriteBuffers().take(payload)
    buffer.copyTo(HEADER + 1000)
    payload.fill(2)
    buffer.copyTo(HEADER + 500)
    buffer.copyTo(HEADER + 1001)
    expect(buffer.bytes.subarray(HEADER, HEADER + 1002)).toEqual(new Uint8Array(1002).fill(1, 0, 1000).fill(2, 1000, 1001))
  })
})
