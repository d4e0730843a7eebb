/**
 * Breaks a line of code that is too long. It tries, in this order: a conditional before "?" and ":", a list behind its commas, a chain of
 * "||" or "&&" behind the operators, a chain of calls before the dots, the contents of a pair of brackets, and what follows "=" or "=>". A
 * line that none of them makes fit stays as it is.
 */
import { endsOperand, isCloser, isOpener, pairBrackets, type Token, tokenize } from "./tokens.ts"

export const WIDTH = 140
const STEP = 2
/** Shorter contents of brackets stay in one piece. */
const WORTH_BREAKING = 20
/** Items stand side by side when their line is no longer than this. */
const SIDE_BY_SIDE = 110

/** A piece of code on one line, without its indentation. */
interface Code {
  readonly text: string
  readonly tokens: readonly Token[]
  readonly pairs: ReadonlyMap<number, number>
  /** Indices of the tokens that lie in no bracket which opens in this piece, type arguments included. */
  readonly outer: readonly number[]
}

type Strategy = (code: Code, indent: number, hang: number) => readonly string[] | undefined

const STRATEGIES: readonly Strategy[] = [conditional, listed, logical, calls, brackets, assigned, returned, alternatives]

/** The lines for `text` at `indent`. What follows the first of them is indented by `hang` more. */
export function breakCode(text: string, indent: number, hang = STEP): string[] {
  const line = " ".repeat(indent) + text
  if (line.length <= WIDTH) return [line]
  const tail = text.endsWith(",") ? "," : ""
  const code = parse(tail === "" ? text : text.slice(0, -1))
  for (const strategy of STRATEGIES) {
    const lines = strategy(code, indent, hang)
    if (lines === undefined || lines.some((one) => one.length > WIDTH)) continue
    return lines.map((one, index) => (index === lines.length - 1 ? one + tail : one))
  }
  return [line]
}

function parse(text: string): Code {
  const tokens = tokenize(text)
  const pairs = pairBrackets(tokens)
  const outer: number[] = []
  let angle = 0
  for (let index = 0; index < tokens.length; index++) {
    const token = tokens[index]
    // A comparison has spaces around it, type arguments have none.
    const tight = token !== undefined && token.start > 0 && /[\w>]/.test(text.charAt(token.start - 1))
    if (token?.text === "<" && tight) angle++
    else if (token?.text === ">" && tight && angle > 0) angle--
    else if (angle === 0) outer.push(index)
    index = pairs.get(index) ?? index
  }
  return { text, tokens, pairs, outer }
}

/** The outer tokens that are one of `texts`. */
function outerTokens({ tokens, outer }: Code, texts: readonly string[]): Token[] {
  return outer.flatMap((index) => tokens[index] ?? []).filter(({ kind, text }) => kind === "punctuator" && texts.includes(text))
}

/** The pieces of the text between `cuts`, trimmed. */
function cutAt(text: string, cuts: readonly number[]): string[] {
  return [...cuts, text.length].map((cut, index) => text.slice(index === 0 ? 0 : cuts[index - 1], cut).trim())
}

/** As many of `parts` in each line as fit, with a space between them. */
function fill(parts: readonly string[], indent: number, hang: number): string[] {
  const lines: string[] = []
  for (const part of parts) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + part.length <= WIDTH) lines[lines.length - 1] = `${last} ${part}`
    else lines.push(...breakCode(part, indent + (last === undefined ? 0 : hang)))
  }
  return lines
}

function conditional(code: Code, indent: number, hang: number): string[] | undefined {
  const marks = outerTokens(code, ["?", ":"])
  const isMark = (token: Token): boolean => !/^[?]\s*[:),]/.test(code.text.slice(token.start))
  const first = marks.findIndex((token) => token.text === "?" && isMark(token))
  if (first < 0 || outerTokens(code, [","]).length > 0) return undefined
  let open = 0
  const second = marks.slice(first).find(({ text }) => (open += text === "?" ? 1 : -1) === 0)
  if (second === undefined) return undefined
  const [test = "", yes = "", no = ""] = cutAt(code.text, [marks[first]?.start ?? 0, second.start])
  const inner = indent + Math.max(hang, STEP)
  return [...breakCode(test, indent, hang), ...breakCode(yes, inner), ...breakCode(no, inner)]
}

/** What follows a comma goes to the next line when it does not fit. */
function listed(code: Code, indent: number): string[] | undefined {
  const cuts = outerTokens(code, [","]).map(({ start }) => start + 1)
  const isInside = code.tokens.some((token, index) => isOpener(token) && !code.pairs.has(index))
  return cuts.length === 0 || isInside ? undefined : fill(cutAt(code.text, cuts), indent, 0)
}

function logical(code: Code, indent: number, hang: number): string[] | undefined {
  if (outerTokens(code, [",", "?", "=>"]).length > 0) return undefined
  for (const operators of [["||", "??"], ["&&"]]) {
    const cuts = outerTokens(code, operators).map(({ start, text }) => start + text.length).filter((cut) => cut < code.text.length)
    if (cuts.length > 0) return fill(cutAt(code.text, cuts), indent, hang)
  }
  return undefined
}

function calls(code: Code, indent: number, hang: number): string[] | undefined {
  const { tokens, outer } = code
  const dots = outer.filter(
    (index) => [".", "?."].includes(tokens[index]?.text ?? "") && [")", "]"].includes(tokens[index - 1]?.text ?? ""),
  )
  if (dots.length < 2 || outerTokens(code, [",", "=>"]).length > 0) return undefined
  const [first = "", ...rest] = cutAt(code.text, dots.map((index) => tokens[index]?.start ?? 0))
  const inner = indent + Math.max(hang, STEP)
  return [...breakCode(first, indent, hang), ...rest.flatMap((part) => breakCode(part, inner))]
}

/** Breaks after the "=" of an assignment. */
function assigned(code: Code, indent: number): string[] | undefined {
  const [mark] = outerTokens(code, ["="])
  return mark === undefined ? undefined : afterMark(code, mark, indent)
}

/** Breaks after the "=>" of a function whose body is an expression. */
function returned(code: Code, indent: number): string[] | undefined {
  const mark = outerTokens(code, ["=>"]).at(-1)
  if (mark === undefined || code.text.slice(mark.start + 2).trim().startsWith("{")) return undefined
  return afterMark(code, mark, indent)
}

function afterMark({ text }: Code, mark: Token, indent: number): string[] {
  const [head = "", tail = ""] = cutAt(text, [mark.start + mark.text.length])
  return [" ".repeat(indent) + head, ...breakCode(tail, indent + STEP)]
}

/** Breaks behind "+", or before the "|" of a union. */
function alternatives(code: Code, indent: number, hang: number): string[] | undefined {
  if (outerTokens(code, [",", "?", "=>"]).length > 0) return undefined
  const bars = outerTokens(code, ["|"]).map(({ start }) => start).filter((cut) => cut > 0)
  if (bars.length > 0) return fill(cutAt(code.text, bars), indent, hang)
  const sums = outerTokens(code, ["+"]).map(({ start }) => start + 1).filter((cut) => cut < code.text.length)
  return sums.length > 0 ? fill(cutAt(code.text, sums), indent, hang) : undefined
}

/** Breaks inside of a pair of brackets: of the longest, or else of the next one. */
function brackets(code: Code, indent: number, hang: number): string[] | undefined {
  const length = (index: number): number => (code.tokens[code.pairs.get(index) ?? 0]?.start ?? 0) - (code.tokens[index]?.start ?? 0)
  const candidates = code.outer.filter((index) => code.pairs.has(index) && length(index) >= WORTH_BREAKING && !isKey(code, index))
  // The parameters of a declaration come before the type that it returns.
  const isParameters = (index: number): boolean => code.text.endsWith(" {") && code.tokens[index]?.text === "("
  candidates.sort((a, b) => Number(isParameters(b)) - Number(isParameters(a)) || length(b) - length(a))
  for (const index of candidates) {
    for (const lines of [hugged(code, index, indent), opened(code, index, indent, hang)]) {
      if (lines?.every((line) => line.length <= WIDTH) === true) return lines
    }
  }
  return undefined
}

/** Whether the bracket holds an index or the name of a member: those stay in one piece. */
function isKey({ tokens, pairs }: Code, index: number): boolean {
  const before = tokens[index - 1]
  const behind = tokens[(pairs.get(index) ?? 0) + 1]?.text
  return tokens[index]?.text === "[" && ((before !== undefined && endsOperand(before)) || behind === ":" || behind === "(")
}

interface Parts {
  /** Up to the opening bracket, with it. */
  readonly head: string
  readonly content: string
  /** From the closing bracket on. */
  readonly tail: string
}

function partsAt({ text, tokens, pairs }: Code, index: number): Parts {
  const open = tokens[index]?.start ?? 0
  const close = tokens[pairs.get(index) ?? 0]?.start ?? 0
  return { head: text.slice(0, open + 1), content: text.slice(open + 1, close).trim(), tail: text.slice(close) }
}

/** The last of several arguments is a literal: breaks inside of that. */
function hugged(code: Code, index: number, indent: number): string[] | undefined {
  const { head, content, tail } = partsAt(code, index)
  if (!head.endsWith("(") && !head.endsWith("[")) return undefined
  const inner = parse(content)
  const isConst = inner.tokens.at(-1)?.text === "const" && inner.tokens.at(-2)?.text === "as"
  const last = inner.tokens.length - (isConst ? 3 : 1)
  const open = [...inner.pairs].find(([, close]) => close === last)?.[0]
  if (open === undefined || !inner.outer.includes(open) || inner.tokens[open]?.text === "(") return undefined
  const before = inner.tokens[open - 1]
  if (before !== undefined && ![",", "=>", "of"].includes(before.text)) return undefined
  const parts = partsAt(inner, open)
  return laidOut(
    { head: head + parts.head, content: parts.content, tail: parts.tail + tail },
    indent,
    parts.head.endsWith("{") && isBlockBehind(before),
  )
}

function opened(code: Code, index: number, indent: number, hang: number): string[] | undefined {
  const parts = partsAt(code, index)
  const before = code.tokens[index - 1]
  if (/(^|\s)for( await)? \($/.test(parts.head)) return undefined
  if (parts.head.endsWith("(") && !isList(code, index)) {
    return [" ".repeat(indent) + parts.head, ...breakCode(parts.content, indent + STEP, 0), ...breakCode(parts.tail, indent, hang)]
  }
  return laidOut(parts, indent, parts.head.endsWith("{") && isBlockBehind(before))
}

/** Whether the parenthesis holds arguments or parameters, so that a comma may end them, not a condition or a group. */
function isList({ tokens, pairs }: Code, index: number): boolean {
  const before = tokens[index - 1]
  const behind = tokens[(pairs.get(index) ?? 0) + 1]?.text
  return (before !== undefined && endsOperand(before)) || before?.text === ">" || behind === "=>"
}

/** Whether a brace behind `token` begins a block. */
function isBlockBehind(token: Token | undefined): boolean {
  return token !== undefined && ["=>", ")", "else", "try", "finally", "do"].includes(token.text)
}

function laidOut({ head, content, tail }: Parts, indent: number, isBlock: boolean): string[] | undefined {
  const pad = " ".repeat(indent)
  const separator = isBlock || outerTokens(parse(content), [";"]).length > 0 ? ";" : ","
  const cuts = outerTokens(parse(content), [separator]).map(({ start }) => start + 1)
  const items = cutAt(content, cuts).map((item) => (item.endsWith(separator) ? item.slice(0, -1) : item)).filter((item) => item !== "")
  // A line that begins like this would go on with the one before.
  if (separator === ";" && items.some((item) => /^[([`+\-/]/.test(item))) return undefined
  const ended = separator === ";"
    ? items
    : items.map((item, index) => (index === items.length - 1 && item.startsWith("...") ? item : `${item},`))
  return [pad + head, ...itemLines(ended, indent + STEP, separator), ...breakCode(tail, indent)]
}

function itemLines(items: readonly string[], indent: number, separator: string): string[] {
  const isPlain = items.every((item) => tokenize(item).every((token) => !isOpener(token) && !isCloser(token)) && item.length <= 40)
  if (separator === "," && isPlain) return fill(items, indent, 0)
  const line = " ".repeat(indent) + items.join(" ")
  return separator === "," && line.length <= SIDE_BY_SIDE ? [line] : items.flatMap((item) => breakCode(item, indent))
}
