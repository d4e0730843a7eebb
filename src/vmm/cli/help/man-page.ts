/** The manual page, in roff, made from the table of commands and options: `vioblk help --man | man -l -` shows it. */
import type { CommandRow } from "../table/rows.ts"
import { optionName } from "./help.ts"

/** The whole page. */
export function manPage(commands: readonly CommandRow[], version: string): string {
  return [
    `.TH VIOBLK 1 "" "vioblk ${version}" "User Commands"`,
    ".SH NAME", "vioblk \\- disk images, and a virtio\\-blk disk for virtual machines written in JavaScript",
    ".SH SYNOPSIS", ".B vioblk", roff("COMMAND [options] ..."), ".br", ".B vioblk", "IMAGE",
    ".SH DESCRIPTION",
    roff("Creates, examines, changes and copies raw and qcow2 images, with the options of qemu-img,"),
    "and drives the disk as a guest would.",
    "A size is a number of bytes, or a number followed by k, M, G, T, P or E: powers of 1024.",
    ".SH COMMANDS",
    ...commands.flatMap(commandSection),
    ".SH EXIT STATUS", "0: done. 1: failed, or wrong arguments. Some commands have more, which they list.",
    ".SH ENVIRONMENT", ".TP", "NO_COLOR", "Set to anything: no colours.",
    ".SH SEE ALSO", roff("qemu-img(1), qemu-io(1), qemu-nbd(8)"),
  ].join("\n")
}

function commandSection({ name, operands, summary, details, options }: CommandRow): string[] {
  return [
    `.SS ${name}`, `.B vioblk ${name}`, roff(`[options] ${operands}`), ".PP",
    roff(`${summary}.${details === undefined ? "" : ` ${details}`}`),
    ...options.flatMap((option) => [".TP", `.B ${roff(optionName(option).trim())}`, roff(option.meaning)]),
  ]
}

/** Text in which roff finds no commands. */
function roff(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replace(/^[.']/, "\\&$&")
}
