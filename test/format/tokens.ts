/**
 * A TypeScript source as tokens: enough to count the lines of functions and to break long lines, without a parser. A template literal is
 * one token, whatever it holds.
 */

export type TokenKind = "word" | "number" | "string" | "template" | "regex" | "comment" | "punctuator"

export interface Token {
  readonly kind: TokenKind
  readonly text: string
  /** Offset of its first character in the source. */
  readonly start: number
}

const PUNCTUATOR = /\.\.\.|\?\?=|\?\?|\?\.|=>|===|!==|\*\*=|\*\*|&&=|\|\|=|&&|\|\||[=!<>+\-*/%&|^]=|\+\+|--|[^\s\w]/y
const PATTERNS: readonly (readonly [TokenKind, RegExp])[] = [
  ["comment", /\/\/[^\n]*|\/\*[\s\S]*?\*\/|#![^\n]*/y],
  ["number", /(?:0[xX][\da-fA-F_]+|0[bB][01_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)n?/y],
  ["word", /#?[A-Za-z_$][\w$]*/y],
  ["string", /"(?:[^"\\\n]|\\[\s\S])*"|'(?:[^'\\\n]|\\[\s\S])*'/y],
]
const REGEX = /\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y
/** After these words a slash begins a regular expression, and a parenthesis does not call anything. */
const OPERATOR_WORDS = new Set([
  "return", "typeof", "case", "in", "of", "new", "throw", "void", "delete", "await", "yield", "if", "while", "for", "switch", "else", "do",
  "instanceof", "keyof", "extends", "as", "is", "satisfies", "import", "export", "catch", "readonly",
])

/** A template literal does not end. */
export class UnfinishedTemplate extends Error {}

/** @throws UnfinishedTemplate when a template literal does not end in `source` */
export function tokenize(source: string): Token[] {
  const tokens: Token[] = []
  let at = 0
  while (at < source.length) {
    if (/\s/.test(source.charAt(at))) {
      at++
      continue
    }
    const token = tokenAt(source, at, tokens.findLast(({ kind }) => kind !== "comment"))
    tokens.push(token)
    at += token.text.length
  }
  return tokens
}

function tokenAt(source: string, start: number, previous: Token | undefined): Token {
  if (source.charAt(start) === "`") return { kind: "template", text: source.slice(start, templateEnd(source, start)), start }
  const isRegex = source.charAt(start) === "/" && !"/*".includes(source.charAt(start + 1)) && !endsOperand(previous)
  for (const [kind, pattern] of isRegex ? ([["regex", REGEX]] as const) : PATTERNS) {
    const text = match(pattern, source, start)
    if (text !== undefined) return { kind, text, start }
  }
  return { kind: "punctuator", text: match(PUNCTUATOR, source, start) ?? source.charAt(start), start }
}

function match(pattern: RegExp, source: string, start: number): string | undefined {
  pattern.lastIndex = start
  return pattern.exec(source)?.[0]
}

/** Whether a value may end with `token`, so that a division, a call or an index may follow. */
export function endsOperand(token: Token | undefined): boolean {
  if (token === undefined) return false
  if (token.kind === "word") return !OPERATOR_WORDS.has(token.text)
  if (token.kind === "punctuator") return [")", "]", "}"].includes(token.text)
  return true
}

/** The offset behind the template literal at `start`. */
function templateEnd(source: string, start: number): number {
  let depth = 0
  for (let at = start + 1; at < source.length; at++) {
    const char = source.charAt(at)
    if (char === "\\") at++
    else if (depth === 0 && char === "`") return at + 1
    else if (depth === 0 && source.startsWith("${", at)) depth += source.charAt(++at).length
    else if (depth > 0 && char === "`") at = templateEnd(source, at) - 1
    else if (depth > 0) depth += char === "{" ? 1 : char === "}" ? -1 : 0
  }
  throw new UnfinishedTemplate(`the template literal at offset ${start} does not end`)
}

export const OPENERS = ["(", "[", "{"]
export const CLOSERS = [")", "]", "}"]

export function isOpener(token: Token | undefined): boolean {
  return token?.kind === "punctuator" && OPENERS.includes(token.text)
}

export function isCloser(token: Token | undefined): boolean {
  return token?.kind === "punctuator" && CLOSERS.includes(token.text)
}

/** For each bracket that opens in `tokens`, by its index: the index of the one that closes it. */
export function pairBrackets(tokens: readonly Token[]): Map<number, number> {
  const pairs = new Map<number, number>()
  const open: number[] = []
  tokens.forEach((token, index) => {
    if (isOpener(token)) open.push(index)
    const opener = isCloser(token) ? open.pop() : undefined
    if (opener !== undefined) pairs.set(opener, index)
  })
  return pairs
}

/** The indices of the lines that a token of one of `kinds` covers, if it begins or ends there and goes on beyond, or lies in between. */
export function linesOf(source: string, kinds: readonly TokenKind[], longerThanOne = true): Set<number> {
  const lines = new Set<number>()
  let line = 0
  let at = 0
  for (const token of tokenize(source)) {
    for (; at < token.start; at++) if (source.charAt(at) === "\n") line++
    const count = token.text.split("\n").length
    if (!kinds.includes(token.kind) || (longerThanOne && count === 1)) continue
    for (let more = 0; more < count; more++) lines.add(line + more)
  }
  return lines
}
