/** Rows of the table of commands and options, and the options that commands share. */

export interface OptionRow {
  /** `--name`: qemu-img's long name, or ours if qemu-img has only a letter. */
  readonly name: string
  /** `-f`: qemu-img's letter. */
  readonly letter?: string
  /** The argument's name in the help. Left out: the option takes no argument. */
  readonly argument?: string
  /** All valid arguments. */
  readonly choices?: readonly string[]
  /** It may be given several times, with several arguments. */
  readonly isList?: true
  /** The option is short for another one with a value. */
  readonly means?: { readonly name: string; readonly value: string }
  /** One or two short lines for the help. */
  readonly meaning: string
}

export interface CommandRow {
  readonly name: string
  /** The operands, for the help. */
  readonly operands: string
  /** Half a line for the list of commands. */
  readonly summary: string
  /** More, for the help of the command. */
  readonly details?: string
  readonly options: readonly OptionRow[]
  /** The last argument is a word even if it begins with "-". */
  readonly lastIsWord?: true
}

/** Formats that we open and create. */
export const FORMATS = ["raw", "qcow2", "luks"]
/** qemu-img's cache modes. */
const CACHE_MODES = ["none", "writeback", "writethrough", "directsync", "unsafe"]

export const FORMAT: OptionRow = {
  name: "format", letter: "f", argument: "FORMAT", choices: FORMATS,
  meaning: "format of the image: raw, qcow2 or luks; default: raw or qcow2, probed",
}
export const OUTPUT: OptionRow = {
  name: "output", argument: "KIND", choices: ["human", "json"], meaning: "human: lines for people (default); json: values for programs",
}
export const JSON_OUTPUT: OptionRow = { name: "json", means: { name: "output", value: "json" }, meaning: "the same as --output=json" }
export const QUIET: OptionRow = { name: "quiet", letter: "q", meaning: "print nothing but errors" }
export const PROGRESS: OptionRow = { name: "progress", letter: "p", meaning: "print progress, as lines if the output is not a terminal" }
export const FORCE_SHARE: OptionRow = {
  name: "force-share", letter: "U", meaning: "open the image even if another program has locked it; data may be out of date",
}
export const IMAGE_OPTS: OptionRow = {
  name: "image-opts", meaning: "the image is given as driver=FORMAT,file.filename=PATH in place of its name",
}
export const CACHE: OptionRow = {
  name: "cache", letter: "t", argument: "MODE", choices: CACHE_MODES,
  meaning: "accepted, without effect: writes are always flushed at the end",
}
export const SOURCE_CACHE: OptionRow = {
  name: "source-cache", letter: "T", argument: "MODE", choices: CACHE_MODES, meaning: "accepted, without effect",
}
export const CREATE_OPTIONS: OptionRow = {
  name: "options", letter: "o", argument: "KEY=VALUE,...", isList: true, meaning: "options of the new image; -o help lists them",
}
export const DETECT_ZEROES: OptionRow = {
  name: "detect-zeroes", argument: "WHAT", choices: ["off", "on", "unmap"],
  meaning: "for zeroes that are written as data. off: write them; on: mark them as zeroes; unmap: free their space",
}
/** Sources of the passphrase of an encrypted image. */
export const SECRETS: readonly OptionRow[] = [
  { name: "passphrase-file", argument: "FILE", meaning: "file with the passphrase of encrypted images; a line end at its end counts" },
  {
    name: "object",
    argument: "secret,id=ID,file=FILE",
    isList: true,
    meaning: "the same with an ID, for encrypt.key-secret=ID in --image-opts or -o",
  },
]
export const HELP: OptionRow = { name: "help", letter: "h", meaning: "print this" }
export const DEBUG: OptionRow = { name: "debug", meaning: "print where in the program an error came from" }

/** Options of every command. */
export const COMMON: readonly OptionRow[] = [HELP, DEBUG]
