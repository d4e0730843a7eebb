/** The bytes of snapshot tables that are written. Offsets are typed from the format's text. */
import { describe, expect, it } from "vitest"
import { layOutSnapshots, makeSnapshot, readSnapshotTable, type Snapshot } from "../../../../src/backing/qcow2/format/snapshot-table.ts"
import { readHeader } from "../../../../src/backing/qcow2/format/parse-header.ts"
import { failureOf, newImage } from "../small-images.ts"

const place = { offset: 65536, diskSize: 1 << 20, path: "disk.qcow2" }

function snapshot(changes: Partial<Snapshot> = {}): Snapshot {
  const fields = {
    l1TableOffset: 2 ** 32, l1Size: 3, id: "7", name: "before", dateSeconds: 100, dateNanoseconds: 200, vmClockNanoseconds: 300n,
    vmStateSize: 0, icount: undefined, diskSize: 4096,
  }
  return { ...makeSnapshot(fields), ...changes }
}

/** The entries as an image with this table has them. */
function readBack(bytes: Uint8Array, count: number): readonly Snapshot[] {
  const file = newImage({ clusterSize: 65536 })
  file.write(bytes, place.offset)
  return readSnapshotTable(file, { ...readHeader(file), snapshotCount: count, snapshotsOffset: place.offset }).snapshots
}

describe("a snapshot table that is written", () => {
  it("QC-SNAP-01 QC-SNAP-04 an entry begins at a multiple of 8, and has 24 bytes of extra data", () => {
    const { bytes, table } = layOutSnapshots([snapshot(), snapshot({ vmStateSize: 5 * 2 ** 30, icount: 9n })], place)
    const view = new DataView(bytes.buffer)
    expect(bytes.length).toBe(144)
    expect([view.getBigUint64(0), view.getUint32(8), view.getUint16(12), view.getUint16(14)]).toEqual([0x1_0000_0000n, 3, 1, 6])
    expect([view.getUint32(16), view.getUint32(20), view.getBigUint64(24), view.getUint32(32)]).toEqual([100, 200, 300n, 0])
    expect([view.getUint32(36), view.getBigUint64(40), view.getBigUint64(48), view.getBigInt64(56)]).toEqual([24, 0n, 4096n, -1n])
    expect(new TextDecoder().decode(bytes.subarray(64, 71))).toBe("7before")
    // 5 GiB of VM state do not fit into the old field: readers that know no other see none.
    expect([view.getUint32(72 + 32), view.getBigUint64(72 + 40), view.getBigUint64(72 + 56)]).toEqual([0, 5n * 2n ** 30n, 9n])
    expect(table.snapshots.map(({ offset }) => offset)).toEqual([65536, 65536 + 72])
    expect(readBack(bytes, 2)).toEqual(table.snapshots)
  })

  it("QC-SNAP-02 unknown extra data is kept, and missing fields are added", () => {
    const extraData = Uint8Array.from({ length: 40 }, (_, at) => at)
    const { bytes } = layOutSnapshots([snapshot({ extraData }), snapshot({ diskSize: undefined })], place)
    const [first, second] = readBack(bytes, 2)
    expect(first?.extraData).toEqual(extraData)
    expect(second?.diskSize).toBe(1 << 20)
  })

  it("QC-SNAP-01 names that are not UTF-8 are kept as they are", () => {
    const nameBytes = Uint8Array.of(0xff, 0x41)
    expect(readBack(layOutSnapshots([snapshot({ nameBytes })], place).bytes, 1)[0]?.nameBytes).toEqual(nameBytes)
  })

  it("QC-SNAP-03 holds 65536 snapshots and 64 MiB at most", () => {
    const many = Array.from({ length: 65_537 }, () => snapshot())
    expect(layOutSnapshots(many.slice(1), place).table.snapshots.length).toBe(65_536)
    expect(failureOf(() => layOutSnapshots(many, place)).code).toBe("no-space")
    const long = snapshot({ nameBytes: new Uint8Array(65_535) })
    expect(failureOf(() => layOutSnapshots(Array.from({ length: 1024 }, () => long), place)).message).toMatch(/67108864 bytes/)
  })
})
