/** Completion scripts for shells, made from the table of commands and options. */
import type { CommandRow, OptionRow } from "../table/rows.ts"

/** A script for bash: completes commands, options, values of options, and otherwise file names. */
export function bashCompletion(commands: readonly CommandRow[]): string {
  const names = commands.map(({ name }) => name).join(" ")
  return [
    "# Completions of vioblk for bash. In ~/.bashrc: source <(vioblk completion bash)",
    "_vioblk() {",
    "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words=",
    '  if [ "$COMP_CWORD" -eq 1 ]; then',
    `    words="${names} help --help --version"`,
    '  elif [ "${COMP_WORDS[1]}" = help ]; then',
    `    words="${names}"`,
    "  else",
    '    case "${COMP_WORDS[1]}" in',
    ...commands.flatMap(bashCase),
    "    esac",
    "  fi",
    '  if [ -n "$words" ]; then mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current"); fi',
    "}",
    "complete -o default -F _vioblk vioblk",
  ].join("\n")
}

function bashCase({ name, options }: CommandRow): string[] {
  const withWords = options.filter(({ choices }) => choices !== undefined)
  const withFile = options.filter(({ argument, choices }) => argument !== undefined && choices === undefined)
  const pattern = (row: OptionRow): string => spellings(row).join("|")
  return [
    `      ${name})`,
    '        case "$previous" in',
    ...withWords.map((row) => `          ${pattern(row)}) words="${row.choices?.join(" ") ?? ""}" ;;`),
    ...(withFile.length === 0 ? [] : [`          ${withFile.map(pattern).join("|")}) ;;`]),
    `          *) case "$current" in -*) words="${options.flatMap(spellings).join(" ")}" ;; esac ;;`,
    "        esac",
    "        ;;",
  ]
}

/** A script for zsh, with the meaning of every option. */
export function zshCompletion(commands: readonly CommandRow[]): string {
  return [
    "#compdef vioblk",
    "# Completions of vioblk for zsh. In a folder of $fpath: vioblk completion zsh > _vioblk",
    "_vioblk() {",
    "  local -a commands=(",
    ...commands.map(({ name, summary }) => `    ${quoted(`${name}:${summary}`)}`),
    `    ${quoted("help:prints the help of a command")}`,
    "  )",
    "  if (( CURRENT == 2 )); then _describe command commands; _files; return; fi",
    "  local command=$words[2]",
    "  shift words; (( CURRENT-- ))",
    "  case $command in",
    `    help) _arguments ${quoted(`:command:(${commands.map(({ name }) => name).join(" ")})`)} ;;`,
    ...commands.map(
      ({ name, options }) => `    ${name}) _arguments ${[...options.flatMap(zshSpecs), quoted("*:file:_files")].join(" ")} ;;`,
    ),
    "  esac",
    "}",
    "compdef _vioblk vioblk",
  ].join("\n")
}

function zshSpecs(row: OptionRow): string[] {
  const meaning = row.meaning.replace(/[[\]\\:]/g, "\\$&")
  const value = row.argument === undefined
    ? ""
    : `:${row.argument.replace(/[\\:]/g, "\\$&")}:${row.choices === undefined ? "_files" : `(${row.choices.join(" ")})`}`
  return spellings(row).map((spelling) => {
    const attached = row.argument === undefined ? "" : spelling.startsWith("--") ? "=" : "+"
    return quoted(`*${spelling}${attached}[${meaning}]${value}`)
  })
}

function spellings({ letter, name }: OptionRow): string[] {
  return [...(letter === undefined ? [] : [`-${letter}`]), `--${name}`]
}

/** In single quotes, for a shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}
