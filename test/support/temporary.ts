/** A temporary directory for one test. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { onTestFinished } from "vitest"

/** A new directory, which is removed when the test has finished. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "vioblk-test-"))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}
