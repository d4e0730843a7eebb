/** The table of internal snapshots, as far as opening, writing and checking need it. [QCOW2] "Snapshots" */
import { BackingError } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import { decodeText, getU64, roundUp, viewOf } from "./bytes.ts"
import type { Geometry } from "./geometry.ts"
import type { Qcow2Header } from "./header.ts"
import { LIMIT, SNAPSHOT_FIELD, TABLE_ENTRY_SIZE } from "./spec.ts"

/** One snapshot. Offsets and sizes are bytes unless said otherwise; `offset` is where its entry starts in the file. */
export interface Snapshot {
  readonly offset: number
  /** Not checked: it may be unaligned or beyond any file (see `snapshotL1Problem`). */
  readonly l1TableOffset: number
  /** Entries of its L1 table. */
  readonly l1Size: number
  readonly id: string
  readonly name: string
  readonly dateSeconds: number
  readonly dateNanoseconds: number
  readonly vmClockNanoseconds: bigint
  readonly vmStateSize: number
  /** Size of the disk when the snapshot was taken; undefined when the entry does not say. */
  readonly diskSize: number | undefined
  /** All extra data as stored. */
  readonly extraData: Uint8Array
}

/** The table and the bytes it takes in the file. */
export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[]
  readonly byteLength: number
}

/**
 * Reads the table that the header names. @throws BackingError `invalid-format` beyond the limits of QC-SNAP-03 or when the file ends inside
 * it
 */
export function readSnapshotTable(file: ImageFile, header: Qcow2Header): SnapshotTable {
  const snapshots: Snapshot[] = []
  let offset = header.snapshotsOffset
  for (let index = 0; index < header.snapshotCount; index++) {
    const snapshot = readEntry(file, offset, index)
    snapshots.push(snapshot.entry)
    offset += snapshot.byteLength
    if (offset - header.snapshotsOffset > LIMIT.SNAPSHOT_TABLE_BYTES) {
      throw new BackingError(
        "invalid-format",
        `the snapshot table at byte ${header.snapshotsOffset} is larger than ${LIMIT.SNAPSHOT_TABLE_BYTES} bytes`,
        { path: file.path, offset: header.snapshotsOffset },
      )
    }
  }
  return { snapshots, byteLength: offset - header.snapshotsOffset }
}

function readEntry(file: ImageFile, offset: number, index: number): { entry: Snapshot; byteLength: number } {
  const fixed = readWhole(file, offset, SNAPSHOT_FIELD.EXTRA_DATA, index)
  const view = viewOf(fixed)
  const extraSize = view.getUint32(SNAPSHOT_FIELD.EXTRA_DATA_SIZE)
  const idSize = view.getUint16(SNAPSHOT_FIELD.ID_SIZE)
  const nameSize = view.getUint16(SNAPSHOT_FIELD.NAME_SIZE)
  if (extraSize > LIMIT.SNAPSHOT_EXTRA_DATA_BYTES) {
    throw new BackingError(
      "invalid-format",
      `snapshot ${index} at byte ${offset} has ${extraSize} bytes of extra data, more than ${LIMIT.SNAPSHOT_EXTRA_DATA_BYTES}`,
      { path: file.path, offset },
    )
  }
  const rest = readWhole(file, offset + SNAPSHOT_FIELD.EXTRA_DATA, extraSize + idSize + nameSize, index)
  const extraData = rest.subarray(0, extraSize)
  const extra = viewOf(extraData)
  const entry: Snapshot = {
    offset,
    l1TableOffset: getU64(view, SNAPSHOT_FIELD.L1_TABLE_OFFSET),
    l1Size: view.getUint32(SNAPSHOT_FIELD.L1_SIZE),
    id: decodeText(rest.subarray(extraSize, extraSize + idSize)),
    name: decodeText(rest.subarray(extraSize + idSize)),
    dateSeconds: view.getUint32(SNAPSHOT_FIELD.DATE_SECONDS),
    dateNanoseconds: view.getUint32(SNAPSHOT_FIELD.DATE_NANOSECONDS),
    vmClockNanoseconds: view.getBigUint64(SNAPSHOT_FIELD.VM_CLOCK),
    vmStateSize: extraSize >= 8 ? getU64(extra, 0) : view.getUint32(SNAPSHOT_FIELD.VM_STATE_SIZE),
    diskSize: extraSize >= 16 ? getU64(extra, 8) : undefined,
    extraData,
  }
  return { entry, byteLength: roundUp(SNAPSHOT_FIELD.EXTRA_DATA + rest.length, 8) }
}

function readWhole(file: ImageFile, offset: number, length: number, index: number): Uint8Array {
  const bytes = new Uint8Array(length)
  if (length > 0 && file.read(bytes, offset) < length) {
    throw new BackingError("invalid-format", `the file ends inside the entry of snapshot ${index} at byte ${offset}`, {
      path: file.path, offset,
    })
  }
  return bytes
}

/** What is wrong with a snapshot's L1 table, or undefined: alignment, the 32 MiB limit, and an end that can be addressed. */
export function snapshotL1Problem(snapshot: Snapshot, geometry: Geometry): string | undefined {
  const bytes = snapshot.l1Size * TABLE_ENTRY_SIZE
  if (bytes > LIMIT.L1_TABLE_BYTES) {
    return `its L1 table of ${snapshot.l1Size} entries is above the limit of ${LIMIT.L1_TABLE_BYTES / TABLE_ENTRY_SIZE}`
  }
  if (!Number.isSafeInteger(snapshot.l1TableOffset + bytes)) return "its L1 table lies beyond the largest file offset"
  return snapshot.l1TableOffset % geometry.clusterSize === 0
    ? undefined
    : `its L1 table offset ${snapshot.l1TableOffset} is not a multiple of the cluster size`
}
