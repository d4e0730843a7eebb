/**
 * Puts braces around bodies of "if", "else", "for" and "while" that stand on a line of their own, or whose line is too long. All arms of
 * one "if" get them.
 */
import { WIDTH } from "./break-lines.ts"
import { isCloser, isOpener, pairBrackets, type Token, tokenize, UnfinishedTemplate } from "./tokens.ts"

const STEP = "  "

interface Arm {
  /** "if (x)", "else if (x)", "else", "for (...)", "while (x)". */
  readonly head: string
  /** The lines of the body, indented as they are inside of braces. */
  readonly body: readonly string[]
  readonly isBodyApart: boolean
  /** The index behind its last line. */
  readonly end: number
}

/** Whether the line is the head of a statement whose body stands on the next line without braces. "} while" ends a do. */
export function isBodyApart(lines: readonly string[], at: number): boolean {
  return armAt(lines, at, /^(?:while|(?:\} )?(?:if|for|else))\b/)?.isBodyApart === true
}

/** The lines with the braces that they want. */
export function addBraces(lines: readonly string[]): string[] {
  const result: string[] = []
  for (let at = 0; at < lines.length; ) {
    const arms = chainAt(lines, at)
    const end = arms.at(-1)?.end ?? at + 1
    const wanted = arms.some((arm) => arm.isBodyApart) || lines.slice(at, end).some((line) => line.length > WIDTH)
    if (arms.length === 0 || !wanted) {
      result.push(...lines.slice(at, end))
      at = end
      continue
    }
    const pad = indentOf(lines[at])
    // An else with braces of its own may follow.
    const isElse = lines[end]?.startsWith(`${pad}else`) === true
    result.push(...braced(arms, pad), isElse ? `${pad}} ${lines[end]?.trim()}` : `${pad}}`)
    at = isElse ? end + 1 : end
  }
  return result
}

function braced(arms: readonly Arm[], pad: string): string[] {
  return arms.flatMap(({ head, body }, index) => [`${pad}${index === 0 ? "" : "} "}${head} {`, ...addBraces(body)])
}

function indentOf(line = ""): string {
  return line.slice(0, line.length - line.trimStart().length)
}

/** The arms that begin at line `at`, as long as they have no braces. */
function chainAt(lines: readonly string[], at: number): Arm[] {
  const first = armAt(lines, at, /^(?:if|for|while)\b/)
  const arms: Arm[] = []
  for (let arm = first; arm !== undefined; arm = followingArm(lines, at, arm.end)) {
    arms.push(arm)
    if (!/^(?:if|else if)\b/.test(arm.head)) break
  }
  return arms
}

function followingArm(lines: readonly string[], at: number, end: number): Arm | undefined {
  return indentOf(lines[end]) === indentOf(lines[at]) ? armAt(lines, end, /^else\b/) : undefined
}

function armAt(lines: readonly string[], at: number, keyword: RegExp): Arm | undefined {
  const line = lines[at] ?? ""
  const text = line.trim()
  const head = keyword.test(text) ? headOf(text) : undefined
  if (head === undefined) return undefined
  const rest = text.slice(head.length).trim()
  if (rest.startsWith("{") || rest.startsWith("//")) return undefined
  const isApart = rest === ""
  const start = isApart ? at + 1 : at
  const end = statementEnd(lines, start, { first: isApart ? (lines[start] ?? "") : rest, pad: indentOf(line) })
  if (end === undefined) return undefined
  const body = isApart
    ? lines.slice(start, end)
    : [indentOf(line) + STEP + rest, ...lines.slice(start + 1, end).map((other) => STEP + other)]
  return { head, body, isBodyApart: isApart, end }
}

/** "if (...)" and so on, without the body. Undefined when the condition does not end on this line. */
function headOf(text: string): string | undefined {
  const tokens = tokenizeLine(text) ?? []
  const isElse = tokens.find((token) => token.text !== "}")?.text === "else"
  if (isElse && !/else if\b/.test(text)) return text.slice(0, text.indexOf("else") + 4)
  const close = pairBrackets(tokens).get(tokens.findIndex((token) => token.text === "("))
  return close === undefined ? undefined : text.slice(0, (tokens[close]?.start ?? 0) + 1)
}

/** The index behind the last line of the statement whose text on line `start` is `first`. Undefined when that is not clear. */
function statementEnd(
  lines: readonly string[], start: number, { first, pad }: { readonly first: string; readonly pad: string },
): number | undefined {
  let depth = depthOf(first)
  let end = start + 1
  while (depth !== undefined && (depth > 0 || indentOf(lines[end]).length > pad.length)) {
    const line = lines[end]
    const more = line === undefined || line.includes("`") || line.includes("//") ? undefined : depthOf(line)
    depth = more === undefined ? undefined : depth + more
    end++
  }
  return depth === undefined || first.includes("// ") ? undefined : end
}

/** How many more brackets open than close on `line`. */
function depthOf(line: string): number | undefined {
  return tokenizeLine(line)?.reduce((depth, token) => depth + (isOpener(token) ? 1 : isCloser(token) ? -1 : 0), 0)
}

function tokenizeLine(text: string): Token[] | undefined {
  try {
    return tokenize(text)
  } catch (error) {
    if (error instanceof UnfinishedTemplate) return undefined
    throw error
  }
}
