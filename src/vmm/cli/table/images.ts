/** The commands about one image, as rows of the table. */
import {
  COMMON, CREATE_OPTIONS, type CommandRow, FORCE_SHARE, FORMAT, FORMATS, IMAGE_OPTS, JSON_OUTPUT, OUTPUT, QUIET, SECRETS, SOURCE_CACHE,
} from "./rows.ts"

export const CHECK: CommandRow = {
  name: "check", operands: "IMAGE", summary: "checks whether a qcow2 image is consistent, and repairs it",
  details: "Counts all references in a qcow2 image and compares them with its refcounts. " +
    "Exit code: 0 consistent, 1 not checked because of an error, 2 corrupt, 3 leaks only, 63 not qcow2.",
  options: [
    FORMAT,
    {
      name: "repair", letter: "r", argument: "WHAT", choices: ["leaks", "all"],
      meaning: "leaks: free leaked clusters; all: also repair what endangers data",
    },
    OUTPUT, JSON_OUTPUT, QUIET, FORCE_SHARE, IMAGE_OPTS, ...SECRETS, SOURCE_CACHE, ...COMMON,
  ],
}

export const CREATE: CommandRow = {
  name: "create", operands: "IMAGE [SIZE]", summary: "makes a new, empty image",
  details: "SIZE is in bytes, rounded up to whole sectors of 512; k, M, G, T, P and E multiply by 1024 and its powers. " +
    "Nothing is overwritten.",
  options: [
    { ...FORMAT, meaning: "format of the image; default raw" },
    {
      name: "backing",
      letter: "b",
      argument: "FILE",
      meaning: "backing file, from which unwritten parts are read; relative to the image's folder; SIZE defaults to its size",
    },
    { name: "backing-format", letter: "F", argument: "FORMAT", choices: FORMATS, meaning: "format of the backing file; required with one" },
    { name: "backing-unsafe", letter: "u", meaning: "do not open the backing file" },
    CREATE_OPTIONS,
    { name: "cluster-size", argument: "SIZE", meaning: "512 to 2M, a power of two; default 64k: -o cluster_size" },
    { name: "refcount-bits", argument: "N", meaning: "1 to 64, a power of two; default 16: -o refcount_bits" },
    { name: "compat", argument: "VERSION", choices: ["0.10", "1.1"], meaning: "version of the format; default 1.1: -o compat" },
    { name: "preallocation", argument: "KIND", choices: ["off", "metadata"], meaning: "-o preallocation" },
    { name: "lazy-refcounts", meaning: "-o lazy_refcounts=on" },
    ...SECRETS, OUTPUT, JSON_OUTPUT, QUIET, ...COMMON,
  ],
}

export const INFO: CommandRow = {
  name: "info", operands: "IMAGE", summary: "prints an image's format, sizes, features, backing file and snapshots",
  options: [
    { ...FORMAT, meaning: "format of the image: raw, qcow2 or luks; default: probed" },
    { name: "backing-chain", meaning: "also print these of all backing files, which must exist" }, OUTPUT, JSON_OUTPUT, FORCE_SHARE,
    IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const MAP: CommandRow = {
  name: "map", operands: "IMAGE", summary: "lists where each part of a disk is stored, in the image or in a backing file",
  details: "Lists the parts of the disk with data, and where they are stored; JSON also lists parts that read as zeroes.",
  options: [
    FORMAT, { name: "start-offset", letter: "s", argument: "OFFSET", meaning: "begin there" },
    { name: "max-length", letter: "l", argument: "LENGTH", meaning: "bytes of the disk to list" },
    { name: "picture", meaning: "draw the disk as blocks, as wide as the terminal" },
    { name: "svg", argument: "FILE", meaning: "draw it into a new file for browsers" },
    OUTPUT, JSON_OUTPUT, FORCE_SHARE, IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}
