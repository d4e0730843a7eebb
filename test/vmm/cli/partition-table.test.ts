/** Partition tables, laid out by hand from their specifications: MBR (as in the UEFI specification, 5.2.1) and GPT (5.3). */
import { describe, expect, it } from "vitest"
import { PARTITION_TABLE_SECTORS, parsePartitionTable } from "../../../src/vmm/cli/device/partition-table.ts"

const LINUX = [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4]

function disk(): { bytes: Uint8Array; data: DataView } {
  const bytes = new Uint8Array(PARTITION_TABLE_SECTORS * 512)
  bytes.set([0x55, 0xaa], 510)
  return { bytes, data: new DataView(bytes.buffer) }
}

function gpt(): { bytes: Uint8Array; data: DataView } {
  const { bytes, data } = disk()
  bytes.set([0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], 446)
  bytes.set(new TextEncoder().encode("EFI PART"), 512)
  data.setUint32(512 + 72, 2, true)
  data.setUint32(512 + 80, 128, true)
  data.setUint32(512 + 84, 128, true)
  bytes.set(LINUX, 1024 + 128)
  data.setUint32(1024 + 128 + 32, 2048, true)
  data.setUint32(1024 + 128 + 40, 4095, true)
  for (const [index, char] of [..."root"].entries()) data.setUint16(1024 + 128 + 56 + 2 * index, char.charCodeAt(0), true)
  return { bytes, data }
}

describe("parsePartitionTable", () => {
  it("finds nothing on an empty disk, on one that is too small, or without the signature", () => {
    expect(parsePartitionTable(new Uint8Array(0))).toBeUndefined()
    expect(parsePartitionTable(new Uint8Array(512))).toBeUndefined()
    expect(parsePartitionTable(disk().bytes)).toBeUndefined()
  })

  it("does not take the boot sector of a file system for a partition table", () => {
    const { bytes } = disk()
    bytes.fill(0x90, 446, 510)
    expect(parsePartitionTable(bytes)).toBeUndefined()
  })

  it("reads an MBR, with a start and a size above 2^31", () => {
    const { bytes } = disk()
    bytes.set([0x80, 0, 0, 0, 0x0c, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff], 446 + 16)
    expect(parsePartitionTable(bytes)).toEqual({
      kind: "mbr",
      partitions: [{ number: 2, start: 0x8000_0000, sectors: 0xffff_ffff, type: "0c", bootable: true }],
    })
  })

  it("reads a GPT", () => {
    expect(parsePartitionTable(gpt().bytes)).toEqual({
      kind: "gpt",
      partitions: [{ number: 2, start: 2048, sectors: 2048, type: "0FC63DAF-8483-4772-8E79-3D69D8477DE4", name: "root", bootable: false }],
    })
  })

  it.each([
    ["a table far outside of the disk", 72, 0xffff_ffff],
    ["four thousand million entries", 80, 0xffff_ffff],
    ["entries of no size", 84, 0],
    ["entries of 4 GiB", 84, 0xffff_ffff],
  ])("survives a GPT header that claims %s", (_what, offset, value) => {
    const { bytes, data } = gpt()
    data.setUint32(512 + offset, value, true)
    expect(() => parsePartitionTable(bytes)).not.toThrow()
  })

  it("keeps control characters in a partition's name from the terminal", () => {
    const { bytes, data } = gpt()
    data.setUint16(1024 + 128 + 56 + 2, 0x1b, true)
    expect(parsePartitionTable(bytes)?.partitions[0]?.name).toBe("r")
  })
})
