/** The images that the tests of late files run on: raw, QEMU's own, and one of each shape of ours. */
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import { Rng } from "../support/rng.ts"
import { crashShapes } from "../crash/shapes.ts"
import type { LateDisk } from "./late-disk-round.ts"

export interface LateShape extends LateDisk {
  readonly name: string
}

const raw: LateShape = {
  name: "raw", base: MemoryFile.of(new Rng(5).bytes(200_192)), options: undefined, longest: 40_000, discardRule: "anything",
}

/** Both files answer late; the backing image is shorter, and ends within a sector. */
function lateChain(): LateShape {
  const base = new MemoryFile({ path: "overlay" })
  createQcow2(base, { size: 200_192, clusterSize: 4096, backing: "base", backingFormat: "raw" })
  const below = MemoryFile.of(new Rng(6).bytes(150_100), { path: "base" })
  return {
    name: "a chain", base, below, options: { cacheSize: 4 * 4096 }, longest: 20_000, discardRule: { zeroesClustersOf: 4096 },
  }
}

export const lateShapes: readonly LateShape[] = [
  raw,
  lateChain(),
  ...crashShapes.map(({ name, base, data, openBacking, cipher, longest }): LateShape => {
    const image = new Qcow2Bytes(base.toBytes())
    const { clusterSize } = image
    const discardRule = image.version === 2 && image.u64(8) !== 0n ? ("anything" as const) : { zeroesClustersOf: clusterSize }
    const key = cipher === undefined ? {} : { cipher }
    const external = data === undefined ? {} : { data }
    return { name, base, ...external, options: { openBacking, cacheSize: 4 * clusterSize, ...key }, longest, discardRule }
  }),
]
