/**
 * Two writers of one image destroy it, and a reader beside a writer sees old tables: refuses what can be seen of that. Openings within this
 * process are counted; those of other processes are seen only by the locks they hold, as Linux lists them in /proc/locks.
 */
import { BackingError } from "../backing.ts"
import { HostFile, hostLocks } from "./host-file.ts"

interface Claims {
  readers: number
  writers: number
}

const claimsByFile = new Map<string, Claims>()

/** A `HostFile` that can be claimed against others. */
export class LockedFile extends HostFile {
  #isClaimed = false

  /**
   * Counts this opening until it is closed. Throws `busy` when somebody else, as far as can be seen, writes to the file, or has it open at all
   * while this opening is writable; not with `ignoreLocks`.
   */
  claim(options: { readonly ignoreLocks: boolean }): void {
    if (!options.ignoreLocks) this.#refuseOthers()
    const claims = claimsByFile.get(this.identity) ?? { readers: 0, writers: 0 }
    claims[this.#role()]++
    claimsByFile.set(this.identity, claims)
    this.#isClaimed = true
  }

  override close(): void {
    if (this.#isClaimed) {
      this.#isClaimed = false
      const claims = claimsByFile.get(this.identity)
      if (claims !== undefined) {
        claims[this.#role()]--
        if (claims.readers + claims.writers === 0) claimsByFile.delete(this.identity)
      }
    }
    super.close()
  }

  #role(): "readers" | "writers" {
    return this.readOnly ? "readers" : "writers"
  }

  #refuseOthers(): void {
    const claims = claimsByFile.get(this.identity)
    if (claims !== undefined && (claims.writers > 0 || !this.readOnly)) {
      const how = claims.writers > 0 ? "for writing" : "read-only"
      throw new BackingError("busy", `it is open ${how} in this process already: two openings would destroy it; close the other one first`, { path: this.path })
    }
    const pid = findForeignLock(hostLocks(), this.identity, { readOnly: this.readOnly })
    if (pid === undefined) return
    const who = pid > 0 ? `process ${pid}` : "another process (QEMU?)"
    throw new BackingError("busy", `${who} has it locked; stop that virtual machine or tool first`, { path: this.path })
  }
}

/**
 * QEMU locks single bytes: 100 + p when it uses the right p, 200 + p when it does not share it with others. Rights: 0 consistent reading, 1 writing,
 * 3 resizing (2, writing what is there already, harms nobody).
 */
const QEMU_USES_WRITE = 101
const QEMU_USES_RESIZE = 103
const QEMU_KEEPS_READ = 200
const QEMU_KEEPS_WRITE = 201
const QEMU_KEEPS_RESIZE = 203

/**
 * The process whose lock forbids opening the file `identity`, or undefined. 0 or less: it cannot be told (such locks belong to an open file, not a
 * process). `list` is in the form of /proc/locks: `1: OFDLCK ADVISORY  READ -1 fe:00:2188455 100 101`.
 */
export function findForeignLock(list: string, identity: string, opening: { readonly readOnly: boolean }): number | undefined {
  for (const line of list.split("\n")) {
    const [, kind, , access, pid, file, first, last] = line.trim().split(/\s+/)
    // A line with "->" is somebody waiting for a lock, not holding one.
    if (file !== identity || kind === "->") continue
    const from = Number(first)
    const to = last === "EOF" ? Number.POSITIVE_INFINITY : Number(last)
    const covers = (byte: number): boolean => from <= byte && byte <= to
    const bytes = opening.readOnly
      ? [QEMU_USES_WRITE, QEMU_USES_RESIZE, QEMU_KEEPS_READ]
      : [QEMU_USES_WRITE, QEMU_USES_RESIZE, QEMU_KEEPS_WRITE, QEMU_KEEPS_RESIZE]
    // A shared lock over the whole file is a reader's, in other programs than QEMU.
    const isReader = access === "READ" && to === Number.POSITIVE_INFINITY
    if (isReader ? !opening.readOnly : bytes.some(covers)) return Number(pid)
  }
  return undefined
}
