/** Header extensions: the list of typed records between the header and the backing file name. [QCOW2] "Header extensions" */
import { BackingError, printable } from "../../backing.ts"
import { decodeText, roundUp, viewOf } from "../../bytes/fields.ts"
import { EXTENSION_TYPE, FEATURE_NAME } from "./spec.ts"

/** One record as stored in the file. Unknown types are kept, so that a rewritten header still has them (QC-EXT-04). */
export interface HeaderExtension {
  readonly type: number
  readonly data: Uint8Array
}

/** The kind of a feature bit, for messages. */
export type FeatureKind = "incompatible" | "compatible" | "autoclear"

const HEAD_SIZE = 8

const KNOWN_TYPES: ReadonlySet<number> = new Set(Object.values(EXTENSION_TYPE))

/**
 * Reads the records in `cluster` from `start` up to `end`; a record of type END, or the end of the area, finishes the list. Throws
 * `invalid-format` if a record, END included, runs past the area, or if a known type occurs twice (QC-EXT-03, QC-EXT-05).
 */
export function parseExtensions(
  cluster: Uint8Array, area: { readonly start: number; readonly end: number; readonly path: string },
): HeaderExtension[] {
  const view = viewOf(cluster)
  const found: HeaderExtension[] = []
  let offset = area.start
  while (offset < area.end) {
    if (area.end - offset < HEAD_SIZE) {
      throw new BackingError("invalid-format", `the header extensions are cut off at byte ${offset}`, { path: area.path, offset })
    }
    const type = view.getUint32(offset)
    const length = view.getUint32(offset + 4)
    if (length > area.end - offset - HEAD_SIZE) {
      throw new BackingError(
        "invalid-format",
        `header extension 0x${type.toString(16)} at byte ${offset} has ${length} bytes, more than there is room for`,
        { path: area.path, offset },
      )
    }
    if (type === EXTENSION_TYPE.END) break
    if (KNOWN_TYPES.has(type) && found.some((other) => other.type === type)) {
      throw new BackingError("invalid-format", `header extension 0x${type.toString(16)} occurs a second time at byte ${offset}`, {
        path: area.path, offset,
      })
    }
    found.push({ type, data: cluster.slice(offset + HEAD_SIZE, offset + HEAD_SIZE + length) })
    offset += HEAD_SIZE + roundUp(length, 8)
  }
  return found
}

/** The records and the END record, each padded with zeroes to a multiple of 8 bytes. */
export function serialiseExtensions(extensions: readonly HeaderExtension[]): Uint8Array {
  const records = [...extensions, { type: EXTENSION_TYPE.END, data: new Uint8Array(0) }]
  const bytes = new Uint8Array(records.reduce((sum, record) => sum + HEAD_SIZE + roundUp(record.data.length, 8), 0))
  const view = viewOf(bytes)
  let offset = 0
  for (const { type, data } of records) {
    view.setUint32(offset, type)
    view.setUint32(offset + 4, data.length)
    bytes.set(data, offset + HEAD_SIZE)
    offset += HEAD_SIZE + roundUp(data.length, 8)
  }
  return bytes
}

/** The data of the record of `type`, if there is one. */
export function findExtension(extensions: readonly HeaderExtension[], type: number): Uint8Array | undefined {
  return extensions.find((extension) => extension.type === type)?.data
}

const FEATURE_TYPE: Readonly<Record<FeatureKind, number>> = {
  incompatible: FEATURE_NAME.TYPE_INCOMPATIBLE,
  compatible: FEATURE_NAME.TYPE_COMPATIBLE,
  autoclear: FEATURE_NAME.TYPE_AUTOCLEAR,
}

/** The name of a bit in the image's feature name table. Ignores an incomplete last entry (QC-EXT-08). */
export function featureName(extensions: readonly HeaderExtension[], kind: FeatureKind, bit: number): string | undefined {
  const table = findExtension(extensions, EXTENSION_TYPE.FEATURE_NAME_TABLE) ?? new Uint8Array(0)
  for (let at = 0; at + FEATURE_NAME.ENTRY_SIZE <= table.length; at += FEATURE_NAME.ENTRY_SIZE) {
    if (table[at] !== FEATURE_TYPE[kind] || table[at + 1] !== bit) continue
    const name = table.subarray(at + 2, at + FEATURE_NAME.ENTRY_SIZE)
    const end = name.indexOf(0)
    return printable(decodeText(end < 0 ? name : name.subarray(0, end)))
  }
  return undefined
}
