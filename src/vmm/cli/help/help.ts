/** Help, made from the table of commands and options. */
import type { CommandRow, OptionRow } from "../table/rows.ts"
import { COMMANDS } from "../table/table.ts"

const WIDTH = 100
const INDENT = 32

/** The help of the program. */
export function programHelp(): string {
  const name = (row: CommandRow): string => `  ${row.name}`.padEnd(14)
  return [
    "vioblk: disk images, and a virtio-blk disk for virtual machines written in JavaScript",
    "",
    "vioblk COMMAND [options] ...     vioblk help COMMAND says more",
    "vioblk IMAGE                     the same as vioblk run IMAGE",
    "",
    ...COMMANDS.flatMap((row) => wrap(name(row), row.summary, 14)),
    ...wrap("  help".padEnd(14), "prints this, or the help of a command; help --man: the manual page", 14),
    "",
    "  -V, --version  print the version",
    "",
    "Options are those of qemu-img where it has them. Exit code: 0 done, 1 failed or wrong arguments;",
    "some commands have more.",
  ].join("\n")
}

/** The help of a command. */
export function commandHelp(row: CommandRow): string {
  return [
    ...wrap(`vioblk ${row.name}: `, row.summary, 0),
    "",
    `vioblk ${row.name} [options] ${row.operands}`,
    ...(row.details === undefined ? [] : ["", ...wrap("", row.details, 0)]),
    "",
    ...row.options.flatMap(optionLines),
  ].join("\n")
}

/** A long option has its own line, with its meaning below. */
function optionLines(option: OptionRow): string[] {
  const name = `  ${optionName(option)}`
  if (name.length < INDENT) return wrap(name.padEnd(INDENT), option.meaning, INDENT)
  return [name, ...wrap(" ".repeat(INDENT), option.meaning, INDENT)]
}

/** "-f, --format FORMAT". */
export function optionName({ letter, name, argument }: OptionRow): string {
  return `${letter === undefined ? "    " : `-${letter}, `}--${name}${argument === undefined ? "" : ` ${argument}`}`
}

/** A title and then words, in lines that begin at column `indent`. */
function wrap(title: string, text: string, indent: number): string[] {
  const lines = [title]
  for (const word of text.split(" ")) {
    const line = lines.at(-1) ?? ""
    if (line.length > indent && line.length + word.length >= WIDTH) lines.push(" ".repeat(indent) + word)
    else lines[lines.length - 1] = line === "" || line.endsWith(" ") ? line + word : `${line} ${word}`
  }
  return lines
}
