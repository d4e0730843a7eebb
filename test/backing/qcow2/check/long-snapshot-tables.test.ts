/** Snapshot tables of more entries, or more bytes, than there may be: mended to the end, in time and memory that the file bounds. */
import { memoryUsage } from "node:process"
import { describe, expect, it } from "vitest"
import { repairQcow2 } from "../../../../src/backing/qcow2/check/repair.ts"
import { openInMemory } from "../../../support/images.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { withTable } from "./snapshot-tables.ts"

class CountingFile extends MemoryFile {
  bytesRead = 0

  override readInto(buffer: Uint8Array, start: number, length: number, offset: number): number {
    this.bytesRead += length
    return super.readInto(buffer, start, length, offset)
  }
}

/** Bytes of an entry: a multiple of 8. */
const entrySize = (extraSize: number): number => Math.ceil((40 + extraSize + 1) / 8) * 8

const tables = [
  { name: "70,000 entries", count: 70_000, extraSize: 16, left: 65_536 },
  { name: "65,000 entries in 70 MB", count: 65_000, extraSize: 1024, left: Math.floor((64 << 20) / entrySize(1024)) },
]

describe("a snapshot table of", () => {
  for (const { name, count, extraSize, left } of tables) {
    it(`QC-SNAP-03 QC-CHK-06 QC-LIM-05 ${name} is mended to its end`, () => {
      const file = new CountingFile({ path: "many.qcow2" })
      file.write(withTable(count, extraSize).bytes, 0)
      const size = file.size()
      const before = memoryUsage().rss
      expect(repairQcow2(file, "all")).toMatchObject({ corruptions: 0, leaks: 0 })
      expect(file.bytesRead).toBeLessThan(20 * size)
      expect(memoryUsage().rss - before).toBeLessThan(1 << 30)
      const list = openInMemory(file.clone()).snapshots.list()
      expect(list.length).toBe(left)
      expect(list.at(-1)).toMatchObject({ id: String.fromCharCode(0x61 + ((left - 1) % 26)) })
    })
  }
})
