/** Runs the command line inside this process, because a separate process takes a second. */
import { vi } from "vitest"
import { vioblk } from "../../src/vmm/cli/program.ts"

/** Runs the command line. Returns its exit code and what it printed. */
export async function commandLine(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const printed = { out: "", err: "" }
  const log = vi.spyOn(console, "log").mockImplementation((line) => void (printed.out += `${String(line)}\n`))
  const error = vi.spyOn(console, "error").mockImplementation((line) => void (printed.err += `${String(line)}\n`))
  try {
    return { code: await vioblk(args), ...printed }
  } finally {
    log.mockRestore()
    error.mockRestore()
  }
}
