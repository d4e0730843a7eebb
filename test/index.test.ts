/** What programs may rely on: every name that index.ts exports says what it is for. */
import { readFileSync } from "node:fs"
import { resolve } from "node:path"
import { expect, it } from "vitest"

const SOURCE = resolve(import.meta.dirname, "../src")

/** The names that a file exports, each with the file that it takes it from; itself for what it declares. */
function exportsOf(file: string): readonly { readonly name: string; readonly from: string }[] {
  const source = readFileSync(resolve(SOURCE, file), "utf8")
  return [...source.matchAll(/^export (?:type )?\{([^}]*)\} from "([^"]+)"/gm)].flatMap(([, names = "", path = ""]) =>
    names.split(",").flatMap((text) => {
      const name = text.trim().replace(/^type /, "")
      return name === "" ? [] : [{ name, from: resolve(SOURCE, file, "..", path) }]
    }),
  )
}

/** The doc comment before the declaration of `name`, undefined when there is none; follows re-exports. */
function docOf(name: string, file: string): string | undefined {
  const passedOn = exportsOf(file).find((other) => other.name === name)
  if (passedOn !== undefined) return docOf(name, passedOn.from)
  const source = readFileSync(file, "utf8")
  const declaration = new RegExp(
    `^export (?:declare )?(?:abstract )?(?:async )?(?:class|function\\*?|interface|type|const) ${name}\\b`,
    "m",
  ).exec(source)
  if (declaration === null) throw new Error(`${file} does not declare ${name}`)
  return /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n$/.exec(source.slice(0, declaration.index))?.[1]
}

it("every exported name has a doc comment", () => {
  const names = exportsOf("index.ts")
  expect(names.length).toBeGreaterThan(80)
  expect(names.filter(({ name, from }) => docOf(name, from) === undefined).map(({ name }) => name)).toEqual([])
})
