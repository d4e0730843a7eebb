/** The README's v86 example runs as it is printed, in an empty folder with the packages installed. */
import { spawn } from "node:child_process"
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { run } from "./cache.ts"
import { checkClean } from "./disks.ts"
import { debianPackages, V86_VERSION } from "./packages.ts"
import { type GuestContext, type GuestTest, same } from "./suite.ts"

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url))

async function readme(context: GuestContext): Promise<string> {
  const example = /```js\n(\/\/ boot\.mjs\n[^`]*)```/.exec(readFileSync(join(REPOSITORY, "README.md"), "utf8"))?.[1]
  if (example === undefined) throw new Error("README.md: no example that begins with // boot.mjs")
  const lines = example.trim().split("\n").filter((line) => line !== "").length
  same(lines < 20, true, `lines of the example (${lines}), fewer than 20`)
  const folder = context.path("empty")
  mkdirSync(folder)
  run("npm", ["pack", "--silent", "--pack-destination", folder], { cwd: REPOSITORY })
  const tarball = readdirSync(folder).find((name) => name.endsWith(".tgz")) ?? ""
  run("npm", ["install", "--silent", "--no-audit", "--no-fund", `v86@${V86_VERSION}`, join(folder, tarball)], { cwd: folder })
  // Debian's seabios package is not installed here, only unpacked in the cache.
  writeFileSync(
    join(folder, "boot.mjs"),
    example.replaceAll("/usr/share/seabios", join(debianPackages("seabios", ["seabios"]), "usr/share/seabios")),
  )
  run(process.execPath, [...process.execArgv, join(REPOSITORY, "test/linux/make-disk.ts"), join(folder, "disk.qcow2")], { cwd: REPOSITORY })
  const output = await terminal(context, folder)
  checkClean(join(folder, "disk.qcow2"))
  same(/hello from \/mnt/.test(output), true, "what the guest's shell printed")
  return `${lines} lines boot GRUB, Linux and a shell from disk.qcow2; a file was written; Ctrl-] closed the image`
}

/** Runs the example, types at its terminal, and ends it, as a person would. */
async function terminal(context: GuestContext, folder: string): Promise<string> {
  const child = spawn(process.execPath, ["boot.mjs"], { cwd: folder, stdio: ["pipe", "pipe", "pipe"] })
  let output = ""
  const waiting: { pattern: RegExp; resolve: () => void }[] = []
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (data: Buffer) => {
      context.log(data.toString())
      output += data.toString()
      for (const entry of waiting.splice(0)) if (entry.pattern.test(output)) entry.resolve()
      else waiting.push(entry)
    })
  }
  const ended = new Promise<number | null>((resolve) => child.on("close", resolve))
  const expect = (pattern: RegExp): Promise<void> => new Promise((resolve, reject) => {
    waiting.push({ pattern, resolve })
    void ended.then((status) => reject(new Error(`the example ended with ${status} before it printed ${pattern}:\n${output.slice(-2000)}`)))
  })
  await expect(/file system is on \/mnt/)
  child.stdin.write("echo hello from /mnt >/mnt/hello; sync; cat /mnt/hello; umount /mnt; echo DONE''-HERE\n")
  await expect(/DONE-HERE/)
  child.stdin.write("\x1d")
  same(await ended, 0, "exit status of the example")
  return output
}

export const readmeTests: readonly GuestTest[] = [
  { name: "readme", title: "the README's example boots Linux from qcow2 in an empty folder", limit: 240, run: readme },
]
