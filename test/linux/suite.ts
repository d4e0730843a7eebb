/** What a guest test is, and what it gets to work with. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export interface GuestTest {
  /** Short, for the command line. */
  readonly name: string
  /** What it shows, in words. */
  readonly title: string
  /** The test is ended as failed after this many seconds. */
  readonly limit: number
  /** Throws when something is wrong; returns what there is to say in one line. */
  readonly run: (context: GuestContext) => Promise<string>
}

export class GuestContext {
  /** A temporary folder for this test alone. */
  readonly folder: string
  /** Where everything goes that a guest prints: kept when the test fails. */
  readonly log: (text: string) => void

  /** `folder`: where somebody else has made it and removes it. */
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

/** Throws unless `actual` is `expected`; `what` names the thing in the message. */
export function same(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected) throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`)
}

export function matches(text: string, pattern: RegExp, what: string): RegExpExecArray {
  const match = pattern.exec(text)
  if (match === null) throw new Error(`${what}: nothing in the following matches ${pattern}:\n${text}`)
  return match
}
