/** Images over files that answer late, in any order and in pieces, through the contract suite, with the cache at its smallest. */
import { RawBacking } from "../../src/backing/raw.ts"
import { AwaitedDisk } from "../../src/backing/paging/awaited-disk.ts"
import { PagedFile } from "../../src/backing/paging/paged-file.ts"
import { untilLoaded } from "../../src/backing/paging/until-loaded.ts"
import { FlatModel } from "../support/flat-model.ts"
import { openInMemory } from "../support/images.ts"
import { LateFile } from "../backing/paging/late-file.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { makeShape, qcow2Shapes } from "../support/shapes.ts"
import { contractSuite } from "./suite.ts"

const seed = seedFromEnvironment(23)
const smallest = { pageSize: 4096, cacheSize: 4096, logSize: 64 << 10 }

contractSuite({
  name: `raw over a late file, seed ${seed}`,
  async open(size) {
    const inner = new MemoryFile()
    inner.truncate(size)
    const file = await PagedFile.open(new LateFile(inner, new Rng(seed)), smallest)
    return { disk: new AwaitedDisk(new RawBacking(file), [file]), model: new FlatModel(size) }
  },
})

for (const shape of qcow2Shapes) {
  contractSuite({
    name: `${shape.name} over a late file, seed ${seed}`,
    async open(size) {
      const { file: inner, model, opening } = makeShape(shape, size)
      const file = await PagedFile.open(new LateFile(inner, new Rng(seed)), smallest)
      const image = await untilLoaded(() => openInMemory(file, opening))
      return { disk: new AwaitedDisk(image, [file]), model }
    },
  })
}
