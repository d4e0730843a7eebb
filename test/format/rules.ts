/** The rules of format that a test keeps, and what puts a source right without a person. CONTRIBUTING.md lists the rules. */
import { addBraces, isBodyApart } from "./braces.ts"
import { breakCode, WIDTH } from "./break-lines.ts"
import { wrapComments } from "./comments.ts"
import { isCloser, linesOf, type Token, tokenize } from "./tokens.ts"

export interface Problem {
  /** From 1. */
  readonly line: number
  readonly what: string
}

/** One way to write a number: hexadecimal digits in groups of four, powers of two from 2^32 on as powers. */
function numberAs(text: string): string {
  const power = /^0x1((?:_?0000){2,})$/.exec(text)
  if (power !== null) return `2 ** ${(power[1] ?? "").replaceAll("_", "").length * 4}`
  const [, prefix, digits = "", suffix = ""] = /^(0x)([\da-fA-F_]+)(n?)$/.exec(text) ?? []
  const plain = digits.replaceAll("_", "")
  return prefix === undefined || plain.length <= 4 ? text : `${prefix}${plain.replace(/(?!^)(?=(?:.{4})+$)/g, "_")}${suffix}`
}

/** Private fields that hold a boolean say so in their names. */
const BOOLEAN_FIELD = /^\s*(?:static )?(?:readonly )?#(\w+)(?:: boolean|\s*=\s*(?:true|false)\b)/
const BOOLEAN_NAME = /^(?:is|are|has|can|may|must|needs|wants|was)[A-Z]/
/** A sentence about errors that is not a tag. */
const THROWS = /^\s*(?:\/\*\*|\*)(?: .*[.:;])? (?:Throws|throws) /

/** What is wrong with `source`, by line. */
export function problemsOf(source: string): Problem[] {
  const problems: Problem[] = []
  const lines = source.split("\n")
  const templates = linesOf(source, ["template"])
  const comments = linesOf(source, ["comment"], false)
  const report = (index: number, what: string): void => void problems.push({ line: index + 1, what })
  lines.forEach((line, index) => {
    if (line.length > WIDTH) report(index, `has ${line.length} columns`)
    if (templates.has(index)) return
    if (/\s$/.test(line)) report(index, "ends with a space")
    if (line.includes("\t")) report(index, "has a tab")
    if (comments.has(index) && THROWS.test(line)) report(index, "says what is thrown without @throws")
    if (comments.has(index)) return
    const [, field = "isIt"] = BOOLEAN_FIELD.exec(line) ?? []
    if (!BOOLEAN_NAME.test(field)) report(index, `#${field} is a boolean: its name begins with is, has, may, ...`)
    if (line.endsWith(";")) report(index, "ends with a semicolon")
    if (isBodyApart(lines, index)) report(index, "has a body on the next line without braces")
  })
  if (!source.endsWith("\n") || source.endsWith("\n\n")) report(lines.length - 1, "the file does not end with one newline")
  return [...problems, ...tokenProblems(source)].sort((a, b) => a.line - b.line)
}

function tokenProblems(source: string): Problem[] {
  return tokenize(source).flatMap(({ kind, text, start }) => {
    const isNumber = kind === "number" && numberAs(text) !== text
    const isQuote = kind === "string" && text.startsWith("'") && !text.includes('"')
    if (!isNumber && !isQuote) return []
    const line = source.slice(0, start).split("\n").length
    return [{ line, what: isNumber ? `${text} is spelt ${numberAs(text)}` : `${text} has single quotes` }]
  })
}

/** `source` with everything put right that needs no person. @throws Error when that would have changed more than its format */
export function fix(source: string): string {
  const spelt = fixTokens(source)
  const wrapped = mapRuns(spelt, (lines, isComment) => (isComment ? wrapComments(lines) : lines))
  const braced = mapRuns(wrapped, (lines, isComment) => (isComment ? lines : addBraces(lines)))
  const broken = mapRuns(braced, (lines, isComment) => (isComment ? lines : lines.flatMap(breakLine)))
  const fixed = `${broken.trimEnd()}\n`
  if (essence(fixed) !== essence(spelt)) throw new Error("breaking lines would have changed the code")
  return fixed
}

function fixTokens(source: string): string {
  let result = ""
  let at = 0
  let previous: Token | undefined
  for (const token of tokenize(source)) {
    const { kind, text, start } = token
    const spelt = kind === "number" ? numberAs(text) : kind === "string" && !/["\\]/.test(text) ? `"${text.slice(1, -1)}"` : text
    const isNegative = spelt.includes("**") && previous?.text === "-" && previous.start === start - 1
    result += source.slice(at, start) + (isNegative ? `(${spelt})` : spelt)
    at = start + text.length
    previous = token
  }
  return result + source.slice(at)
}

/** Hands runs of lines to `change`: of comments, and of code without template literals of several lines, which stay as they are. */
function mapRuns(source: string, change: (lines: readonly string[], isComment: boolean) => readonly string[]): string {
  const templates = linesOf(source, ["template"])
  const lines = source.split("\n")
  const comments = new Set([...linesOf(source, ["comment"], false)].filter((index) => /^\s*(?:\/[/*]|\*)/.test(lines[index] ?? "")))
  const kindOf = (index: number): string => (templates.has(index) ? "template" : comments.has(index) ? "comment" : "code")
  const result: string[] = []
  for (let at = 0; at < lines.length; ) {
    const kind = kindOf(at)
    let end = at
    while (end < lines.length && kindOf(end) === kind) end++
    const run = lines.slice(at, end)
    result.push(...(kind === "template" ? run : change(run.map((line) => line.trimEnd()), kind === "comment")))
    at = end
  }
  return result.join("\n")
}

function breakLine(line: string): string[] {
  if (line.length <= WIDTH) return [line]
  const indent = line.length - line.trimStart().length
  const last = tokenize(line).at(-1)
  if (last?.kind !== "comment") return breakCode(line.trim(), indent)
  return [" ".repeat(indent) + last.text, ...breakCode(line.slice(0, last.start).trim(), indent)]
}

/** The tokens of the code that say what it does: no comments, no separators that a line break may replace, no braces. */
function essence(source: string): string {
  const tokens = tokenize(source).filter(({ kind, text }) => kind !== "comment" && text !== ";")
  return tokens
    .filter((token, index) => !["{", "}"].includes(token.text) && !(token.text === "," && isCloser(tokens[index + 1])))
    .map(({ text }) => text)
    .join(" ")
}
