/** Wraps the paragraphs of comments that have a line too long. Lists, tables, diagrams and code in comments stay as they are. */
import { WIDTH } from "./break-lines.ts"

/** What a line of a comment begins with: indentation, and "*" or "//". */
const COMMENT_LINE = /^(\s*(?:\*|\/\/)) (.*)$/
/** The text of a line that is not prose: a list item, a table, a tag, a diagram, an indented example. */
const NOT_PROSE = /^(?:[-*|>]|@|\d+\.|```|\s)|\S {2,}\S|[─│┌└├]|-->|->$/

/** Lines of comments, with the long ones wrapped. */
export function wrapComments(lines: readonly string[]): string[] {
  return wrapParagraphs(lines.flatMap(openOneLiner))
}

/** A doc comment whose first line has text and is too long begins with a line of its own. */
function openOneLiner(line: string): string[] {
  const [, pad = "", text] = /^(\s*)\/\*\* (.*) \*\/$/.exec(line) ?? []
  if (line.length <= WIDTH) return [line]
  if (text !== undefined) return [`${pad}/**`, `${pad} * ${text}`, `${pad} */`]
  const [, start = "", beginning] = /^(\s*)\/\*\* (.*)$/.exec(line) ?? []
  return beginning === undefined ? [line] : [`${start}/**`, `${start} * ${beginning}`]
}

function wrapParagraphs(lines: readonly string[]): string[] {
  const result: string[] = []
  for (let at = 0; at < lines.length; ) {
    const end = paragraphEnd(lines, at)
    const paragraph = lines.slice(at, Math.max(end, at + 1))
    result.push(...(end > at && paragraph.some((line) => line.length > WIDTH) ? wrap(paragraph) : paragraph))
    at += paragraph.length
  }
  return result
}

/** The index behind the paragraph of prose that begins at `start`; `start` when there is none. */
function paragraphEnd(lines: readonly string[], start: number): number {
  const [, prefix] = COMMENT_LINE.exec(lines[start] ?? "") ?? []
  if (prefix === undefined) return start
  let end = start
  for (; end < lines.length; end++) {
    const [, other, text = ""] = COMMENT_LINE.exec(lines[end] ?? "") ?? []
    if (other !== prefix || (NOT_PROSE.test(text) && !(end === start && text.startsWith("@")))) break
  }
  return end
}

function wrap(paragraph: readonly string[]): string[] {
  const [, prefix = ""] = COMMENT_LINE.exec(paragraph[0] ?? "") ?? []
  const words = paragraph.flatMap((line) => (COMMENT_LINE.exec(line)?.[2] ?? "").split(" ")).filter((word) => word !== "")
  const lines: string[] = []
  for (const word of words) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= WIDTH) lines[lines.length - 1] = `${last} ${word}`
    else lines.push(`${prefix} ${word}`)
  }
  return lines
}
