/** How large a new image's file would be: against the image itself, and against qemu-img measure. */
import { describe, expect, it } from "vitest"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { measureDisk, type MeasureOptions } from "../../../src/backing/operations/measure.ts"
import { createQcow2 } from "../../../src/backing/qcow2/create.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { itWithQemu, qemuImg } from "../../support/qemu.ts"
import { filled, newImage } from "../qcow2/small-images.ts"

describe("measureDisk", () => {
  it.each<MeasureOptions & { readonly size: number }>([
    { size: 10 << 20 }, { size: 10 << 20, clusterSize: 512, refcountBits: 64 }, { size: 200_000, clusterSize: 4096, refcountBits: 1 },
    { size: 0 },
  ])("the fully allocated size is that of a file with everything preallocated: %o", async (options) => {
    const { fullyAllocated, required } = await measureDisk(undefined, options)
    const file = new MemoryFile()
    createQcow2(file, { ...options, preallocation: "metadata" })
    // Creation always makes a refcount table and a block; an empty disk has no more.
    expect(Math.abs(file.size() - fullyAllocated)).toBeLessThanOrEqual(0)
    expect(required).toBeLessThanOrEqual(fullyAllocated)
  })

  it("each cluster of the new image that data touches counts once, and zeroes count nothing", async () => {
    const disk = openQcow2(newImage({ size: 1 << 20, clusterSize: 512 }))
    const empty = await measureDisk(disk)
    disk.pwrite(filled(100, 1), 0)
    disk.pwrite(filled(100, 1), 60_000)
    disk.pwrite(filled(1024, 1), 65_024)
    disk.pwrite(filled(512, 1), (1 << 20) - 512)
    disk.writeZeroes(300_000, 100_000, false)
    const { required, fullyAllocated } = await measureDisk(disk)
    expect(required - empty.required).toBe(3 * 65536)
    expect(fullyAllocated).toBe(empty.fullyAllocated)
    expect(await measureDisk(disk, { format: "raw" })).toEqual({ required: 1 << 20, fullyAllocated: 1 << 20 })
    // What shows from a backing file may be anything.
    expect((await measureDisk(disk, { backing: "base", backingFormat: "raw" })).required).toBe(fullyAllocated)
  })

  it("impossible options and a call without a size are refused", async () => {
    await expect(measureDisk(undefined)).rejects.toMatchObject({ code: "invalid-argument" })
    await expect(measureDisk(undefined, { size: 1, clusterSize: 1000 })).rejects.toThrow("cluster size")
    await expect(measureDisk(new MemoryBacking({ size: 512 }), { compat: "0.10", refcountBits: 1 })).rejects.toThrow("refcounts")
  })

  itWithQemu.each([
    ["1G", {}],
    ["100G", { cluster_size: "4k" }],
    ["3G", { cluster_size: "512", refcount_bits: "64" }],
    ["2T", { cluster_size: "2M", refcount_bits: "1" }],
    ["50G", { extended_l2: "on", cluster_size: "128k" }],
  ] as const)("a new image of %s with %o has the sizes of qemu-img measure", async (size, options) => {
    const list = Object.entries(options).map(([key, value]) => `${key}=${value}`).join(",")
    const theirs = JSON.parse(
      qemuImg("measure", "--output=json", "-O", "qcow2", ...(list === "" ? [] : ["-o", list]), "--size", size),
    ) as Record<string, number>
    const bytes = (text: string): number =>
      Number.parseInt(text, 10) * 1024 ** (" kMGT".indexOf(text.at(-1) ?? "") > 0 ? " kMGT".indexOf(text.at(-1) ?? "") : 0)
    const given: Readonly<Record<string, string>> = options
    const ours = await measureDisk(undefined, {
      size: bytes(size),
      ...(given["cluster_size"] !== undefined && { clusterSize: bytes(given["cluster_size"]) }),
      ...(given["refcount_bits"] !== undefined && { refcountBits: Number(given["refcount_bits"]) }),
      ...(given["extended_l2"] === "on" && { extendedL2: true }),
    })
    expect({ required: ours.required, "fully-allocated": ours.fullyAllocated }).toMatchObject({
      required: theirs["required"], "fully-allocated": theirs["fully-allocated"],
    })
  })
})
