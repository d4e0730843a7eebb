#!/usr/bin/env node
/** The program. */
import { vioblk } from "./commands.ts"

// Who reads our output may have had enough of it (`| head`).
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error
  process.exit(0)
})
process.exitCode = await vioblk(process.argv.slice(2))
