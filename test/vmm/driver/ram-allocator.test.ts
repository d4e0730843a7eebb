/** The allocator of guest RAM. */
import { describe, expect, it } from "vitest"
import { RamAllocator } from "../../../src/vmm/driver/ram-allocator.ts"
import { Rng } from "../../support/rng.ts"
import { ramPlatform } from "./ram-platform.ts"

describe("the allocator of guest RAM", () => {
  it("random allocations are in range, aligned and apart, and all memory is free again at the end", () => {
    const rng = new Rng(1)
    const range = { start: 0x1003, length: 100_000 }
    const memory = new RamAllocator(range)
    const live = new Map<number, number>()
    let refused = 0
    for (let round = 0; round < 20_000; round++) {
      if (rng.chance(0.55)) {
        const length = rng.between(1, rng.chance(0.1) ? 20_000 : 600)
        const alignment = rng.pick([1, 2, 4, 16, 512, 4096])
        const address = memory.tryAllocate(length, alignment)
        if (address === undefined) {
          refused++
          continue
        }
        const isBad = address < range.start || address + length > range.start + range.length || address % alignment !== 0
        const clash = [...live].find(([start, size]) => start < address + length && address < start + size)
        if (isBad || clash !== undefined) throw new Error(`${length} bytes at ${address} (alignment ${alignment}) clash with ${clash}`)
        live.set(address, length)
      } else {
        const address = [...live.keys()][rng.below(Math.max(1, live.size))]
        if (address === undefined) continue
        memory.free(address)
        live.delete(address)
      }
      const taken = [...live.values()].reduce((sum, size) => sum + size, 0)
      if (memory.available !== range.length - taken || memory.allocations !== live.size) throw new Error("bytes went astray")
    }
    expect(refused).toBeGreaterThan(100)
    for (const address of live.keys()) memory.free(address)
    expect(memory.tryAllocate(range.length, 1)).toBe(range.start)
  })

  it("exhausted memory, a second free and a free of foreign memory are errors that say so", () => {
    const memory = new RamAllocator({ start: 4096, length: 4096 })
    const address = memory.allocate(4000)
    expect(() => memory.allocate(100)).toThrow(expect.objectContaining({ code: "no-memory" }))
    expect(memory.tryAllocate(100)).toBeUndefined()
    memory.free(address)
    expect(() => memory.free(address)).toThrow(/not allocated/)
    expect(() => memory.free(4097)).toThrow(/not allocated/)
    expect(() => memory.allocate(0)).toThrow(RangeError)
    expect(() => memory.allocate(8, 0)).toThrow(RangeError)
    expect(() => new RamAllocator({ start: -1, length: 8 })).toThrow(RangeError)
    expect(new RamAllocator({ start: 0, length: 0 }).tryAllocate(1)).toBeUndefined()
  })

  it("drivers of one platform share one allocator, which spares the BIOS area or the first page", () => {
    const large = ramPlatform(4 << 20)
    expect(RamAllocator.of(large)).toBe(RamAllocator.of(large))
    expect(RamAllocator.of(large).allocate(3 << 20, 1)).toBe(1 << 20)
    const small = ramPlatform(64 << 10)
    expect(RamAllocator.of(small).allocate(60 << 10, 1)).toBe(4096)
    expect(RamAllocator.of(ramPlatform(100)).capacity).toBe(0)
  })
})
