/** Finds the holders of locks under /proc (Linux). The locked bytes are those of QEMU's block/file-posix.c. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs"
import { isShortage } from "./host-errors.ts"

/** QEMU locks single bytes: 100 + p for a permission p that it uses, 200 + p for one that it does not share with others. */
const USES = 100
const DOES_NOT_SHARE = 200
/** Permission 2, writing unchanged data, is harmless. */
const CONSISTENT_READ = 0
const WRITE = 1
const RESIZE = 3

interface Opening {
  readonly readOnly: boolean
}

/**
 * The bytes that an opening locks, and those that nobody else may hold, as in QEMU 7.2's tools. Unlike these tools, but like QEMU's system
 * emulators, we do not allow others to write to a backing file.
 */
export function qemuBytes({ readOnly }: Opening): { readonly holds: readonly number[]; readonly forbids: readonly number[] } {
  const used = readOnly ? [CONSISTENT_READ] : [CONSISTENT_READ, WRITE, RESIZE]
  const unshared = [WRITE, RESIZE]
  return {
    holds: [...used.map((permission) => USES + permission), ...unshared.map((permission) => DOES_NOT_SHARE + permission)],
    forbids: [...unshared.map((permission) => USES + permission), ...used.map((permission) => DOES_NOT_SHARE + permission)],
  }
}

/** One line of /proc/locks: `1: OFDLCK ADVISORY  READ -1 fe:00:2188455 100 101`. */
interface Lock {
  readonly kind: string
  readonly access: string
  /** 0 or less: unknown, since the lock belongs to an open file description, or to a process that has ended. */
  readonly pid: number
  readonly file: string
  readonly first: number
  /** Infinity: to the end of the file. */
  readonly last: number
}

function parseLocks(list: string): Lock[] {
  return list.split("\n").flatMap((line) => {
    const [, kind = "", , access = "", pid, file, first, last] = line.trim().split(/\s+/)
    // A line with "->" is a process that waits for a lock.
    if (file === undefined || kind === "->") return []
    return [{ kind, access, pid: Number(pid), file, first: Number(first), last: last === "EOF" ? Number.POSITIVE_INFINITY : Number(last) }]
  })
}

function covers({ first, last }: Lock, byte: number): boolean {
  return first <= byte && byte <= last
}

/**
 * The process whose lock in `list`, in the form of /proc/locks, forbids opening the file `identity`. 0 or less: unknown. Undefined:
 * none.
 */
export function findForeignLock(list: string, identity: string, opening: Opening): number | undefined {
  const { forbids } = qemuBytes(opening)
  return parseLocks(list).find((lock) => {
    if (lock.file !== identity) return false
    // A shared lock on the whole file belongs to a reader that is not QEMU.
    const isReader = lock.access === "READ" && lock.last === Number.POSITIVE_INFINITY
    return isReader ? !opening.readOnly : forbids.some((byte) => covers(lock, byte))
  })?.pid
}

/** Whether `list`, the locks of one open file description, has QEMU's locks for `opening`. */
export function holdsQemuBytes(list: string, opening: Opening): boolean {
  const locks = parseLocks(list).filter(({ kind }) => kind === "OFDLCK")
  return qemuBytes(opening).holds.every((byte) => locks.some((lock) => covers(lock, byte)))
}

/** Whether `list`, the locks of one open file description, has flock(2)'s lock for `opening`. */
export function holdsFlock(list: string, { readOnly }: Opening): boolean {
  return parseLocks(list).some(({ kind, access }) => kind === "FLOCK" && (access === "WRITE" || (readOnly && access === "READ")))
}

/** The locks that all processes hold on files; empty if the host does not show them. */
export function hostLocks(): string {
  return readProc("/proc/locks")
}

/** The locks of the open file description behind `fd`, in the same form. */
export function descriptorLocks(process: string, fd: number | string): string {
  const lines = readProc(`/proc/${process}/fdinfo/${fd}`).split("\n")
  return lines.flatMap((line) => (line.startsWith("lock:") ? [line.slice("lock:".length)] : [])).join("\n")
}

/** Maximum of descriptors to search for a holder: the answer is not worth more time. */
const MOST_DESCRIPTORS = 20_000

/** A process that holds a lock on the file of our `fd`, if we may see it: "process 1234 (qemu-io)". */
export function findHolder(fd: number): string | undefined {
  const path = linkTarget(`/proc/self/fd/${fd}`)
  if (path === "") return undefined
  let left = MOST_DESCRIPTORS
  for (const pid of listProc("/proc").filter((name) => /^\d+$/.test(name))) {
    for (const other of listProc(`/proc/${pid}/fd`)) {
      if (left-- === 0) return undefined
      // readlink, since stat would wait for a file system that hangs.
      if (linkTarget(`/proc/${pid}/fd/${other}`) !== path || descriptorLocks(pid, other) === "") continue
      return `process ${pid} (${readProc(`/proc/${pid}/comm`).trim()})`
    }
  }
  return undefined
}

/**
 * The result of `read` under /proc, or `otherwise` if it fails: a process may have ended, or be inaccessible, and not every host has /proc.
 * @throws Error of Node if the host has no descriptor or memory left, which must not count as "nobody holds a lock"
 */
function fromProc<T>(read: () => T, otherwise: T): T {
  try {
    return read()
  } catch (error) {
    if (isShortage(error)) throw error
    if (error instanceof Error && "code" in error) return otherwise
    throw error
  }
}

function readProc(path: string): string {
  return fromProc(() => readFileSync(path, "latin1"), "")
}

function listProc(path: string): string[] {
  return fromProc(() => readdirSync(path), [])
}

function linkTarget(path: string): string {
  return fromProc(() => readlinkSync(path), "")
}

/** Device and inode as an identity of the file: major, minor and inode, as Linux prints them in /proc/locks. */
export function fileIdentity(device: bigint, inode: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn)
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn)
  const hex = (number: bigint): string => number.toString(16).padStart(2, "0")
  return `${hex(major)}:${hex(minor)}:${inode}`
}
