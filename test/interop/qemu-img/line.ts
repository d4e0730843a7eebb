/** A command line that both programs are given, without the program's name. */

export interface Line {
  readonly line: string
  /** We do something else than qemu-img: our exit code, and why. */
  readonly differs?: { readonly code: number; readonly why: string }
}

/**
 * The lines of a text, one each; empty ones and those that begin with "#" are left out. "=> CODE: WHY" behind a line says how we differ.
 */
export function linesOf(text: string): Line[] {
  return text.split("\n").flatMap((row): Line[] => {
    const trimmed = row.trim()
    if (trimmed === "" || trimmed.startsWith("#")) return []
    const [line = "", difference] = trimmed.split(" => ")
    if (difference === undefined) return [{ line }]
    const [code = "", ...why] = difference.split(": ")
    return [{ line, differs: { code: Number(code), why: why.join(": ") } }]
  })
}

/** Splits a line at spaces; what is in quotes is one word. */
export function wordsOf(line: string): string[] {
  return [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? "")
}
