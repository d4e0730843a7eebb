/**
 * Finds the data and the holes of a file, by lseek(2) with SEEK_DATA and SEEK_HOLE. Node has no such call, so perl makes it.
 */
import { spawnSync } from "node:child_process"
import { closeSync, fstatSync, openSync } from "node:fs"
import { findProgram } from "./programs.ts"

/** A run of bytes that the host has stored. */
export interface DataExtent {
  /** Bytes. `end` is exclusive. */
  readonly start: number
  readonly end: number
}

/** SEEK_DATA is 3 and SEEK_HOLE 4 on Linux. Each line is a run; ENXIO (6) means that there are no more. */
const SCRIPT = `
open my $file, "<&=", 3 or exit 64;
for (my $end = 0;;) {
  my $start = sysseek $file, $end, 3;
  if (!defined $start) { exit($! == 6 ? 0 : 64) }
  $end = sysseek $file, $start, 4;
  defined $end or exit 64;
  print $start + 0, " ", $end + 0, "\\n";
}
`

/** A file with more runs counts as one run, because the list would fill the memory. */
const MOST_BYTES = 1 << 26

/** The runs of the file at `path`, in order. If the host cannot tell, the whole file is one run. */
export function dataExtents(path: string): readonly DataExtent[] {
  const fd = openSync(path, "r")
  try {
    const { size, blocks } = fstatSync(fd)
    if (size === 0) return []
    const whole = [{ start: 0, end: size }]
    const perl = process.platform === "linux" ? findProgram("perl") : undefined
    // A fully allocated file usually has no holes, and asking takes a process.
    if (perl === undefined || blocks * 512 >= size) return whole
    const { status, stdout } = spawnSync(perl, ["-f", "-e", SCRIPT], {
      encoding: "latin1", stdio: ["ignore", "pipe", "ignore", fd], maxBuffer: MOST_BYTES, timeout: 60_000,
    })
    if (status !== 0) return whole
    return stdout.split("\n").flatMap((line) => {
      const [start, end] = line.split(" ").map(Number)
      return start === undefined || end === undefined ? [] : [{ start, end: Math.min(end, size) }]
    })
  } finally {
    closeSync(fd)
  }
}
