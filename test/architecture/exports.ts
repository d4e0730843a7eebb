/** The names that a file of src exports, taken from its source: types have none when the program runs. */
import { readFileSync } from "node:fs"
import { posix, resolve } from "node:path"
import { ROOT } from "./imports.ts"

export interface ExportedName {
  readonly name: string
  /** The file that it is taken from, relative to src. */
  readonly from: string
}

/** The names that `file`, relative to src, passes on from other files. */
export function exportsOf(file: string): readonly ExportedName[] {
  const source = sourceOf(file)
  return [...source.matchAll(/^export (?:type )?\{([^}]*)\} from "([^"]+)"/gm)].flatMap(([, names = "", path = ""]) =>
    names.split(",").flatMap((text) => {
      const name = text.trim().replace(/^type /, "")
      return name === "" ? [] : [{ name, from: posix.join(posix.dirname(file), path) }]
    }),
  )
}

export function sourceOf(file: string): string {
  return readFileSync(resolve(ROOT, "src", file), "utf8")
}
