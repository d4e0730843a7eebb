/** A process of its own that runs `vioblk info PATH` twice, the second time without a free file descriptor, and prints the exit code. */
import { openSync } from "node:fs"
import { vioblk } from "../../../src/vmm/cli/program.ts"

const [, , path = ""] = process.argv
await vioblk(["info", path]) // loads the command
try {
  for (;;) openSync("/dev/null", "r")
} catch (error) {
  if (!(error instanceof Error && "code" in error && error.code === "EMFILE")) throw error
}
process.stdout.write(`\n${await vioblk(["info", path])}`)
