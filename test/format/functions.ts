/** The functions of a source and how many lines each has, found by their brackets. */
import { pairBrackets, type Token, tokenize } from "./tokens.ts"

export interface FunctionLength {
  readonly name: string
  /** The line of its name, from 1. */
  readonly line: number
  /** From its name to its closing brace. */
  readonly lines: number
}

/** Words before a parenthesis that do not name a function. */
const STATEMENTS = new Set(["if", "for", "while", "switch", "catch", "with", "return", "await", "typeof"])

/** Every function, method and arrow function with a body in braces. A function inside of another counts for both. */
export function functionsOf(source: string): FunctionLength[] {
  const tokens = tokenize(source).filter(({ kind }) => kind !== "comment")
  const pairs = pairBrackets(tokens)
  const openers = new Map([...pairs].map(([open, close]) => [close, open]))
  const starts = [...source.matchAll(/^/gm)].map(({ index }) => index)
  const lineAt = (index: number): number => starts.findLastIndex((start) => start <= (tokens[index]?.start ?? 0)) + 1
  const found: FunctionLength[] = []
  for (const [open, close] of [...pairs].sort(([a], [b]) => a - b)) {
    if (tokens[open]?.text !== "{") continue
    const name = nameBefore(tokens, openers, open)
    if (name === undefined) continue
    const line = lineAt(name.index)
    found.push({ name: name.text, line, lines: lineAt(close) - line + 1 })
  }
  return found
}

interface Name {
  readonly text: string
  readonly index: number
}

/** The name of the function whose body begins at `open`; undefined when the brace there begins something else. */
function nameBefore(tokens: readonly Token[], openers: ReadonlyMap<number, number>, open: number): Name | undefined {
  if (tokens[open - 1]?.text === ":") return undefined
  const isArrow = tokens[open - 1]?.text === "=>"
  const close = isArrow ? open - 2 : parametersEnd(tokens, openers, open)
  if (close === undefined) return undefined
  // An arrow function may have one parameter without parentheses, or a return type.
  const end = isArrow && tokens[close]?.text !== ")" ? (parametersEnd(tokens, openers, open - 1) ?? close) : close
  const start = openers.get(end) ?? end
  const before = tokens[start - 1]
  if (isArrow) return arrowName(tokens, before?.text === "async" ? start - 1 : start)
  const at = before?.text === ">" ? tokens.findLastIndex((token, index) => index < start && token.text === "<") - 1 : start - 1
  const name = tokens[at]
  return name === undefined || name.kind !== "word" || STATEMENTS.has(name.text) ? undefined : { text: name.text, index: at }
}

/** What an arrow function that begins at `start` is assigned to. */
function arrowName(tokens: readonly Token[], start: number): Name {
  const named = ["=", ":"].includes(tokens[start - 1]?.text ?? "") ? tokens[start - 2] : undefined
  return named?.kind === "word" ? { text: named.text, index: start - 2 } : { text: "(arrow)", index: start }
}

/** The index of the parenthesis that ends the parameters before the body or the arrow at `open`, over a return type. */
function parametersEnd(tokens: readonly Token[], openers: ReadonlyMap<number, number>, open: number): number | undefined {
  if (tokens[open - 1]?.text === ")") return open - 1
  for (let index = open - 1; index > 0; index = (openers.get(index) ?? index) - 1) {
    const { kind, text } = tokens[index] ?? { kind: "punctuator", text: "" }
    if (text === ":") return tokens[index - 1]?.text === ")" ? index - 1 : undefined
    const isType = ["word", "string", "template", "number"].includes(kind) ||
      [">", "<", "|", "&", ".", ",", "]", "}", ")", "=>"].includes(text)
    if (!isType || ["class", "interface", "else", "try", "finally", "do", "enum", "static"].includes(text)) return undefined
  }
  return undefined
}
