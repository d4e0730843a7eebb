/** The process that kill.ts kills: does random operations on an image and says after each one how far it is. */
import { writeSync } from "node:fs"
import { openImage } from "../../src/backing/open.ts"
import { perform } from "../support/perform.ts"
import { randomOperation } from "../support/random-operations.ts"
import { Rng } from "../support/rng.ts"

const [path = "", seed = "0"] = process.argv.slice(2)
const disk = openImage(path, { format: "qcow2", cacheSize: 1 << 14 })
const rng = new Rng(Number(seed))
// Written to the pipe at once: what the parent has read has happened.
writeSync(1, "open\n")
for (let index = 0; ; index++) {
  const operation = randomOperation(rng, { size: disk.size, longest: 30_000 })
  perform(disk, operation)
  writeSync(1, `${operation.kind === "flush" ? "flushed" : "done"} ${index}\n`)
}
