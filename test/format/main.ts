/** `npm run format [-- FILE ...]`: puts the format of the files right (default: all that a test keeps), and lists what it cannot. */
import { readFileSync, writeFileSync } from "node:fs"
import { resolve } from "node:path"
import { argv, exit, stdout } from "node:process"
import { allSources, isSource, ROOT } from "./files.ts"
import { fix, problemsOf } from "./rules.ts"

let left = 0
const named = argv.slice(2)
const other = named.filter((path) => !isSource(path))
if (other.length > 0) {
  stdout.write(`format: ${other.join(", ")}: only .ts, .js and .mjs files have a format to keep; nothing was changed\n`)
  exit(1)
}
for (const path of named.length > 0 ? named : allSources().map((file) => resolve(ROOT, file))) {
  const source = readFileSync(path, "utf8")
  const fixed = fix(source)
  if (fixed !== source) writeFileSync(path, fixed)
  for (const { line, what } of problemsOf(fixed)) stdout.write(`${path}:${line} ${what}\n`), left++
}
exit(left > 0 ? 1 : 0)
