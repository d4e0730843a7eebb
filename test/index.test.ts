/** What programs may rely on: every name that index.ts and browser.ts export says what it is for. */
import { expect, it } from "vitest"
import { exportsOf, sourceOf } from "./architecture/exports.ts"

/** The doc comment before the declaration of `name`, undefined when there is none; follows re-exports. */
function docOf(name: string, file: string): string | undefined {
  const passedOn = exportsOf(file).find((other) => other.name === name)
  if (passedOn !== undefined) return docOf(name, passedOn.from)
  const source = sourceOf(file)
  const declaration = new RegExp(
    `^export (?:declare )?(?:abstract )?(?:async )?(?:class|function\\*?|interface|type|const) ${name}\\b`,
    "m",
  ).exec(source)
  if (declaration === null) throw new Error(`${file} does not declare ${name}`)
  return /\/\*\*((?:(?!\*\/)[\s\S])*)\*\/\n$/.exec(source.slice(0, declaration.index))?.[1]
}

it.each([["index.ts", 80], ["browser.ts", 70]])("every name that %s exports has a doc comment", (file, least) => {
  const names = exportsOf(file)
  expect(names.length).toBeGreaterThan(least)
  expect(names.filter(({ name, from }) => docOf(name, from) === undefined).map(({ name }) => name)).toEqual([])
})
