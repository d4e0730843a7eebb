/** Every backing that we have, and every shape of qcow2 image, through the contract suite. */
import { join } from "node:path"
import { onTestFinished } from "vitest"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { MemoryFile as PublicMemoryFile } from "../../src/backing/memory-file.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { FlatModel } from "../support/flat-model.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { promiseBacking } from "../harness/fake-disk.ts"
import { makeShape, qcow2Shapes } from "../support/shapes.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { type NbdDisk, nbdDisk, NbdServer } from "../../src/index.ts"
import { FakeServer } from "../backing/nbd/fake-server.ts"
import { openFake, promised } from "../backing/nbd/open-fake.ts"
import { contractSuite } from "./suite.ts"

contractSuite({ name: "memory", open: (size) => ({ disk: new MemoryBacking({ size }), model: new FlatModel(size) }) })
contractSuite({
  name: "memory from bytes",
  open: (size) => ({ disk: MemoryBacking.from(new Uint8Array(size)), model: new FlatModel(size) }),
})
contractSuite({
  name: "raw in a MemoryFile",
  open: (size) => ({ disk: new RawBacking(PublicMemoryFile.from(new Uint8Array(size))), model: new FlatModel(size) }),
})
contractSuite({
  name: "qcow2 in a MemoryFile",
  open(size) {
    const file = new PublicMemoryFile()
    createQcow2(file, { size, clusterSize: 4096 })
    return { disk: openInMemory(file), model: new FlatModel(size) }
  },
})
contractSuite({
  name: "promises over memory",
  open: (size) => ({ disk: promiseBacking(new MemoryBacking({ size })), model: new FlatModel(size) }),
})
contractSuite({
  name: "raw",
  open: (size) => {
    const file = new MemoryFile()
    file.truncate(size)
    return { disk: new RawBacking(file), model: new FlatModel(size) }
  },
})

for (const shape of qcow2Shapes) {
  contractSuite({
    name: shape.name,
    open(size) {
      const { file, model, opening } = makeShape(shape, size)
      return { disk: openInMemory(file, opening), model }
    },
  })
}

contractSuite({
  name: "promises over qcow2",
  open(size) {
    const { file, model } = makeShape({ name: "", options: {} }, size)
    return { disk: promiseBacking(openInMemory(file)), model }
  },
})

for (const minimum of [1, 512, 4096]) {
  contractSuite({
    name: `an NBD export with blocks of ${minimum}`,
    open(wanted) {
      const size = wanted - (wanted % minimum)
      const server = new FakeServer({ size, blockSizes: { minimum, preferred: 4096, maximum: 65_536 }, structured: minimum !== 512 })
      return { disk: promised(size, openFake(server).then(({ disk }) => disk)), model: new FlatModel(size) }
    },
  })
}

contractSuite({
  name: "our NBD client over our NBD server, a Unix socket between",
  open(size) {
    const server = new NbdServer({ exports: [{ name: "disk", backing: new MemoryBacking({ size }) }] })
    const socket = join(temporaryDirectory(), "socket")
    onTestFinished(() => server.close())
    const opening = server.listen({ socket }).then((): Promise<NbdDisk> => nbdDisk(`nbd+unix:///disk?socket=${socket}`))
    return { disk: promised(size, opening), model: new FlatModel(size) }
  },
})
