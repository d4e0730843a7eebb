/**
 * `tsx test/browser/worker-source.ts` writes src/backing/sources/opfs-worker-source.ts: the JavaScript of opfs-service.ts as text. A worker
 * made of text needs no other file to be served, and no bundler has to understand it.
 */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"

const ROOT = resolve(import.meta.dirname, "../..")
const SERVICE = join(ROOT, "src/backing/sources/opfs-service.ts")
export const WORKER_SOURCE = join(ROOT, "src/backing/sources/opfs-worker-source.ts")

/** What the file should hold. */
export function makeWorkerSource(): string {
  const folder = mkdtempSync(join(tmpdir(), "vioblk-worker-"))
  try {
    const compiler = join(ROOT, "node_modules/.bin/tsc")
    // This file alone: the compiler takes no options from tsconfig.json then.
    const options = ["--ignoreConfig", "--target", "es2022", "--module", "nodenext", "--types", "node", "--removeComments"]
    execFileSync(compiler, [...options, "--outDir", folder, SERVICE], { cwd: ROOT, stdio: "inherit" })
    const script = readFileSync(join(folder, "opfs-service.js"), "utf8")
    const code = `${script.replace(/^export (?!\{)/gm, "").replace(/^export \{\};?\n/m, "").trimEnd()}\nserveOpfs(globalThis);\n`
    if (/[`\\]|\$\{|^(import|export)\b/m.test(code)) throw new Error("opfs-service.ts: its JavaScript cannot stand in a template literal")
    return `/** Made by test/browser/worker-source.ts from opfs-service.ts, which is to be changed instead; a test compares the two. */
export const OPFS_WORKER_SOURCE = \`
${code}\`
`
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  writeFileSync(WORKER_SOURCE, makeWorkerSource())
}
