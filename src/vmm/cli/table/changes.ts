/** The commands that make one image from another, or change one, as rows of the table. */
import {
  CACHE, COMMON, CREATE_OPTIONS, type CommandRow, FORCE_SHARE, FORMAT, FORMATS, IMAGE_OPTS, JSON_OUTPUT, type OptionRow, OUTPUT, PROGRESS,
  QUIET, SECRETS, SOURCE_CACHE,
} from "./rows.ts"

const OUTPUT_FORMAT: OptionRow = {
  name: "output-format", letter: "O", argument: "FORMAT", choices: FORMATS, meaning: "format of the new image; default raw",
}
const BACKING_FORMAT: OptionRow = {
  name: "backing-format", letter: "F", argument: "FORMAT", choices: FORMATS, meaning: "format of the backing file",
}
const SNAPSHOT: OptionRow = {
  name: "snapshot", letter: "l", argument: "SNAPSHOT",
  meaning: "read this snapshot of the image: its id or name, or snapshot.id=ID,snapshot.name=NAME",
}
const RATE_LIMIT: OptionRow = { name: "rate-limit", letter: "r", argument: "RATE", meaning: "maximum of bytes a second" }

export const AMEND: CommandRow = {
  name: "amend", operands: "IMAGE", summary: "changes options of an existing image",
  options: [
    FORMAT, { ...CREATE_OPTIONS, meaning: "what to change; -o help lists the keys" }, CACHE, PROGRESS, QUIET,
    { name: "force", meaning: "allow changes that may lose data: remove the last passphrase, or replace one" },
    { name: "new-passphrase-file", argument: "FILE", meaning: "file with the passphrase that -o encrypt.state=active adds" },
    IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const BITMAP: CommandRow = {
  name: "bitmap", operands: "IMAGE BITMAP", summary: "adds, removes, clears, enables, disables and merges persistent bitmaps of an image",
  details: "Actions are done in the order in which they are given.",
  options: [
    { name: "add", meaning: "make BITMAP" }, { name: "remove", meaning: "remove it" }, { name: "clear", meaning: "clear all its bits" },
    { name: "enable", meaning: "record writes in it" }, { name: "disable", meaning: "stop recording writes in it" },
    { name: "merge", argument: "SOURCE", isList: true, meaning: "set all bits that are set in SOURCE" },
    { name: "granularity", letter: "g", argument: "SIZE", meaning: "bytes for each bit, with --add; default 64k" },
    { name: "source-file", letter: "b", argument: "FILE", meaning: "image that contains SOURCE; default IMAGE" },
    { name: "source-format", letter: "F", argument: "FORMAT", choices: FORMATS, meaning: "its format" }, FORMAT, IMAGE_OPTS, ...SECRETS,
    ...COMMON,
  ],
}

export const COMMIT: CommandRow = {
  name: "commit", operands: "IMAGE", summary: "writes the data of an image into its backing file",
  options: [
    FORMAT, { name: "base", letter: "b", argument: "FILE", meaning: "write into this file of the chain; default: the next one" },
    { name: "keep-content", letter: "d", meaning: "do not empty the image afterwards" }, CACHE, RATE_LIMIT, PROGRESS, QUIET,
    IMAGE_OPTS, ...SECRETS,
    ...COMMON,
  ],
}

export const COMPARE: CommandRow = {
  name: "compare", operands: "IMAGE1 IMAGE2", summary: "compares the content of two images",
  details: "Exit code: 0 identical, 1 different, 2 or more: not compared because of an error.",
  options: [
    // The command checks these itself, for exit code 2: 1 would mean that the images differ.
    { name: "format", letter: "f", argument: "FORMAT", meaning: "format of the first image" },
    { name: "second-format", letter: "F", argument: "FORMAT", meaning: "format of the second image" },
    { name: "strict", letter: "s", meaning: "also compare sizes and allocation" },
    { name: "source-cache", letter: "T", argument: "MODE", meaning: "accepted, without effect" }, PROGRESS, QUIET,
    OUTPUT,
    JSON_OUTPUT, FORCE_SHARE, IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const CONVERT: CommandRow = {
  name: "convert", operands: "IMAGE [IMAGE2 ...] NEW",
  summary: "copies one or more images into a new one, of another format or with other options",
  options: [
    { ...FORMAT, meaning: "format of the images; default: raw or qcow2, probed" }, OUTPUT_FORMAT, CREATE_OPTIONS,
    { name: "compress", letter: "c", meaning: "write compressed clusters" },
    { name: "backing", letter: "B", argument: "FILE", meaning: "backing file of the new image; only data that differs from it is copied" },
    BACKING_FORMAT, SNAPSHOT,
    { name: "no-create", letter: "n", meaning: "write into NEW, which exists already" },
    {
      name: "sparse-size",
      letter: "S",
      argument: "SIZE",
      meaning: "leave out runs of zeroes of at least this length; default 4k, 0: copy all data",
    },
    { name: "coroutines", letter: "m", argument: "N", meaning: "number of parallel reads and writes, 1 to 16; default 8" },
    { name: "out-of-order", letter: "W", meaning: "accepted, without effect" },
    { name: "copy-range", letter: "C", meaning: "accepted, without effect" },
    { name: "bitmaps", meaning: "copy persistent bitmaps" },
    { name: "skip-broken-bitmaps", meaning: "with --bitmaps: leave out inconsistent ones" },
    { name: "target-is-zero", meaning: "with -n: NEW reads as zeroes already" },
    { name: "salvage", meaning: "continue after read errors, and copy unreadable data as zeroes" },
    { name: "target-image-opts", meaning: "NEW is given as driver=FORMAT,file.filename=PATH" }, CACHE, SOURCE_CACHE, RATE_LIMIT, PROGRESS,
    QUIET,
    FORCE_SHARE, IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const DD: CommandRow = {
  name: "dd", operands: "[bs=SIZE] [count=N] [skip=N] if=IMAGE of=NEW", summary: "copies blocks of an image into a new one",
  options: [FORMAT, OUTPUT_FORMAT, PROGRESS, QUIET, FORCE_SHARE, IMAGE_OPTS, ...SECRETS, ...COMMON],
}

export const MEASURE: CommandRow = {
  name: "measure", operands: "[IMAGE]", summary: "computes how large the file of a new image would be",
  options: [
    FORMAT, OUTPUT_FORMAT, CREATE_OPTIONS, SNAPSHOT,
    { name: "size", argument: "SIZE", meaning: "measure a new, empty image of this size, in place of IMAGE" },
    OUTPUT, JSON_OUTPUT, FORCE_SHARE, IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const REBASE: CommandRow = {
  name: "rebase", operands: "IMAGE", summary: "gives an image another backing file, or none",
  options: [
    FORMAT, { name: "backing", letter: "b", argument: "FILE", meaning: 'the new backing file; "" for none' }, BACKING_FORMAT,
    { name: "unsafe", letter: "u", meaning: "change only the name in IMAGE and copy nothing, for a backing file that has moved" }, CACHE,
    SOURCE_CACHE, PROGRESS,
    QUIET,
    FORCE_SHARE, IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const RESIZE: CommandRow = {
  name: "resize", operands: "IMAGE [+|-]SIZE", summary: "changes the size of a disk", lastIsWord: true,
  options: [
    FORMAT,
    { name: "preallocation", argument: "KIND", choices: ["off", "metadata", "falloc", "full"], meaning: "of the new space; default off" },
    { name: "shrink", meaning: "allow a smaller size, which loses the data beyond it" }, QUIET, IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const SNAPSHOT_COMMAND: CommandRow = {
  name: "snapshot", operands: "IMAGE", summary: "lists, takes, applies and deletes snapshots inside an image",
  options: [
    { name: "list", letter: "l", meaning: "list them (default)" }, { name: "create", letter: "c", argument: "NAME", meaning: "take one" },
    { name: "apply", letter: "a", argument: "NAME", meaning: "return the disk to it" },
    { name: "delete", letter: "d", argument: "NAME", meaning: "delete it" }, FORMAT, QUIET, OUTPUT, JSON_OUTPUT, FORCE_SHARE, IMAGE_OPTS,
    ...SECRETS,
    ...COMMON,
  ],
}
