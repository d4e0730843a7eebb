/**
 * Locks on a descriptor of ours, taken by a short child that inherits it: Node has no fcntl(2) and no flock(2). Such locks belong to the
 * open file description, so they outlive the child, and go when the last descriptor is closed, also by SIGKILL.
 *
 * The child is perl, which sets QEMU's byte locks; where there is no perl, flock(1). (flock --fcntl of util-linux 2.41 does not serve: it
 * locks the whole file, so a reader of ours would keep QEMU's readers out.)
 */
import { spawnSync } from "node:child_process"
import type { ImageLock } from "../image-file.ts"
import { isShortage } from "./host-errors.ts"
import { descriptorLocks, holdsFlock, holdsQemuBytes, qemuBytes } from "./proc-locks.ts"
import { findProgram } from "./programs.ts"

/** The programs that take locks, by absolute path, and how long each may take. */
export interface LockPrograms {
  readonly perl: string | undefined
  readonly flock: string | undefined
  /** Milliseconds. */
  readonly timeout: number
}

let found: LockPrograms | undefined

/** The programs of this host, searched once. */
export function lockPrograms(): LockPrograms {
  found ??= { perl: findProgram("perl"), flock: findProgram("flock"), timeout: 10_000 }
  return found
}

const LOCKED = 0
const IN_USE = 75
const FLOCK_IN_USE = 1

/**
 * Like QEMU's block/file-posix.c: first takes shared locks on our bytes, then tests whether anybody holds a conflicting byte. Of two
 * simultaneous openings both may lose, as with QEMU, so each retries after a random delay (some 0.1 s in all). Arguments: "read" or
 * "write", the bytes to hold, the bytes to test. Exit code 64: impossible on this host, and nothing is held.
 *
 * flock(2) keeps out openings that had no perl, and lets one of two writers win at once. A reader releases it at the end: NFS turns it into
 * a lock of the whole file, which QEMU's readers would take for a writer's.
 *
 * The numbers are the same on every 64-bit Linux that Node runs on: LOCK_SH 1, LOCK_EX 2, LOCK_NB 4, LOCK_UN 8; F_OFD_GETLK 36, F_OFD_SETLK
 * 37; F_RDLCK 0, F_WRLCK 1, F_UNLCK 2; EAGAIN 11, EACCES 13. Loading Perl's modules for them would double the time.
 */
const PERL = `
length(pack "p", "") == 8 or exit 64;
my ($role, @lists) = @ARGV;
my ($hold, $test) = map { [split /,/] } @lists;
my $writer = $role eq "write";
open my $file, $writer ? "+<&=" : "<&=", 3 or exit 64;
sub byte {
  my ($command, $type, $at) = @_;
  my $flock = pack "s s x4 q q i x4", $type, 0, $at, 1, 0;
  return fcntl($file, $command, $flock) ? unpack("s", $flock) : -1;
}
sub release {
  byte(37, 2, $_) for @$hold;
  flock($file, 8);
}
sub cannot {
  release();
  exit 64;
}
sub attempt {
  return 0 if !flock($file, $writer ? 6 : 5) && $! == 11;
  for (@$hold) {
    next if byte(37, 0, $_) >= 0;
    return 0 if $! == 11 || $! == 13;
    cannot();
  }
  for (@$test) {
    my $type = byte(36, 1, $_);
    $type >= 0 or cannot();
    $type == 2 or return 0;
  }
  return 1;
}
for my $try (1 .. 4) {
  if (attempt()) {
    flock($file, 8) unless $writer;
    exit ${LOCKED};
  }
  release();
  select undef, undef, undef, rand 0.02 * $try if $try < 4;
}
exit ${IN_USE};
`

interface Opening {
  readonly readOnly: boolean
}

/**
 * Locks `fd` as QEMU does, and checks all locks. Returns the kind of lock, "busy" if somebody else's lock forbids this opening, or
 * undefined if it is impossible on this host.
 */
export function takeQemuLock(fd: number, opening: Opening, { perl, timeout }: LockPrograms): ImageLock | "busy" | undefined {
  if (process.platform !== "linux" || perl === undefined) return undefined
  const { holds, forbids } = qemuBytes(opening)
  const child = run(perl, ["-f", "-e", PERL, opening.readOnly ? "read" : "write", holds.join(), forbids.join()], { fd, timeout })
  if (child.status === IN_USE) return "busy"
  // Believe the kernel's list, not the child.
  return child.status === LOCKED && holdsQemuBytes(descriptorLocks("self", fd), opening) ? "qemu" : undefined
}

/** Locks `fd` by flock(2), which shows nothing of QEMU's locks. Returns like `takeQemuLock`, but "none" if it is impossible. */
export function takeFlock(fd: number, opening: Opening, { flock, timeout }: LockPrograms): ImageLock | "busy" {
  if (process.platform !== "linux" || flock === undefined) return "none"
  const child = run(flock, ["-n", opening.readOnly ? "-s" : "-x", "3"], { fd, timeout })
  if (child.status === FLOCK_IN_USE && child.stderr === "") return "busy"
  return child.status === 0 && holdsFlock(descriptorLocks("self", fd), opening) ? "flock" : "none"
}

interface Ended {
  readonly status: number | null
  readonly stderr: string
}

function run(program: string, args: readonly string[], { fd, timeout }: { readonly fd: number; readonly timeout: number }): Ended {
  try {
    // An empty environment: PERL5OPT and its like would change what runs.
    const options = { env: {}, encoding: "latin1", timeout, killSignal: "SIGKILL" } as const
    const child = spawnSync(program, args, { ...options, stdio: ["ignore", "ignore", "pipe", fd] })
    // If the program cannot be run, continue without. But if the host is out of descriptors or memory, fail: the image would be
    // unprotected.
    if (isShortage(child.error)) throw child.error
    return child
  } catch (error) {
    // Node's permission model forbids children.
    if (error instanceof Error && "code" in error && error.code === "ERR_ACCESS_DENIED") return { status: null, stderr: "" }
    throw error
  }
}
