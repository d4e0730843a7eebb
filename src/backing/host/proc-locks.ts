/** Who locks a file, as Linux shows it under /proc. The bytes are QEMU's, which locks an image in its block/file-posix.c. */
import { readdirSync, readFileSync, readlinkSync } from "node:fs"
import { isShortage } from "./host-errors.ts"

/** QEMU locks single bytes: 100 + p for a permission p that it uses, 200 + p for one that it does not share with others. */
const USES = 100
const DOES_NOT_SHARE = 200
/** Permission 2, writing what is there already, harms nobody. */
const CONSISTENT_READ = 0
const WRITE = 1
const RESIZE = 3

interface Opening {
  readonly readOnly: boolean
}

/**
 * The bytes that an opening locks, and those that nobody else may hold: what QEMU 7.2's tools take for an image. We share no writing of a
 * backing file either, as a disk of QEMU's system emulators does not; its tools alone would allow it.
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
    // A line with "->" is somebody waiting for a lock, not holding one.
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
    // A shared lock on the whole file is a reader's, in other programs than QEMU.
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

/** The locks that all processes hold on files; empty where the host does not show them. */
export function hostLocks(): string {
  return readProc("/proc/locks")
}

/** The locks of the open file description behind `fd`, in the same form. */
export function descriptorLocks(process: string, fd: number | string): string {
  const lines = readProc(`/proc/${process}/fdinfo/${fd}`).split("\n")
  return lines.flatMap((line) => (line.startsWith("lock:") ? [line.slice("lock:".length)] : [])).join("\n")
}

/** Descriptors that are looked at to find a holder: more would take longer than the answer is worth. */
const MOST_DESCRIPTORS = 20_000

/** A process that holds a lock on the file behind our `fd`, as far as we may look: "process 1234 (qemu-io)". */
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
 * What `read` finds under /proc, or `otherwise`: processes come and go, others' are closed to us, and not every host has /proc.
 * @throws Error of Node's when the host has no descriptor or memory left: that must not pass for "nobody holds a lock"
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

/** Device and inode as a name of the file: the numbers of `makedev(3)` taken apart, as Linux prints them in /proc/locks. */
export function fileIdentity(device: bigint, inode: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn)
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn)
  const hex = (number: bigint): string => number.toString(16).padStart(2, "0")
  return `${hex(major)}:${hex(minor)}:${inode}`
}
