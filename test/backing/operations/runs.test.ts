/** What a copy is told of a disk: runs of data and zeroes; and how an operation reports, pauses and is stopped. */
import { describe, expect, it } from "vitest"
import type { Allocation } from "../../../src/backing/backing.ts"
import { isEqual, isZero } from "../../../src/backing/buffers.ts"
import { Operation } from "../../../src/backing/operations/operation.ts"
import { type Run, runsOf, type SourceDisk } from "../../../src/backing/operations/runs.ts"

/** Tells at most 1000 bytes at a time: zeroes below 2500, then data to 4000, then nothing. */
function tell(offset: number, length: number): Allocation {
  const end = [2500, 4000, 10_000].find((border) => offset < border) ?? offset
  return { length: Math.min(length, 1000, end - offset), isAllocated: offset < 4000, isZero: offset < 2500 || offset >= 4000 }
}

async function list(disk: SourceDisk, range: { readonly offset?: number; readonly length?: number } = {}): Promise<Run[]> {
  const runs: Run[] = []
  for await (const run of runsOf(disk, new Operation(disk.size, {}), range)) runs.push(run)
  return runs
}

describe("runs of a disk", () => {
  const told: SourceDisk = { size: 10_000, pread: () => undefined, allocation: tell }

  it("neighbours that are alike are one run, and there are no gaps", async () => {
    expect(await list(told)).toEqual([
      { offset: 0, length: 2500, isAllocated: true, isZero: true }, { offset: 2500, length: 1500, isAllocated: true, isZero: false },
      { offset: 4000, length: 6000, isAllocated: false, isZero: true },
    ])
    expect(await list(told, { offset: 2400, length: 200 })).toEqual([
      { offset: 2400, length: 100, isAllocated: true, isZero: true }, { offset: 2500, length: 100, isAllocated: true, isZero: false },
    ])
  })

  it("an answer that comes later, or is longer than what was asked about, is cut to that", async () => {
    const later: SourceDisk = { ...told, allocation: async () => ({ length: 1 << 20, isAllocated: true, isZero: false }) }
    expect(await list(later, { offset: 9000 })).toEqual([{ offset: 9000, length: 1000, isAllocated: true, isZero: false }])
  })

  it("a disk that tells nothing is all data, and an empty one has no runs", async () => {
    expect(await list({ size: 77, pread: () => undefined })).toEqual([{ offset: 0, length: 77, isAllocated: true, isZero: false }])
    expect(await list({ size: 0, pread: () => undefined })).toEqual([])
  })

  it("a signal stops it between two steps, with the signal's reason", async () => {
    const stop = new AbortController()
    const operation = new Operation(10_000, { signal: stop.signal })
    const seen: number[] = []
    const reading = async (): Promise<void> => {
      for await (const run of runsOf(told, operation)) {
        seen.push(run.offset)
        stop.abort(new Error("enough"))
      }
    }
    await expect(reading()).rejects.toThrow("enough")
    expect(seen).toEqual([0])
    expect(() => new Operation(1, { signal: stop.signal })).toThrow("enough")
  })

  it("progress tells the bytes that are done, and of how many", () => {
    const told: number[][] = []
    const operation = new Operation(100, { progress: (done, total) => told.push([done, total]) })
    operation.advance(40)
    operation.extend(20)
    operation.advance(80)
    expect(told).toEqual([[40, 100], [120, 120]])
  })
})

describe("bytes compared", () => {
  it("all zero is all zero, and one bit anywhere is seen", () => {
    for (const length of [0, 1, 2, 3, 7, 8, 9, 511, 4096]) {
      const memory = new Uint8Array(length + 8).fill(9)
      const bytes = memory.subarray(3, 3 + length).fill(0)
      expect(isZero(bytes), `${length}`).toBe(true)
      for (let at = 0; at < length; at += 1 + Math.floor(length / 50)) {
        bytes[at] = 1
        expect(isZero(bytes), `${at} of ${length}`).toBe(false)
        bytes[at] = 0
      }
    }
    expect(isZero(new Uint8Array(100).fill(7))).toBe(false)
    expect(isEqual(new Uint8Array([1, 2]), new Uint8Array([1, 2]))).toBe(true)
    expect(isEqual(new Uint8Array([1, 2]), new Uint8Array([1, 3]))).toBe(false)
  })
})
