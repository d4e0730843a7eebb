/** A disk gets another size, or goes back to a snapshot, under a guest that runs: it is told in one call, and goes on. */
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"

function raw(): VirtioBacking {
  const file = new MemoryFile({ path: "disk.raw" })
  file.truncate(8192)
  return new RawBacking(file)
}

function qcow2(): ReturnType<typeof openInMemory> {
  const file = new MemoryFile({ path: "disk.qcow2" })
  createQcow2(file, { size: 8192, clusterSize: 4096 })
  return openInMemory(file)
}

describe("a disk that is resized", () => {
  for (const [name, make] of [["raw", raw], ["qcow2", qcow2], ["memory", () => new MemoryBacking({ size: 8192 })]] as const) {
    it(`CF-08 BC-01 tells the guest its new capacity: ${name}`, async () => {
      const vm = new Machine({ ramSize: 1 << 20 })
      const disk = vm.attachDisk(make()).device
      await disk.resize(16_384)
      expect([disk.capacity, disk.backing.size]).toEqual([32, 16_384])
      await expect(disk.resize(4096)).rejects.toThrow(/allow it by shrink/)
      expect(disk.capacity).toBe(32)
      await disk.resize(4096, { shrink: true })
      expect(disk.capacity).toBe(8)
      await expect(disk.resize(1000)).rejects.toThrow(/not a multiple of 512/)
    })
  }

  it("is refused by a backing of fixed size", async () => {
    const { size, readOnly, pread, pwrite, close } = new MemoryBacking({ size: 8192 })
    const disk = new Machine({ ramSize: 1 << 20 }).attachDisk({ size, readOnly, pread, pwrite, close }).device
    await expect(disk.resize(16_384)).rejects.toThrow(/cannot change its size/)
  })

  it("can go back to a snapshot of another size", async () => {
    const image = qcow2()
    const disk = new Machine({ ramSize: 1 << 20 }).attachDisk(image).device
    image.snapshots.create({ name: "small" })
    await disk.resize(16_384)
    await disk.changeContent(() => image.snapshots.apply("small"))
    expect(disk.capacity).toBe(16)
  })
})
