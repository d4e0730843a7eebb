/** What a copy is told of a disk: runs of data and zeroes; and how an operation reports, pauses and is stopped. */
import { describe, expect, it } from "vitest"
import { isEqual, isZero } from "../../../src/backing/bytes/buffers.ts"
import { Operation } from "../../../src/backing/operations/operation.ts"
import { runAt, type SourceDisk } from "../../../src/backing/operations/runs.ts"

describe("runs of a disk", () => {
  const told: SourceDisk = { size: 10_000, pread: () => undefined }

  it("an answer that is longer than the range is cut to it, also when it comes later", async () => {
    const later: SourceDisk = { ...told, allocation: async () => ({ length: 1 << 20, isAllocated: true, isZero: false }) }
    expect(await runAt(later, 9000, 1000)).toEqual({ offset: 9000, length: 1000, isAllocated: true, isZero: false })
    const shorter: SourceDisk = { ...told, allocation: () => ({ length: 10, isAllocated: false, isZero: true }) }
    expect(await runAt(shorter, 9000, 1000)).toEqual({ offset: 9000, length: 10, isAllocated: false, isZero: true })
  })

  it("a disk without `allocation` is all data", async () => {
    expect(await runAt(told, 10, 77)).toEqual({ offset: 10, length: 77, isAllocated: true, isZero: false })
  })
})

describe("an operation", () => {
  it("a signal stops it between two steps, with the signal's reason", async () => {
    const stop = new AbortController()
    const operation = new Operation(10_000, { signal: stop.signal })
    await operation.turn()
    stop.abort(new Error("enough"))
    await expect(operation.turn()).rejects.toThrow("enough")
    expect(() => new Operation(1, { signal: stop.signal })).toThrow("enough")
  })

  it("progress gets the bytes that are done and the total", () => {
    const told: number[][] = []
    const operation = new Operation(100, { progress: (done, total) => told.push([done, total]) })
    operation.advance(40)
    operation.extend(20)
    operation.advance(80)
    expect(told).toEqual([[40, 100], [120, 120]])
  })
})

describe("bytes compared", () => {
  it("a single bit anywhere is found, and zeroes alone count as zero", () => {
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
