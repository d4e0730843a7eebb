/** Takes the zero flags out of an image, for version 2, which has none: zeroes become data, or nothing where nothing lies behind. */
import type { Qcow2Image } from "../image.ts"
import type { MapExtent } from "../map-extents.ts"

/** Bytes of zeroes that are written together. */
const PIECE = 1 << 20
/** Extents that are looked up before they are changed: the map does not go on over what changes. */
const MOST_EXTENTS = 4096

/** The disk reads the same afterwards. An error leaves an image that can be used, and the call can be made again. @throws BackingError */
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

/** Nothing lies behind: an entry that refers to nothing reads as zeroes, too. */
function forget(image: Qcow2Image, offset: number, length: number): void {
  const { clusterSize, l2Entries } = image.geometry
  for (let at = offset; at < offset + length; at += clusterSize) {
    image.change(({ mapping, metadataWriter, dataClusters }) => {
      metadataWriter.makeRoom()
      const cluster = mapping.clusterOf(at)
      const l1Index = mapping.tableOf(cluster)
      const table = mapping.tableForWrite(l1Index)
      const index = cluster - l1Index * l2Entries
      const old = mapping.l2.references(table, index)
      mapping.l2.setUnallocated(table, index)
      if (old !== undefined) dataClusters.releaseLater(old.first, old.count)
    })
  }
}
