/** The table of internal snapshots, read and written. [QCOW2] "Snapshots" */
import { BackingError } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import { decodeText, encodeText, getU64, roundUp, setU64, viewOf } from "../../bytes/fields.ts"
import { FileWindow } from "./file-window.ts"
import type { Geometry } from "./geometry.ts"
import type { Qcow2Header } from "./header.ts"
import { LIMIT, SNAPSHOT_FIELD, TABLE_ENTRY_SIZE } from "./spec.ts"

/** Bytes of extra data that we always write: VM state size, disk size, icount (QC-SNAP-04). */
const EXTRA_DATA_WRITTEN = 24
const NO_ICOUNT = 0xffff_ffff_ffff_ffffn

/** One snapshot. Offsets and sizes are bytes unless said otherwise; `offset` is where its entry starts in the file. */
export interface Snapshot {
  readonly offset: number
  /** Unchecked: it may be unaligned or beyond any file (see `snapshotL1Problem`). */
  readonly l1TableOffset: number
  /** Entries of its L1 table. */
  readonly l1Size: number
  readonly id: string
  readonly name: string
  /** Both as stored, so that rewriting the table preserves bytes that are not UTF-8. */
  readonly idBytes: Uint8Array
  readonly nameBytes: Uint8Array
  readonly dateSeconds: number
  readonly dateNanoseconds: number
  readonly vmClockNanoseconds: bigint
  readonly vmStateSize: number
  /** Instructions that the guest has executed, if the VM counts them. */
  readonly icount: bigint | undefined
  /** Size of the disk when the snapshot was taken; undefined if the entry does not have it. */
  readonly diskSize: number | undefined
  /** All extra data as stored. */
  readonly extraData: Uint8Array
}

/** The table and the bytes it takes in the file. */
export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[]
  readonly byteLength: number
}

/** A part of a table that exceeds the limits, and how a repair removes it. */
export interface SnapshotProblem {
  readonly message: string
  readonly offset: number
  /** The repair drops entries, whose references are then unknown. */
  readonly isLoss: boolean
}

/**
 * Reads the table that the header names.
 * @throws BackingError `invalid-format` beyond the limits of QC-SNAP-03, or if the file ends inside the table
 */
export function readSnapshotTable(file: ImageFile, header: Qcow2Header): SnapshotTable {
  return scanSnapshotTable(file, header, ({ message, offset }) => {
    throw new BackingError("invalid-format", message, { path: file.path, offset })
  })
}

/**
 * Reads the table, but calls `tell` for parts that exceed the limits or the end of the file, and leaves them out: snapshots at the end, or
 * extra data. @throws what `tell` throws
 */
export function scanSnapshotTable(file: ImageFile, header: Qcow2Header, tell: (problem: SnapshotProblem) => void): SnapshotTable {
  const snapshots: Snapshot[] = []
  const window = new FileWindow(file)
  const start = header.snapshotsOffset
  let offset = start
  for (let index = 0; index < header.snapshotCount; index++) {
    const read = readEntry(window, offset)
    if (read === undefined) {
      tell({ message: `the file ends inside the entry of snapshot ${index} at byte ${offset}`, offset, isLoss: true })
      break
    }
    const { entry, byteLength, extraSize } = read
    const most = index === LIMIT.SNAPSHOTS ? `holds more than ${LIMIT.SNAPSHOTS} snapshots` : undefined
    const size = offset + byteLength - start > LIMIT.SNAPSHOT_TABLE_BYTES ? `is larger than ${LIMIT.SNAPSHOT_TABLE_BYTES} bytes` : undefined
    const reason = most ?? size
    if (reason !== undefined) {
      tell({ message: `the snapshot table at byte ${start} ${reason}`, offset: start, isLoss: true })
      break
    }
    if (extraSize > LIMIT.SNAPSHOT_EXTRA_DATA_BYTES) {
      const extra = `${extraSize} bytes of extra data, more than ${LIMIT.SNAPSHOT_EXTRA_DATA_BYTES}`
      tell({ message: `snapshot ${index} at byte ${offset} has ${extra}`, offset, isLoss: false })
    }
    snapshots.push(entry)
    offset += byteLength
  }
  return { snapshots, byteLength: offset - start }
}

/** Undefined if the file ends inside the entry. */
function readEntry(window: FileWindow, offset: number): { entry: Snapshot; byteLength: number; extraSize: number } | undefined {
  const { view } = window
  const head = window.locate(offset, SNAPSHOT_FIELD.EXTRA_DATA)
  if (head < 0) return undefined
  const extraSize = view.getUint32(head + SNAPSHOT_FIELD.EXTRA_DATA_SIZE)
  const idSize = view.getUint16(head + SNAPSHOT_FIELD.ID_SIZE)
  const nameSize = view.getUint16(head + SNAPSHOT_FIELD.NAME_SIZE)
  const words = offset + SNAPSHOT_FIELD.EXTRA_DATA + extraSize
  // Bytes beyond the limit are never read: the size may be 4 GiB.
  const extraData = window.copy(offset + SNAPSHOT_FIELD.EXTRA_DATA, Math.min(extraSize, LIMIT.SNAPSHOT_EXTRA_DATA_BYTES))
  const idBytes = window.copy(words, idSize)
  const nameBytes = window.copy(words + idSize, nameSize)
  if (extraData === undefined || idBytes === undefined || nameBytes === undefined) return undefined
  const at = window.locate(offset, SNAPSHOT_FIELD.EXTRA_DATA + Math.min(extraSize, EXTRA_DATA_WRITTEN))
  const extra = at + SNAPSHOT_FIELD.EXTRA_DATA
  const entry: Snapshot = {
    offset,
    l1TableOffset: getU64(view, at + SNAPSHOT_FIELD.L1_TABLE_OFFSET),
    l1Size: view.getUint32(at + SNAPSHOT_FIELD.L1_SIZE),
    ...texts(idBytes, nameBytes),
    dateSeconds: view.getUint32(at + SNAPSHOT_FIELD.DATE_SECONDS),
    dateNanoseconds: view.getUint32(at + SNAPSHOT_FIELD.DATE_NANOSECONDS),
    vmClockNanoseconds: view.getBigUint64(at + SNAPSHOT_FIELD.VM_CLOCK),
    vmStateSize: extraSize >= 8 ? getU64(view, extra) : view.getUint32(at + SNAPSHOT_FIELD.VM_STATE_SIZE),
    diskSize: extraSize >= 16 ? getU64(view, extra + 8) : undefined,
    icount: extraSize >= 24 && view.getBigUint64(extra + 16) !== NO_ICOUNT ? view.getBigUint64(extra + 16) : undefined,
    extraData,
  }
  return { entry, byteLength: roundUp(SNAPSHOT_FIELD.EXTRA_DATA + extraSize + idSize + nameSize, 8), extraSize }
}

function texts(idBytes: Uint8Array, nameBytes: Uint8Array): Pick<Snapshot, "id" | "name" | "idBytes" | "nameBytes"> {
  return { id: decodeText(idBytes), name: decodeText(nameBytes), idBytes, nameBytes }
}

/** The fields of a new entry. Its place follows from the entries before it. */
export type NewSnapshot = Omit<Snapshot, "offset" | "extraData" | "idBytes" | "nameBytes">

/** The entry for a new snapshot, to be put into a table by `layOutSnapshots`. */
export function makeSnapshot(fields: NewSnapshot): Snapshot {
  return { ...fields, offset: 0, extraData: new Uint8Array(0), ...texts(encodeText(fields.id), encodeText(fields.name)) }
}

/**
 * The bytes of a table at byte `offset` of the file, and the entries that reading it would return. An entry without a disk size gets
 * `diskSize`, which it implies (QC-SNAP-02). Unknown extra data is preserved.
 * @throws BackingError `no-space` beyond the limits of QC-SNAP-03
 */
export function layOutSnapshots(
  snapshots: readonly Snapshot[], place: { readonly offset: number; readonly diskSize: number; readonly path: string },
): { readonly bytes: Uint8Array; readonly table: SnapshotTable } {
  const parts = snapshots.map((snapshot) => encodeSnapshot(snapshot, place.diskSize))
  const byteLength = parts.reduce((sum, { length }) => sum + length, 0)
  if (snapshots.length > LIMIT.SNAPSHOTS || byteLength > LIMIT.SNAPSHOT_TABLE_BYTES) {
    const most = `${LIMIT.SNAPSHOTS} snapshots or ${LIMIT.SNAPSHOT_TABLE_BYTES} bytes of snapshot table`
    throw new BackingError("no-space", `the image cannot hold more than ${most}; delete some`, { path: place.path })
  }
  const bytes = new Uint8Array(byteLength)
  const entries: Snapshot[] = []
  let at = 0
  for (const [index, part] of parts.entries()) {
    bytes.set(part, at)
    const snapshot = snapshots[index]
    if (snapshot !== undefined) entries.push({ ...snapshot, offset: place.offset + at, ...extraOf(part, snapshot, place.diskSize) })
    at += part.length
  }
  return { bytes, table: { snapshots: entries, byteLength } }
}

function extraOf(part: Uint8Array, { diskSize }: Snapshot, sizeNow: number): Pick<Snapshot, "extraData" | "diskSize"> {
  const length = viewOf(part).getUint32(SNAPSHOT_FIELD.EXTRA_DATA_SIZE)
  return { extraData: part.subarray(SNAPSHOT_FIELD.EXTRA_DATA, SNAPSHOT_FIELD.EXTRA_DATA + length), diskSize: diskSize ?? sizeNow }
}

function encodeSnapshot(snapshot: Snapshot, diskSize: number): Uint8Array {
  const { extraData, idBytes, nameBytes, vmStateSize } = snapshot
  const extraSize = Math.max(EXTRA_DATA_WRITTEN, extraData.length)
  const bytes = new Uint8Array(roundUp(SNAPSHOT_FIELD.EXTRA_DATA + extraSize + idBytes.length + nameBytes.length, 8))
  const view = viewOf(bytes)
  setU64(view, SNAPSHOT_FIELD.L1_TABLE_OFFSET, snapshot.l1TableOffset)
  view.setUint32(SNAPSHOT_FIELD.L1_SIZE, snapshot.l1Size)
  view.setUint16(SNAPSHOT_FIELD.ID_SIZE, idBytes.length)
  view.setUint16(SNAPSHOT_FIELD.NAME_SIZE, nameBytes.length)
  view.setUint32(SNAPSHOT_FIELD.DATE_SECONDS, snapshot.dateSeconds)
  view.setUint32(SNAPSHOT_FIELD.DATE_NANOSECONDS, snapshot.dateNanoseconds)
  view.setBigUint64(SNAPSHOT_FIELD.VM_CLOCK, snapshot.vmClockNanoseconds)
  // An old reader knows only this field: it takes a state of 4 GiB or more for none (QC-SNAP-04).
  view.setUint32(SNAPSHOT_FIELD.VM_STATE_SIZE, vmStateSize > 0xffff_ffff ? 0 : vmStateSize)
  view.setUint32(SNAPSHOT_FIELD.EXTRA_DATA_SIZE, extraSize)
  const extra = viewOf(bytes.subarray(SNAPSHOT_FIELD.EXTRA_DATA))
  if (extraData.length < 8) setU64(extra, 0, vmStateSize)
  if (extraData.length < 16) setU64(extra, 8, snapshot.diskSize ?? diskSize)
  if (extraData.length < 24) extra.setBigUint64(16, snapshot.icount ?? NO_ICOUNT)
  // Stored fields are copied, including numbers that are not exact as doubles. A truncated field is dropped.
  const kept = extraData.length < EXTRA_DATA_WRITTEN ? extraData.length - (extraData.length % 8) : extraData.length
  bytes.set(extraData.subarray(0, kept), SNAPSHOT_FIELD.EXTRA_DATA)
  bytes.set(idBytes, SNAPSHOT_FIELD.EXTRA_DATA + extraSize)
  bytes.set(nameBytes, SNAPSHOT_FIELD.EXTRA_DATA + extraSize + idBytes.length)
  return bytes
}

/** The fault of a snapshot's L1 table, or undefined: checks its alignment, the limit of 32 MiB, and that its end is a valid file offset. */
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

/** The fault of a snapshot's disk size, or undefined. No L1 table maps a larger disk, and an image of that size would not open. */
export function snapshotSizeProblem({ diskSize = 0 }: Snapshot, { clusterSize, l2Coverage }: Geometry): string | undefined {
  const most = Math.min((LIMIT.L1_TABLE_BYTES / TABLE_ENTRY_SIZE) * l2Coverage, Number.MAX_SAFE_INTEGER)
  if (diskSize <= most) return undefined
  return `its disk of ${diskSize} bytes is too large for clusters of ${clusterSize} bytes, which allow ${most} at most`
}
