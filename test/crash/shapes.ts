/** The images that the crash tests start from. */
import { canDecompress } from "../../src/backing/qcow2/compression.ts"
import { goldenBytes, goldenImages } from "../support/golden.ts"
import { goldenBacking } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import type { Rng } from "../support/rng.ts"
import type { CrashRound } from "./replay.ts"

export interface CrashShape {
  readonly name: string
  readonly base: MemoryFile
}

export const crashShapes: readonly CrashShape[] = goldenImages
  .filter(({ file }) => !/extended-l2|data-file/.test(file) && (canDecompress(1) || !file.startsWith("zstd")))
  .map(({ file }) => ({ name: file, base: MemoryFile.of(goldenBytes(file), { path: file }) }))

/** A round on that shape, with few or many tables in memory. */
export function roundFor(shape: CrashShape, rng: Rng): Omit<CrashRound, "operations"> {
  const image = new Qcow2Bytes(shape.base.toBytes())
  const hasBacking = image.u64(8) !== 0n
  return {
    base: shape.base,
    options: { openBacking: goldenBacking(shape.name), cacheSize: rng.pick([4, 4, 1000]) * image.clusterSize },
    rng,
    discardRule: image.version === 2 && hasBacking ? "anything" : { zeroesClustersOf: image.clusterSize },
  }
}
