/** `npm run format [-- FILE ...]`: puts the format of the files right (default: all that a test keeps), and lists what it cannot. */
import { readFileSync, writeFileSync } from "node:fs"
import { argv, exit, stdout } from "node:process"
import { filesToKeep } from "./files.ts"
import { fix, problemsOf } from "./rules.ts"

let left = 0
const named = argv.slice(2)
for (const path of named.length > 0 ? named : filesToKeep()) {
  const source = readFileSync(path, "utf8")
  const fixed = fix(source)
  if (fixed !== source) writeFileSync(path, fixed)
  for (const { line, what } of problemsOf(fixed)) stdout.write(`${path}:${line} ${what}\n`), left++
}
exit(left > 0 ? 1 : 0)
