#!/usr/bin/env node
/** The program. */
import { explainBug, vioblk } from "./program.ts"
import { hasLostOutput, outputFailed } from "./output.ts"

process.stdout.on("error", outputFailed)
// Nobody reads what is said there, not even that.
process.stderr.on("error", () => undefined)
const code = await vioblk(process.argv.slice(2)).catch(explainBug)
process.exitCode = code === 0 && hasLostOutput() ? 1 : code
