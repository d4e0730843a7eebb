/** A directory of the operating system's for temporary files, for one test. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { onTestFinished } from "vitest"

/** A fresh directory, removed when the test that asks for it has finished. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "vioblk-test-"))
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
  return directory
}
