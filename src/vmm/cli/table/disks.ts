/** The commands that use a disk, as rows of the table. */
import { COMMON, type CommandRow, FORMAT, JSON_OUTPUT, OUTPUT } from "./rows.ts"

export const RUN: CommandRow = {
  name: "run", operands: "[IMAGE]", summary: "drives the device as a guest would: reads a whole image, or tries a disk in a temporary file",
  details: "With an image: reads all of it through the device and prints its SHA-256 and its partitions. " +
    "Without: writes a disk in a temporary file, flushes it and reads it back.",
  options: [
    FORMAT, { name: "write", meaning: "open the image for writing, and rewrite its first MiB unchanged" },
    { name: "legacy", meaning: "drive the device as a driver from before virtio 1.0 does" },
    { name: "queues", argument: "N", meaning: "give the device N request queues (1 to 64; default 1)" },
    { name: "queue-size", argument: "N", meaning: "descriptors of each queue, a power of two (default 256)" },
    OUTPUT, JSON_OUTPUT, { name: "metrics", meaning: "print what the disk has done, as a text for Prometheus" },
    { name: "trace", meaning: "print each request as it is completed, on standard error" }, ...COMMON,
  ],
}

export const SERVE: CommandRow = {
  name: "serve", operands: "IMAGE", summary: "an image for other programs and machines, over NBD",
  details: "Serves QEMU, libnbd or the Linux kernel (nbd-client) until SIGINT or SIGTERM: " +
    "then it answers what it was asked, stores everything and ends.",
  options: [
    { name: "port", argument: "N", meaning: "default 10809; 0 takes one that is free" },
    { name: "host", argument: "ADDRESS", meaning: "of this host; default 127.0.0.1, which only this host reaches" },
    { name: "socket", argument: "PATH", meaning: "a Unix socket in place of a port" },
    { name: "export", argument: "NAME", meaning: "what clients call it; default: no name" },
    { name: "read-only", letter: "r", meaning: "clients cannot write" }, FORMAT,
    { name: "tls-cert", argument: "FILE", meaning: "certificate, in PEM: clients have to speak TLS" },
    { name: "tls-key", argument: "FILE", meaning: "its key, in PEM" },
    { name: "tls-ca", argument: "FILE", meaning: "authorities: clients have to show a certificate that one of them signed" }, ...COMMON,
  ],
}

export const COMPLETION: CommandRow = {
  name: "completion", operands: "bash|zsh", summary: "prints a script by which a shell completes commands and options",
  details: "In ~/.bashrc: source <(vioblk completion bash). For zsh, into a folder of $fpath: vioblk completion zsh > _vioblk.",
  options: COMMON,
}
