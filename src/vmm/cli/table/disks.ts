/** The commands that use a disk, as rows of the table. */
import {
  CACHE, COMMON, type CommandRow, DETECT_ZEROES, FORCE_SHARE, FORMAT, IMAGE_OPTS, JSON_OUTPUT, OUTPUT, QUIET, SECRETS,
} from "./rows.ts"

export const RUN: CommandRow = {
  name: "run", operands: "[IMAGE]", summary: "drives the device as a guest would: reads a whole image, or tests a temporary disk",
  details: "With an image: reads all of it through the device and prints its SHA-256 and its partitions. " +
    "Without: writes a disk in a temporary file, flushes it and reads it back.",
  options: [
    FORMAT, { name: "write", meaning: "open the image for writing, and rewrite its first MiB unchanged" }, DETECT_ZEROES, ...SECRETS,
    { name: "legacy", meaning: "use the legacy interface, like a driver from before virtio 1.0" },
    { name: "queues", argument: "N", meaning: "give the device N request queues (1 to 64; default 1)" },
    { name: "queue-size", argument: "N", meaning: "descriptors of each queue, a power of two (default 256)" },
    OUTPUT, JSON_OUTPUT, { name: "metrics", meaning: "print the disk's statistics, as text for Prometheus" },
    { name: "trace", meaning: "print each request on standard error when it completes" }, ...COMMON,
  ],
}

export const SERVE: CommandRow = {
  name: "serve", operands: "IMAGE", summary: "serves an image to other programs and machines, over NBD",
  details: "Serves QEMU, libnbd or the Linux kernel (nbd-client) until SIGINT or SIGTERM: " +
    "then it answers pending requests, flushes the image and exits.",
  options: [
    { name: "port", argument: "N", meaning: "TCP port; default 10809, 0 for any free one" },
    { name: "host", argument: "ADDRESS", meaning: "address to listen on; default 127.0.0.1, for this host only" },
    { name: "socket", argument: "PATH", meaning: "listen on a Unix socket in place of a port" },
    { name: "export", argument: "NAME", meaning: "name of the export; default: the empty name" },
    { name: "read-only", letter: "r", meaning: "clients cannot write" }, FORMAT, DETECT_ZEROES, ...SECRETS,
    { name: "tls-cert", argument: "FILE", meaning: "certificate, in PEM; clients must use TLS" },
    { name: "tls-key", argument: "FILE", meaning: "its key, in PEM" },
    { name: "tls-ca", argument: "FILE", meaning: "authorities, in PEM; clients must have a certificate from one of them" }, ...COMMON,
  ],
}

export const BENCH: CommandRow = {
  name: "bench", operands: "IMAGE", summary: "measures how fast requests on an image are",
  options: [
    { name: "count", letter: "c", argument: "N", meaning: "requests; default 75000" },
    { name: "depth", letter: "d", argument: "N", meaning: "accepted, without effect: requests are made one after another" }, FORMAT,
    { name: "flush-interval", argument: "N", meaning: "with -w: flush after each N requests" },
    { name: "no-drain", meaning: "accepted, without effect" },
    { name: "offset", letter: "o", argument: "OFFSET", meaning: "begin there" },
    { name: "pattern", argument: "N", meaning: "the byte that is written; default 0" },
    { name: "buffer-size", letter: "s", argument: "SIZE", meaning: "bytes of a request; default 4k" },
    { name: "step-size", letter: "S", argument: "SIZE", meaning: "bytes from one request to the next; default: the size of a request" },
    { name: "write", letter: "w", meaning: "write in place of reading; overwrites the data of the image" },
    { name: "picture", meaning: "draw the latencies of the requests" },
    { name: "aio", letter: "i", argument: "KIND", choices: ["threads", "native", "io_uring"], meaning: "accepted, without effect" },
    { name: "native", letter: "n", meaning: "accepted, without effect" }, CACHE, QUIET, OUTPUT, JSON_OUTPUT, FORCE_SHARE, IMAGE_OPTS,
    ...SECRETS, ...COMMON,
  ],
}

export const IO: CommandRow = {
  name: "io", operands: "IMAGE",
  summary: "makes single requests on an image, in qemu-io's language: read, write, discard, flush, ...",
  details: "Without -c and --script, lines come from standard input. The line 'help' lists all commands. " +
    "Exit code: 1 if a line failed, or found another pattern.",
  options: [
    {
      name: "cmd", letter: "c", argument: "LINE", isList: true,
      meaning: "run this line, as in -c 'write -P 7 0 64k' -c 'read -P 7 0 64k'",
    },
    { name: "script", argument: "FILE", meaning: "run the lines of a file" },
    FORMAT, { name: "read-only", letter: "r", meaning: "write nothing" }, CACHE, FORCE_SHARE, IMAGE_OPTS, ...SECRETS, ...COMMON,
  ],
}

export const DEMO: CommandRow = {
  name: "demo", operands: "DISK", summary: "makes a small disk that a virtual machine with a BIOS boots from",
  details: "Its boot sector reads a text from the disk and shows it on the screen and on the serial line. " +
    "Nothing is overwritten.",
  options: [
    { ...FORMAT, meaning: "format of the disk: raw or qcow2; default qcow2" },
    { name: "text", argument: "TEXT", meaning: "the text, in ASCII" }, QUIET, ...COMMON,
  ],
}

export const COMPLETION: CommandRow = {
  name: "completion", operands: "bash|zsh", summary: "prints a script by which a shell completes commands and options",
  details: "In ~/.bashrc: source <(vioblk completion bash). For zsh, into a folder of $fpath: vioblk completion zsh > _vioblk.",
  options: COMMON,
}
