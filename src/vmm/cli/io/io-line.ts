/** One line of qemu-io's language: a command, its options, and offset and length. */
import { sizeOf, UsageError } from "../arguments.ts"

export interface IoLine {
  readonly name: string
  /** By letter; "" for one without an argument. */
  readonly options: ReadonlyMap<string, string>
  readonly words: readonly string[]
}

/** Commands, the letters of their options (with ":" after those with an argument), and their meanings. */
export const IO_COMMANDS: Readonly<Record<string, { readonly letters: string; readonly usage: string; readonly meaning: string }>> = {
  read: { letters: "CqvpP:s:l:", usage: "[-qv] [-P pattern [-s off] [-l len]] off len", meaning: "reads; -P compares with a pattern" },
  write: {
    letters: "cCfnquzpP:s:", usage: "[-cfquz] [-P pattern | -s file] off len",
    meaning: "writes; -z: zeroes, -u: and frees their space, -c: compressed, -f: and flushes",
  },
  discard: { letters: "Cq", usage: "[-q] off len", meaning: "frees the space of a range" },
  flush: { letters: "", usage: "", meaning: "makes all writes durable" },
  length: { letters: "", usage: "", meaning: "prints the size of the disk" },
  alloc: { letters: "", usage: "off [count]", meaning: "prints the allocated bytes of a range of the image" },
  map: { letters: "", usage: "", meaning: "prints the allocated ranges of the image" },
  sleep: { letters: "", usage: "milliseconds", meaning: "waits" },
  help: { letters: "", usage: "", meaning: "prints this" },
  quit: { letters: "", usage: "", meaning: "ends a script" },
}

/** qemu-io's names of commands that are the same here. */
const ALIASES: Readonly<Record<string, string>> = {
  r: "read", w: "write", readv: "read", writev: "write", aio_read: "read", aio_write: "write", aio_flush: "flush", d: "discard", f: "flush",
  q: "quit",
  l: "length",
}

/** Parses a line. Undefined for an empty one, and for a comment. @throws UsageError */
export function parseIoLine(text: string): IoLine | undefined {
  const parts = [...text.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? "")
  const [first, ...rest] = parts
  if (first === undefined || first.startsWith("#")) return undefined
  const name = Object.hasOwn(ALIASES, first) ? (ALIASES[first] ?? first) : first
  const command = Object.hasOwn(IO_COMMANDS, name) ? IO_COMMANDS[name] : undefined
  if (command === undefined) throw new UsageError(`command "${first}" not found; "help" lists them`)
  const options = new Map<string, string>()
  const words: string[] = []
  for (let part = rest.shift(); part !== undefined; part = rest.shift()) {
    if (!/^-[A-Za-z]/.test(part)) {
      words.push(part)
      continue
    }
    for (let letters = part.slice(1); letters !== "";) {
      const letter = letters.slice(0, 1)
      const at = command.letters.indexOf(letter)
      if (at < 0 || letter === ":") throw new UsageError(`${name} has no option -${letter}: ${name} ${command.usage}`)
      const takesValue = command.letters[at + 1] === ":"
      const value = takesValue ? letters.slice(1) || rest.shift() : ""
      if (value === undefined) throw new UsageError(`${name} -${letter} needs a value`)
      options.set(letter, value)
      letters = takesValue ? "" : letters.slice(1)
    }
  }
  return { name, options, words }
}

/** Sizes in the words from `first` on. @throws UsageError when one is missing or not a size */
export function rangeOf({ name, words }: IoLine): { readonly offset: number; readonly length: number } {
  const [offset, ...lengths] = words.map((word) => sizeOf(name, word))
  if (offset === undefined || lengths.length === 0) throw new UsageError(`${name} needs an offset and a length`)
  return { offset, length: lengths.reduce((sum, length) => sum + length, 0) }
}
