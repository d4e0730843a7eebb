/**
 * `npm run test:browser [-- NAME...]`: the package in headless Chromium. This is not a part of `npm test`: it needs Chromium, and downloads
 * an emulator, a kernel and firmware.
 */
import { inspect } from "node:util"
import { bootTests } from "./boot.ts"
import { encryptionTests } from "./encrypted.ts"
import { opfsTests } from "./opfs.ts"
import { readmeTests } from "./readme.ts"
import { type BrowserTest, runTest } from "./suite.ts"

const TESTS: readonly BrowserTest[] = [...opfsTests, ...encryptionTests, ...readmeTests, ...bootTests]

const words = process.argv.slice(2)
if (words.some((word) => word.startsWith("-"))) {
  console.log(TESTS.map((test) => `${test.name.padEnd(16)}${test.title}`).join("\n"))
  process.exit()
}
const chosen = words.length === 0 ? TESTS : TESTS.filter(({ name }) => words.includes(name))
if (chosen.length === 0) throw new Error(`no browser test is called ${words.join(", ")}; --list shows them`)
let failed = 0
for (const test of chosen) {
  const started = performance.now()
  const seconds = (): string => ((performance.now() - started) / 1000).toFixed(0).padStart(4)
  try {
    const line = await runTest(test)
    console.log(`ok      ${test.name.padEnd(16)}${seconds()} s  ${line}`)
  } catch (error) {
    failed++
    console.log(`FAILED  ${test.name.padEnd(16)}${seconds()} s  ${inspect(error)}`)
  }
}
console.log(failed === 0 ? `${chosen.length} browser tests passed` : `${failed} of ${chosen.length} browser tests FAILED`)
process.exitCode = failed === 0 ? 0 : 1
