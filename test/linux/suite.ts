/** A guest test, and what it works with. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export interface GuestTest {
  /** Short, for the command line. */
  readonly name: string
  /** What it shows. */
  readonly title: string
  /** Time limit in seconds. The test is killed then, and has failed. */
  readonly limit: number
  /** Returns one line that says what was done. @throws Error when something is wrong */
  readonly run: (context: GuestContext) => Promise<string>
}

export class GuestContext {
  /** A temporary folder of this test's own. */
  readonly folder: string
  /** Gets everything that the guest prints. The log is kept when the test fails. */
  readonly log: (text: string) => void

  /** `folder` is left out where the context makes and removes it itself. */
  constructor(log: (text: string) => void, folder = temporaryFolder()) {
    this.folder = folder
    this.log = log
  }

  path(name: string): string {
    return join(this.folder, name)
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true })
  }
}

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), "vioblk-guest-test-"))
}

/** @throws Error unless `actual` is `expected`; `what` names the thing in the message */
export function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected) throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`)
}

export function matches(text: string, pattern: RegExp, what: string): RegExpExecArray {
  const match = pattern.exec(text)
  if (match === null) throw new Error(`${what}: nothing in the following matches ${pattern}:\n${text}`)
  return match
}
