/** Keeps what somebody has appended to the file of an image at its end, where a repair puts new tables behind it. */
import { roundUp } from "../format/bytes.ts"
import { TABLE_ENTRY_SIZE } from "../format/spec.ts"
import { readTrailingBytes } from "../format/trailing-bytes.ts"
import type { Examination } from "./examination.ts"

/** Does `work`. Where the file has become longer, the bytes that were behind the image go to its end. */
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
