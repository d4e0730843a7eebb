/** Arguments of the command line: GNU's rules for options, which qemu-img follows, over the rows of the table. */
import { nearest } from "../../options.ts"
import { parseSize } from "./size.ts"
import type { CommandRow, OptionRow } from "./table/rows.ts"

/** Wrong arguments: exit code 1, as with qemu-img. */
export class UsageError extends Error {
  override readonly name = "UsageError"
}

/** A command: takes its arguments and returns the exit code. */
export type Command = (given: Arguments) => Promise<number>

/** An option as it was given. */
interface GivenOption {
  readonly row: OptionRow
  /** As it was written: "-f" or "--format". */
  readonly spelling: string
  readonly value: string
}

/** The arguments of a command. Reading an option that its row in the table does not have is a bug, and throws. */
export class Arguments {
  readonly command: CommandRow
  /** The arguments that are not options, in order. */
  readonly words: readonly string[]
  readonly #given: readonly GivenOption[]

  constructor(command: CommandRow, words: readonly string[], given: readonly GivenOption[]) {
    this.command = command
    this.words = words
    this.#given = given
  }

  /** Whether the option was given. */
  flag(name: string): boolean {
    return this.texts(name).length > 0
  }

  /** The option's value. */
  text(name: string): string | undefined {
    return this.texts(name)[0]
  }

  /** All values of the option. */
  texts(name: string): readonly string[] {
    return this.#find(name).map(({ value }) => value)
  }

  /** The option's value, which must be one of `choices`. */
  choice<T extends string>(name: string, choices: readonly T[]): T | undefined {
    const text = this.text(name)
    if (text === undefined) return undefined
    const found = choices.find((choice) => choice === text)
    if (found === undefined) throw new UsageError(`${this.spelling(name)} ${text}: it must be ${listed(choices)}`)
    return found
  }

  /** The option's value as a whole number from `least` to `most`. */
  count(name: string, least: number, most: number): number | undefined {
    const text = this.text(name)
    return text === undefined ? undefined : countOf(this.spelling(name), text, least, most)
  }

  /** The option's value as a size in bytes. */
  size(name: string): number | undefined {
    const text = this.text(name)
    return text === undefined ? undefined : sizeOf(this.spelling(name), text)
  }

  /** Whether to print JSON: `--output=json`, or `--json`, which is the same. */
  get json(): boolean {
    return this.choice("output", ["human", "json"]) === "json"
  }

  /** The only word, for a command about one image. */
  get image(): string {
    const [path, extra] = this.words
    if (extra !== undefined) throw new UsageError(`${this.command.name} takes one image: "${extra}" is one word too many`)
    return nameOf("image", path)
  }

  /** Those of `names` that were given, in order, with their values. */
  inOrder<N extends string>(names: readonly N[]): readonly { readonly name: N; readonly value: string }[] {
    return this.#given.flatMap(({ row, value }) => {
      const name = names.find((each) => each === row.name)
      return name === undefined ? [] : [{ name, value }]
    })
  }

  /** The option as it was written: "-f" or "--format". */
  spelling(name: string): string {
    return this.#find(name)[0]?.spelling ?? `--${name}`
  }

  #find(name: string): readonly GivenOption[] {
    const row = this.command.options.find((option) => option.name === name)
    if (row === undefined) throw new Error(`vioblk ${this.command.name} has no option --${name} in its row`)
    return this.#given.filter((option) => option.row === row)
  }
}

/** Checks that a name is given and not empty. @param what "image", "backing file" */
export function nameOf(what: string, name: string | undefined): string {
  if (name === undefined || name === "") throw new UsageError(`the name of the ${what} is ${name === undefined ? "missing" : "empty"}`)
  return name
}

/** `text` as a size in bytes. @param what its name in the message */
export function sizeOf(what: string, text: string): number {
  const size = parseSize(text)
  if (size === undefined) throw new UsageError(`${what} ${text}: it must be a number of bytes below 2^63, or one with k, M, G, T, P or E`)
  return size
}

/** `text` as a whole number from `least` to `most`. @param what its name in the message */
export function countOf(what: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (/^(0x[\da-f]+|\d+)$/i.test(text) && value >= least && value <= most) return value
  throw new UsageError(`${what} ${text}: it must be a whole number from ${least} to ${most}`)
}

/** Parses the arguments of a command. @throws UsageError, in one line, for arguments that its row in the table does not allow */
export function parseArguments(command: CommandRow, args: readonly string[]): Arguments {
  const given: GivenOption[] = []
  const words: string[] = []
  const rest = [...args]
  // A size such as -1G is not an option.
  const last = command.lastIsWord === true && rest.length > 1 ? rest.splice(-1) : []
  const add = (row: OptionRow, spelling: string, value: string): void => {
    const { means } = row
    const one = means === undefined ? { row, spelling, value } : { row: longOption(command, means.name), spelling, value: means.value }
    const before = one.row.isList === true ? undefined : given.find((other) => other.row === one.row && other.value !== one.value)
    if (before !== undefined) throw contradiction(before, one)
    given.push(one)
  }
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === "--") {
      words.push(...rest.splice(0))
    } else if (arg.startsWith("--")) {
      const [name = "", attached] = splitOnce(arg.slice(2), "=")
      const row = longOption(command, name)
      add(row, `--${row.name}`, argumentOf(row, `--${row.name}`, attached, rest))
    } else if (arg.startsWith("-") && arg !== "-") {
      for (let letters = arg.slice(1); letters !== "";) {
        const row = letterOption(command, letters.slice(0, 1))
        const attached = row.argument === undefined || letters.length === 1 ? undefined : letters.slice(1)
        add(row, `-${letters.slice(0, 1)}`, argumentOf(row, `-${letters.slice(0, 1)}`, attached, rest))
        letters = row.argument === undefined ? letters.slice(1) : ""
      }
    } else {
      words.push(arg)
    }
  }
  return new Arguments(command, [...words, ...last], given)
}

/** qemu-img lets the last one count, so that the first has no effect, and nobody hears of it. */
function contradiction(before: GivenOption, now: GivenOption): UsageError {
  const written = ({ row: { name }, spelling, value }: GivenOption): string =>
    spelling.length > 2 && spelling !== `--${name}` ? spelling : `${spelling} ${value}`
  return new UsageError(`${written(before)} and ${written(now)} contradict each other; give one of them`)
}

function splitOnce(text: string, separator: string): string[] {
  const at = text.indexOf(separator)
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + separator.length)]
}

/** The option of that name, or of one that begins so, as GNU's getopt_long finds it. */
function longOption(command: CommandRow, name: string): OptionRow {
  const exact = command.options.find((option) => option.name === name)
  if (exact !== undefined) return exact
  const begun = name === "" ? [] : command.options.filter((option) => option.name.startsWith(name))
  const [only] = begun
  if (only !== undefined && begun.length === 1) return only
  if (begun.length > 1) throw new UsageError(`--${name} may be ${listed(begun.map((option) => `--${option.name}`))}`)
  const near = nearest(name, command.options.map((option) => option.name))
  throw new UsageError(`--${name} is not an option of ${command.name}${near === undefined ? "" : ` (did you mean --${near}?)`}`)
}

function letterOption(command: CommandRow, letter: string): OptionRow {
  const row = command.options.find((option) => option.letter === letter)
  if (row !== undefined) return row
  const known = command.options.flatMap((option) => (option.letter === undefined ? [] : [`-${option.letter}`]))
  throw new UsageError(`-${letter} is not an option of ${command.name}${known.length === 0 ? "" : `, which has ${listed(known, "and")}`}`)
}

/** The argument that was attached to the option, or the next one. */
function argumentOf(row: OptionRow, spelling: string, attached: string | undefined, rest: string[]): string {
  if (row.argument === undefined) {
    if (attached !== undefined) throw new UsageError(`${spelling} takes no argument`)
    return ""
  }
  const value = attached ?? rest.shift()
  if (value === undefined) throw new UsageError(`${spelling} needs an argument: ${row.argument}`)
  if (row.choices !== undefined && !row.choices.includes(value)) {
    const near = nearest(value, row.choices)
    throw new UsageError(`${spelling} ${value}: it must be ${listed(row.choices)}${near === undefined ? "" : ` (did you mean ${near}?)`}`)
  }
  return value
}

/** "a, b or c". */
export function listed(words: readonly string[], link: "and" | "or" = "or"): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${link} ${words.at(-1) ?? ""}`
}
