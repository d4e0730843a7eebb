#!/usr/bin/env node
/** The program. */
import { explainBug, vioblk } from "./program.ts"
import { complain } from "./output.ts"

// The reader of our output may have closed it (`| head`), or its disk may be full.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") complain(`cannot write the output: ${error.message}`)
  process.exit(error.code === "EPIPE" ? 0 : 1)
})
process.exitCode = await vioblk(process.argv.slice(2)).catch(explainBug)
