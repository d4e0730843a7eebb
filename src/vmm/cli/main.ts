#!/usr/bin/env node
/** The program. */
import { explainBug, vioblk } from "./program.ts"
import { hasLostOutput, outputFailed } from "./output.ts"

for (const stream of [process.stdout, process.stderr]) stream.on("error", outputFailed)
const code = await vioblk(process.argv.slice(2)).catch(explainBug)
process.exitCode = code === 0 && hasLostOutput() ? 1 : code
