/**
 * LockedFile: a HostFile with locks, because two writers of one image destroy it, and a reader beside a writer sees old tables. Openings in
 * this process are counted; for other processes it sets the same locks as QEMU.
 */
import { BackingError } from "../backing.ts"
import type { ImageLock } from "../image-file.ts"
import { HostFile, type HostFileOptions } from "./host-file.ts"
import { hostError, isShortage } from "./host-errors.ts"
import { type LockPrograms, lockPrograms, takeFlock, takeQemuLock } from "./lock-child.ts"
import { findForeignLock, findHolder, hostLocks } from "./proc-locks.ts"

interface Claims {
  readers: number
  writers: number
}

/** By identity of the file. */
const openings = new Map<string, Claims>()

export interface LockedFileOptions extends HostFileOptions {
  /** Checks no locks and takes none. Default false. */
  readonly ignoreLocks?: boolean
  /** Whether a read-only opening locks the file, which takes a process. It checks others' locks in any case. Default true. */
  readonly lockReadOnly?: boolean
  /** The program that takes locks. Default: the one that the host has. */
  readonly programs?: LockPrograms
}

/** A `HostFile` that can be locked. */
export class LockedFile extends HostFile {
  readonly #options: LockedFileOptions
  #lock: ImageLock = "none"
  #isClaimed = false

  constructor(path: string, options: LockedFileOptions = {}) {
    super(path, { readOnly: options.readOnly ?? false, create: options.create ?? false })
    this.#options = options
  }

  /** The kind of lock, after `claim`. */
  get lock(): ImageLock {
    return this.#lock
  }

  /**
   * Counts this opening, and locks the file, until it is closed.
   * @throws {BackingError} `busy` if somebody else has the file open for writing, or at all if this opening is for writing.
   */
  claim(): void {
    const options = this.#options
    if (options.ignoreLocks !== true) {
      this.#refuseOwn()
      this.#lockAgainstOthers(options)
    }
    const claims = openings.get(this.identity) ?? { readers: 0, writers: 0 }
    claims[this.#role()]++
    openings.set(this.identity, claims)
    this.#isClaimed = true
  }

  override close(): void {
    if (this.#isClaimed) {
      this.#isClaimed = false
      const claims = openings.get(this.identity)
      if (claims !== undefined) {
        claims[this.#role()]--
        if (claims.readers + claims.writers === 0) openings.delete(this.identity)
      }
    }
    super.close()
  }

  #role(): "readers" | "writers" {
    return this.readOnly ? "readers" : "writers"
  }

  /** @throws {BackingError} `busy`; `io` when the host is out of descriptors or memory: a disk is not opened unprotected for that */
  #lockAgainstOthers({ lockReadOnly, programs = lockPrograms() }: LockedFileOptions): void {
    const takesLock = !this.readOnly || lockReadOnly !== false
    try {
      const taken = takesLock ? takeQemuLock(this.descriptor, this, programs) : undefined
      if (taken !== undefined) return this.#hold(taken)
      // Taking QEMU's locks includes a check of others'. Reading the host's list takes up to 20 ms if locks have just changed (measured).
      if (findForeignLock(hostLocks(), this.identity, this) !== undefined) this.#failBusy()
      if (takesLock) this.#hold(takeFlock(this.descriptor, this, programs))
    } catch (error) {
      if (isShortage(error)) throw hostError(error, "look for other people's locks and take its own", this.path)
      throw error
    }
  }

  #hold(taken: ImageLock | "busy"): void {
    if (taken === "busy") this.#failBusy()
    this.#lock = taken
  }

  #refuseOwn(): void {
    const claims = openings.get(this.identity)
    if (claims === undefined || (claims.writers === 0 && this.readOnly)) return
    const how = claims.writers > 0 ? "for writing" : "read-only"
    const message = `this process has it open ${how} already, and two openings would destroy it; close the first one, or name another file`
    throw new BackingError("busy", message, { path: this.path })
  }

  #failBusy(): never {
    const pid = findForeignLock(hostLocks(), this.identity, this) ?? 0
    const holder = findHolder(this.descriptor) ?? (pid > 0 ? `process ${pid}` : "another process")
    throw new BackingError("busy", `${holder} has locked it; stop that virtual machine or tool first`, { path: this.path })
  }
}
