/** Keeps foreign bytes (`TrailingBytes`) at the end of an image file, although a repair puts new tables after them. */
import { roundUp } from "../../bytes/fields.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { readTrailingBytes } from "../format/trailing-bytes.ts"
import type { Examination } from "./examination.ts"

/** Runs `work`. If the file has grown, moves the foreign bytes to its end. */
export function keepingTrailer<T>({ image, imageEndOffset }: Examination, work: () => T): T {
  const { file, fileSize, header, geometry } = image
  const { clusterSize } = geometry
  const l1End = header.l1TableOffset + header.l1Size * TABLE_ENTRY_SIZE
  const trailing = readTrailingBytes(file, { from: imageEndOffset, l1End, to: fileSize, clusterSize })
  const result = work()
  const size = file.size()
  if (trailing === undefined || size === fileSize) return result
  file.write(trailing.bytes, roundUp(size, clusterSize))
  file.sync()
  return result
}
