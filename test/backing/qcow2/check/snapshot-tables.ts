/** Images with snapshot tables that no program makes. */
import { goldenBytes } from "../../../support/golden.ts"
import { Qcow2Bytes } from "../../../support/qcow2-bytes.ts"

/** The golden image with another table: `count` entries, the first with the L1 table of the image's first one, the others empty. */
export function withTable(count: number, extraSize: number): Qcow2Bytes {
  const image = new Qcow2Bytes(goldenBytes("snapshots.qcow2"))
  const first = image.bytes.slice(image.snapshotsOffset, image.snapshotsOffset + 40)
  const step = Math.ceil((40 + extraSize + 1) / 8) * 8
  const clusters = Math.ceil((count * step) / image.clusterSize)
  const table = image.grow(clusters)
  for (let index = 0; index < count; index++) {
    const at = table + index * step
    if (index === 0) image.bytes.set(first, at)
    image.setU32(at + 36, extraSize).setU16(at + 12, 1).setU16(at + 14, 0).setU8(at + 40 + extraSize, 0x61 + (index % 26))
    if (extraSize >= 16) image.setU64(at + 48, BigInt(image.size))
  }
  for (let step = 0; step < clusters; step++) {
    if (image.refcountBlock(table / image.clusterSize + step) !== 0) image.setRefcount(table / image.clusterSize + step, 1n)
  }
  return image.setU32(60, count).setU64(64, BigInt(table))
}
