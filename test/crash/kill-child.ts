/**
 * The process that kill.ts kills: does random operations on an image, snapshots, sizes and commits among them, and says after each one how
 * far it is.
 */
import { writeSync } from "node:fs"
import { openImage } from "../../src/backing/open.ts"
import { commitImage } from "../../src/backing/operations/commit-image.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { FlatModel } from "../support/flat-model.ts"
import { perform } from "../support/perform.ts"
import { Rng } from "../support/rng.ts"
import { drawOperation, modelAfter } from "./kill-work.ts"
import { isWhole, performWhole, type WholeModel } from "./whole/operations.ts"

const [path = "", seed = "0"] = process.argv.slice(2)

function open(): Qcow2Image {
  const disk = openImage(path, { format: "qcow2", cacheSize: 1 << 14 })
  if (!(disk instanceof Qcow2Image)) throw new Error("it is not a qcow2 image")
  return disk
}

let disk = open()
const rng = new Rng(Number(seed))
// What is drawn depends on sizes and ids only.
let model: WholeModel = {
  disk: new FlatModel(disk.size), snapshots: new Map(disk.snapshots.list().map(({ id, diskSize }) => [id, new FlatModel(diskSize)])),
}
// Written to the pipe at once: what the parent has read has happened.
writeSync(1, "open\n")
for (let index = 0; ; index++) {
  const operation = drawOperation(rng, model)
  if (operation.kind === "commit") {
    disk.close()
    await commitImage(path)
    disk = open()
  } else if (isWhole(operation)) performWhole(disk, operation)
  else perform(disk, operation)
  model = modelAfter(model, operation)
  writeSync(1, `done ${index}\n`)
}
