/**
 * `npm run test:guest [-- NAME...]`: unmodified guests in v86 use our disk. This is not a part of `npm test`: it downloads an emulator, a
 * kernel and firmware, and takes minutes. Each test runs in a process of its own, which is ended at the test's time limit.
 */
import { appendFileSync, mkdirSync, rmSync } from "node:fs"
import { join } from "node:path"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { inspect } from "node:util"
import { cacheFolder } from "./cache.ts"
import { GuestContext, type GuestTest, temporaryFolder } from "./suite.ts"
import { bootTests } from "./boot.ts"
import { debianTests } from "./debian.ts"
import { filesystemTests } from "./filesystem.ts"
import { fioTests } from "./fio/fio.ts"
import { hotPlugTests } from "./hot-plug.ts"
import { httpTests } from "./http/boot.ts"
import { ideTests } from "./ide.ts"
import { limitsTests } from "./limits/limits.ts"
import { linuxTests } from "./linux.ts"
import { mmioTests } from "./mmio/mmio.ts"
import { readmeTests } from "./readme.ts"
import { rebootTests } from "./reboot.ts"
import { stateTests } from "./state.ts"

const TESTS: readonly GuestTest[] = [
  ...linuxTests, ...filesystemTests, ...bootTests, ...debianTests, ...stateTests, ...hotPlugTests, ...rebootTests, ...mmioTests,
  ...limitsTests, ...fioTests, ...ideTests, ...httpTests, ...readmeTests
]

if (process.argv[2] === "--child") await child(process.argv[3] ?? "", process.argv[4] ?? "", process.argv[5] ?? "")
else await parent(process.argv.slice(2))

/** Runs one test in this process. Prints its line to stdout, or why it failed to stderr. */
async function child(name: string, log: string, folder: string): Promise<void> {
  const test = TESTS.find((candidate) => candidate.name === name)
  if (test === undefined) throw new Error(`no guest test ${name}`)
  const context = new GuestContext((text) => appendFileSync(log, text), folder)
  try {
    console.log(await test.run(context))
  } catch (error) {
    console.error(inspect(error))
    process.exitCode = 1
  }
  process.exit() // an emulator that still runs would keep the process alive
}

async function parent(words: readonly string[]): Promise<void> {
  if (words.includes("--list") || words.some((word) => word.startsWith("-"))) {
    console.log(TESTS.map((test) => `${test.name.padEnd(24)}${test.title}`).join("\n"))
    return
  }
  const chosen = words.length === 0
    ? TESTS
    : TESTS.filter((test) => words.some((word) => test.name === word || test.name.startsWith(`${word}-`)))
  if (chosen.length === 0) throw new Error(`no guest test is called ${words.join(", ")}; --list shows them`)
  const logs = join(cacheFolder(), "logs")
  mkdirSync(logs, { recursive: true })
  let failed = 0
  for (const test of chosen) if (!(await runTest(test, join(logs, `${test.name}.log`)))) failed++
  console.log(failed === 0 ? `${chosen.length} guest tests passed` : `${failed} of ${chosen.length} guest tests FAILED`)
  process.exitCode = failed === 0 ? 0 : 1
}

async function runTest(test: GuestTest, log: string): Promise<boolean> {
  rmSync(log, { force: true })
  const started = performance.now()
  const folder = temporaryFolder() // removed here: a test that is killed cannot remove it
  const self = spawn(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), "--child", test.name, log, folder], {
    stdio: ["ignore", "pipe", "pipe"], detached: true,
  })
  const kill = (): void => {
    if (self.pid !== undefined) process.kill(-self.pid, "SIGKILL") // its process group, with everything that it has started
  }
  const interrupted = (): void => {
    kill()
    rmSync(folder, { recursive: true, force: true })
    process.exit(130)
  }
  process.once("SIGINT", interrupted)
  let output = ""
  let errors = ""
  self.stdout.on("data", (data: Buffer) => {
    output += data.toString()
  })
  self.stderr.on("data", (data: Buffer) => {
    errors += data.toString()
  })
  let late = false
  const timer = setTimeout(() => {
    late = true
    kill()
  }, test.limit * 1000)
  const status = await new Promise<number | null>((resolve) => self.on("close", resolve))
  clearTimeout(timer)
  process.off("SIGINT", interrupted)
  rmSync(folder, { recursive: true, force: true })
  const seconds = ((performance.now() - started) / 1000).toFixed(0)
  if (status === 0) {
    rmSync(log, { force: true })
    console.log(`ok      ${test.name.padEnd(24)}${seconds.padStart(4)} s  ${output.trim().split("\n").at(-1) ?? ""}`)
    return true
  }
  const reason = late ? `not done after ${test.limit} s` : errors.trim()
  console.log(`FAILED  ${test.name.padEnd(24)}${seconds.padStart(4)} s  ${reason}\n        what the guest printed: ${log}`)
  return false
}
