/** Allocates all the space of a new image, for `-o preallocation=full`. */
import { newDataFilePath } from "../../backing/host/backing-path.ts"
import { dataExtents } from "../../backing/host/data-extents.ts"
import { HostFile } from "../../backing/host/host-file.ts"
import { turn } from "./long-work.ts"

const PIECE = 1 << 20

/** The file that holds the data of a new image at `path`: the space of this one is asked for. */
export function dataHolder(path: string, { dataFile = "" }: { readonly dataFile?: string | undefined }): string {
  return dataFile === "" ? path : newDataFilePath(path, dataFile)
}

/** Writes zeroes into every hole of the file at `path`. @throws BackingError if there is no room; the reason of `signal` */
export async function fillHoles(path: string, signal: AbortSignal): Promise<void> {
  const zeroes = new Uint8Array(PIECE)
  const extents = dataExtents(path)
  const file = new HostFile(path)
  try {
    const size = file.size()
    let at = 0
    for (const { start, end } of [...extents, { start: size, end: size }]) {
      for (; at < start; at = Math.min(at + PIECE, start)) {
        file.write(zeroes.subarray(0, Math.min(PIECE, start - at)), at)
        await turn(signal)
      }
      at = end
    }
    file.sync()
  } finally {
    file.close()
  }
}
