/** Removes the zero flags of an image, because version 2 has none: zeroes become data or, without a backing file, unallocated. */
import type { Qcow2Image } from "../image.ts"
import type { MapExtent } from "../map-extents.ts"

/** Bytes of zeroes for one write. */
const PIECE = 1 << 20
/** Extents to look up before they are changed, because changes invalidate the iterator of the map. */
const MOST_EXTENTS = 4096

/** The content of the disk does not change. After an error the image is still valid, and the call can be repeated. @throws BackingError */
export function expandZeroes(image: Qcow2Image): void {
  const zeroes = new Uint8Array(PIECE)
  for (let from = 0; from < image.size;) {
    const extents = extentsFrom(image, from)
    for (const { offset, length, kind } of extents) {
      if (kind !== "zero") continue
      if (image.backing === undefined) forget(image, offset, length)
      else for (let done = 0; done < length; done += PIECE) image.pwrite(zeroes.subarray(0, Math.min(PIECE, length - done)), offset + done)
    }
    const last = extents.at(-1)
    from = last === undefined ? image.size : last.offset + last.length
  }
}

function extentsFrom(image: Qcow2Image, from: number): MapExtent[] {
  const extents: MapExtent[] = []
  for (const extent of image.map(from, image.size - from)) {
    extents.push(extent)
    if (extents.length >= MOST_EXTENTS) break
  }
  return extents
}

/** Without a backing file an unallocated cluster reads as zeroes, too. */
function forget(image: Qcow2Image, offset: number, length: number): void {
  const { clusterSize } = image.geometry
  for (let at = offset; at < offset + length; at += clusterSize) {
    image.change(({ mapping, metadataWriter, dataClusters }) => {
      metadataWriter.makeRoom()
      const cluster = mapping.clusterOf(at)
      const table = mapping.tableForWrite(mapping.tableOf(cluster))
      const index = mapping.indexOf(cluster)
      const old = mapping.l2.references(table, index)
      mapping.l2.setUnallocated(table, index)
      if (old !== undefined) dataClusters.releaseLater(old.first, old.count)
    })
  }
}
