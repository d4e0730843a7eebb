/** The format of every source, and the script that puts it right. CONTRIBUTING.md lists the rules. */
import { readFileSync } from "node:fs"
import { resolve } from "node:path"
import { describe, expect, it } from "vitest"
import { breakCode, WIDTH } from "./break-lines.ts"
import { allSources, ROOT } from "./files.ts"
import { fix, problemsOf } from "./rules.ts"
import { tokenize } from "./tokens.ts"

/** A word of 30 letters, to make lines long. */
const LONG = "abcdefghijklmnopqrstuvwxyzabcd"
const FIVE = Array.from({ length: 5 }, (_, index) => `${LONG}${index}`)
const what = (source: string): string[] => problemsOf(source).map((problem) => problem.what)

describe("tokens", () => {
  it("distinguish regular expressions, divisions and templates", () => {
    const texts = (source: string): string[] => tokenize(source).map(({ text }) => text)
    expect(texts("a = b / c / d")).toEqual(["a", "=", "b", "/", "c", "/", "d"])
    expect(texts("return /[/(]\\//g.test(x)")).toEqual(["return", "/[/(]\\//g", ".", "test", "(", "x", ")"])
    expect(texts('`a ${b ? `{${c}` : "}"} d` + 1')).toEqual(['`a ${b ? `{${c}` : "}"} d`', "+", "1"])
    expect(texts("x?.#y ?? 1e-3 ** 0x1_0000n // end")).toEqual(["x", "?.", "#y", "??", "1e-3", "**", "0x1_0000n", "// end"])
  })
})

describe("the rules", () => {
  it.each([
    [`const a = ${"1".repeat(WIDTH)}\n`, "has 150 columns"],
    ["const a = 1 \n", "ends with a space"],
    ["const a =\t1\n", "has a tab"],
    ["const a = 1;\n", "ends with a semicolon"],
    ["const a = 1", "the file does not end with one newline"],
    ["const a = 1\n\n", "the file does not end with one newline"],
    ["const a = 'b'\n", "'b' has single quotes"],
    ["const a = 0x1_0000_0000\n", "0x1_0000_0000 is spelt 2 ** 32"],
    ["const a = 0xffffffff\n", "0xffffffff is spelt 0xffff_ffff"],
    ["if (a)\n  b()\n", "has a body on the next line without braces"],
    ["for (const a of b)\n  c(a)\n", "has a body on the next line without braces"],
    ["class A {\n  #closed = false\n}\n", "#closed is a boolean: its name begins with is, has, may, ..."],
    ["/** Opens it. Throws `io` when it cannot. */\n", "says what is thrown without @throws"],
  ])("%j %s", (source, problem) => expect(what(source)).toContain(problem))

  it.each([
    "const a = 'say \"b\"'\n", "const a = 0xffff\n", "const a = 2 ** 32 - 1\n", "if (a) b()\nelse c()\n", "if (a) {\n  b()\n}\n",
    "#isClosed = false\n", "do {\n  a()\n} while (b)\nc()\n",
    "/** Opens it. @throws BackingError `io` when it cannot */\n", "const a = `\n\tb; \n`\n", "const a = 0x1_0000_0000n\n",
  ])("find nothing in %j", (source) => expect(what(source)).toEqual([]))
})

describe("long lines", () => {
  const broken = (text: string): string => breakCode(text, 2).join("\n")

  it("of arguments are broken inside of the brackets", () => {
    expect(broken(`call(${FIVE.join(", ")})`)).toBe(`  call(\n    ${FIVE.slice(0, 4).join(", ")},\n    ${FIVE[4]},\n  )`)
    expect(broken(`call(${LONG}, ${LONG}, { one: ${LONG}(1), two: ${LONG}(2), three: 3 })`)).toBe(
      `  call(${LONG}, ${LONG}, {\n    one: ${LONG}(1), two: ${LONG}(2), three: 3,\n  })`,
    )
  })

  it("of conditions, conditionals and chains are broken at their operators", () => {
    expect(broken(`return ${FIVE.join(" && ")}`)).toBe(`  return ${FIVE.slice(0, 3).join(" && ")} &&\n    ${FIVE.slice(3).join(" && ")}`)
    expect(broken(`const a = ${FIVE[0]} === b ? ${FIVE.slice(1).join(" + ")} : c`)).toBe(
      `  const a = ${FIVE[0]} === b\n    ? ${FIVE.slice(1).join(" + ")}\n    : c`,
    )
    expect(broken(`return ${FIVE.map((name) => `${name}(a)`).join(".")}`)).toBe(
      `  return ${FIVE[0]}(a)\n${FIVE.slice(1).map((name) => `    .${name}(a)`).join("\n")}`,
    )
  })

  it("of parameters leave the body where it is", () => {
    const source = `function a(${FIVE.map((name) => `${name}: T`).join(", ")}): Map<string, T> {\n  return b\n}\n`
    const lines = [FIVE.slice(0, 3), FIVE.slice(3)].map((names) => `  ${names.map((name) => `${name}: T,`).join(" ")}`)
    expect(fix(source)).toBe(`function a(\n${lines.join("\n")}\n): Map<string, T> {\n  return b\n}\n`)
  })

  it("with a body get braces, all arms of one if", () => {
    const [a, b] = [`${LONG}.${LONG}.${LONG}`, `${LONG}.${LONG}`]
    expect(fix(`if (${a}) return ${b}\nelse b()\n`)).toBe(`if (${a}) {\n  return ${b}\n} else {\n  b()\n}\n`)
    expect(fix(`if (${a}) b(${b}, {\n  c,\n})\nd()\n`)).toBe(`if (${a}) {\n  b(${b}, {\n    c,\n  })\n}\nd()\n`)
    expect(fix(`for (const a of ${a}) if (b) return ${b}\n`)).toBe(`for (const a of ${a}) {\n  if (b) return ${b}\n}\n`)
  })

  it("of comments are wrapped, but not lists, tables and diagrams", () => {
    const words = Array.from({ length: 30 }, (_, index) => `word${index}`)
    const wrapped = `/**\n * ${words.slice(0, 21).join(" ")}\n * ${words.slice(21).join(" ")}\n */\n`
    expect(fix(`/** ${words.join(" ")} */\n`)).toBe(wrapped)
    expect(fix(wrapped)).toBe(wrapped)
    const diagram = `// ${words.join("   ")}\n`
    expect(fix(diagram)).toBe(diagram)
  })

  it("of strings stay for a person", () => {
    const source = `const a = "${FIVE.join(" ")}"\n`
    expect(fix(source)).toBe(source)
    expect(what(source)).toEqual([`has ${source.length - 1} columns`])
  })
})

it("numbers, quotes and the end of the file are corrected", () => {
  expect(fix("const a = [0x1_0000_0000, 0xffffffff, -0x100000000, 'b'] \n\n\n")).toBe('const a = [2 ** 32, 0xffff_ffff, -(2 ** 32), "b"]\n')
})

it.each(allSources())("%s keeps the format (`npm run format` corrects most of it)", (file) => {
  const source = readFileSync(resolve(ROOT, file), "utf8")
  expect(problemsOf(source).map(({ line, what }) => `line ${line} ${what}`)).toEqual([])
})
