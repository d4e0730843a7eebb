/** Arguments of the command line: node:util's parser, with errors of our own. */
import { parseArgs, type ParseArgsConfig } from "node:util"
import { printHelp } from "./output.ts"

/** The arguments, or the image's name in them, make no sense: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError"
}

/** A command: its arguments without its own name, to the exit code. */
export type Command = (args: readonly string[]) => Promise<number>

type Options = NonNullable<ParseArgsConfig["options"]>

/** Values of the options, and the positionals. */
type Parsed<O extends Options> = ReturnType<typeof parseArgs<{ args: string[]; options: O; allowPositionals: true; strict: true }>>

/** Parses `args`. @throws UsageError, in one line, for anything that `options` does not know */
export function parse<O extends Options>(args: readonly string[], options: O): Parsed<O> {
  try {
    return parseArgs({ args: [...args], options, allowPositionals: true, strict: true })
  } catch (error) {
    // Node's message goes on to explain how to write what nobody meant.
    const [what = ""] = (error instanceof Error ? error.message : String(error)).split(/\.(?:\s|$)/)
    throw new UsageError(what.replace(/^Option '(.*)' argument is ambiguous$/, "Option '$1 <value>' argument missing"))
  }
}

/** The whole number that option `name` was given as, from `least` to `most`, or `fallback` without the option. */
export function wholeNumber(name: string, text: string | undefined, least: number, most: number, fallback: number): number {
  if (text === undefined) return fallback
  const value = Number(text)
  if (!/^\d+$/.test(text) || value < least || value > most) {
    throw new UsageError(`--${name} ${text}: a whole number from ${least} to ${most} is wanted`)
  }
  return value
}

/** The one of `choices` that option `name` was given as, or undefined without the option. */
export function oneOf<T extends string>(name: string, text: string | undefined, choices: readonly T[]): T | undefined {
  if (text === undefined) return undefined
  const found = choices.find((choice) => choice === text)
  if (found === undefined) throw new UsageError(`--${name} ${text}: ${choices.join(" or ")} is wanted`)
  return found
}

/** The one image that a command is about: its only positional. */
export function imageName(positionals: readonly string[]): string {
  const [path, extra] = positionals
  if (extra !== undefined) throw new UsageError(`one image at a time: "${extra}" is one too many`)
  if (path === undefined || path === "") throw new UsageError(`the name of an image is ${path === undefined ? "missing" : "empty"}`)
  return path
}

/** What every command that looks at one image is given. */
export interface ImageArguments<N extends string> {
  readonly path: string
  readonly format: "raw" | "qcow2" | undefined
  readonly json: boolean
  /** What the command's own options were given as; undefined for those that were not given. */
  readonly own: Readonly<Partial<Record<N, string>>>
}

/**
 * Parses the arguments of such a command. Returns undefined when help was asked for, and printed.
 * @param choices the command's own options, and the words that each takes
 */
export function imageArguments<N extends string = never>(
  args: readonly string[],
  help: string,
  choices: Readonly<Record<N, readonly string[]>>,
): ImageArguments<N> | undefined {
  const names = Object.keys(choices) as N[]
  const words: Options = Object.fromEntries(names.map((name) => [name, { type: "string" }]))
  const common = { format: { type: "string" }, json: { type: "boolean" }, help: { type: "boolean", short: "h" } } as const
  const { values, positionals } = parse(args, { ...words, ...common })
  if (values.help === true) {
    printHelp(help)
    return undefined
  }
  const own: Partial<Record<N, string>> = {}
  // Before the name: a forgotten word takes the name for its own.
  for (const name of names) {
    const text: unknown = Reflect.get(values, name)
    if (typeof text === "string") own[name] = oneOf(name, text, choices[name])
  }
  const format = oneOf("format", values.format, ["raw", "qcow2"])
  return { path: imageName(positionals), format, json: values.json === true, own }
}
