/**
 * fallocate(2) on open files: holes and ranges of zeroes. Node has no such call, so util-linux's fallocate(1) makes it. Forking takes
 * longer the more memory this process has (90 ms with 1 GiB of guest RAM, measured), so one small shell, started once, forks these
 * processes.
 */
import { spawn, spawnSync } from "node:child_process"
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { errnoOf } from "./host-errors.ts"
import { findProgram } from "./programs.ts"

/** fallocate(1)'s options: punch a hole, or zero a range. Both leave the file's size alone; "-zn" keeps the space allocated. */
export type FallocateMode = "-p" | "-zn"

/**
 * A line is a mode, an offset, a length and a descriptor of ours, the answer is fallocate's exit status. It ends when we do: then its input
 * ends.
 */
const SCRIPT = 'while read -r mode offset length fd; do "$1" "$mode" -o "$offset" -l "$length" "/proc/$2/fd/$fd"; echo $?; done'

/** Maximum of shells that are started: on some hosts they are killed at once. */
const MOST_STARTS = 3

/** Our ends of the two pipes to the shell. */
interface Helper {
  readonly questions: number
  readonly answers: number
}

let helper: Helper | undefined
let starts = 0

/**
 * Makes the call on `length` > 0 bytes at `offset` of the open file `fd`, and waits for its end. Returns false if this host or the file
 * system cannot, or if it failed: then a part of the range may be zeroes.
 */
export function fallocate(fd: number, mode: FallocateMode, offset: number, length: number): boolean {
  helper ??= startHelper()
  if (helper === undefined) return false
  const status = ask(helper, `${mode} ${offset} ${length} ${fd}\n`)
  if (status === undefined) stopHelper(helper)
  return status === "0"
}

/** File systems, by their device number, on which a hole was punched. */
const punchingDevices = new Set<bigint>()

/** Whether holes can be punched into the open file `fd` of `size` bytes on `device`. Asks the host once for each file system that can. */
export function canPunchHoles(fd: number, device: bigint, size: number): boolean {
  if (punchingDevices.has(device)) return true
  // A range beyond the end of the file has nothing to free, so this only tests the ability.
  const canPunch = fallocate(fd, "-p", Math.ceil(size / 4096) * 4096, 4096)
  if (canPunch) punchingDevices.add(device)
  return canPunch
}

/** Sends a line and waits for its answer. Undefined when the shell is gone. */
function ask({ questions, answers }: Helper, line: string): string | undefined {
  const answer = new Uint8Array(16)
  try {
    writeSync(questions, line)
    // The pipe ends when both the shell and the fallocate(1) that it has started are gone: both have it open.
    for (let length = 0; ; ) {
      const count = readSync(answers, answer, length, answer.length - length, null)
      if (count === 0) return undefined
      length += count
      if (answer[length - 1] === NEWLINE) return String.fromCharCode(...answer.subarray(0, length - 1))
    }
  } catch (error) {
    if (errnoOf(error) === "EPIPE") return undefined
    throw error
  }
}

const NEWLINE = 0x0a

function startHelper(): Helper | undefined {
  if (process.platform !== "linux" || starts >= MOST_STARTS) return undefined
  starts++
  const [program, shell, mkfifo] = ["fallocate", "sh", "mkfifo"].map(findProgram)
  if (program === undefined || shell === undefined || mkfifo === undefined) return undefined
  const opened: number[] = []
  try {
    const [forShell, ours] = makePipes(mkfifo, opened)
    const args = ["-c", SCRIPT, "sh", program, String(process.pid)]
    // Detached, so that a terminal's interrupt does not end it before us. In "/", so that it keeps no folder busy.
    const child = spawn(shell, args, { stdio: [forShell.questions, forShell.answers, "ignore"], env: {}, cwd: "/", detached: true })
    child.on("error", () => {}) // Without a shell, the first use finds a broken pipe.
    child.unref()
    closeSync(forShell.questions)
    closeSync(forShell.answers)
    return ours
  } catch (error) {
    if (errnoOf(error) === "") throw error
    for (const fd of opened) closeSync(fd)
    return undefined
  }
}

function stopHelper({ questions, answers }: Helper): void {
  helper = undefined
  closeSync(questions)
  closeSync(answers)
}

/**
 * Makes two pipes by temporary names, because Node has no pipe(2). Adds the descriptors to `opened`.
 * @throws errors of node:fs
 */
function makePipes(mkfifo: string, opened: number[]): [forShell: Helper, ours: Helper] {
  const directory = mkdtempSync(join(tmpdir(), "vioblk-"))
  try {
    const names = [join(directory, "questions"), join(directory, "answers")] as const
    spawnSync(mkfifo, names, { stdio: "ignore", env: {} })
    const open = (path: string, flags: number): number => {
      const fd = openSync(path, flags)
      opened.push(fd)
      return fd
    }
    const ends = (path: string): { reader: number; writer: number } => {
      // An opening for one direction waits for the other end, one for both does not.
      const both = openSync(path, constants.O_RDWR)
      try {
        return { reader: open(path, constants.O_RDONLY), writer: open(path, constants.O_WRONLY) }
      } finally {
        closeSync(both)
      }
    }
    const questions = ends(names[0])
    const answers = ends(names[1])
    return [
      { questions: questions.reader, answers: answers.writer },
      { questions: questions.writer, answers: answers.reader },
    ]
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}
