/** The same lines through qemu-io and `vioblk io`: what is printed of the data, which lines fail, and what the image holds afterwards. */
import { spawnSync } from "node:child_process"
import { copyFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { commandLine } from "../../support/command-line.ts"
import { itWithQemu, qemuImg } from "../../support/qemu.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const LINES: readonly (readonly string[])[] = [
  ["write -P 7 0 64k", "read -P 7 0 64k"], ["write -P 0x55 100 1000", "read -P 0x55 100 1000", "read -P 0 0 100"],
  ["write 0 512", "read -P 0xcd 0 512"],
  ["write -P 7 0 64k", "read -P 8 0 64k"], ["read -P 0 0 1M"], ["write -P 1 0 1k", "read -P 1 -l 1k 0 2k", "read -P 0 -s 1k -l 1k 0 2k"],
  ["write -P 1 0 1k", "read -P 1 -s 512 -l 1k 0 2k"], ["write -z 64k 64k", "read -P 0 64k 64k"],
  ["write -P 1 0 1M", "write -zu 0 1M", "read -P 0 0 1M"],
  ["write -P 3 0 128k", "discard 0 64k", "read -P 0 0 64k", "read -P 3 64k 64k"], ["write -f -P 9 1k 1k", "flush", "map"],
  ["writev -P 3 0 1k 2k", "readv -P 3 0 1k 2k"], ["aio_write -P 4 0 4k", "aio_flush", "aio_read -P 4 0 4k"], ["read -v 0 40"], ["length"],
  ["alloc 0", "alloc 0 1M", "alloc 64k 1k"], ["map"], ["write -P 1 1M 1"], ["read 2M 512"], ["write -P 256 0 1k"], ["write -P x 0 1k"],
  ["write"], ["read 0"], ["foo"], ["write -k 0 1k"], ["write -z -P 1 0 1k"], ["write -u 0 1k"], ["read lots 1k"], ["discard 0 4M"],
  ["write -s source 0 10k", "read -v 0 64"], ["write -s gone 0 1k"], ["write -c -P 6 0 64k", "read -P 6 0 64k"], ["write -P 5 1023k 1k"],
  ["quit", "foo"], ["write -q -P 5 0 1k", "read -q -P 5 0 1k"], ["sleep 1"],
]

/** What both print alike: data, places and verdicts; not times, and not how errors are worded. */
function essence(text: string): string[] {
  return text.split("\n").filter((line) => /^(Pattern|wrote|discard \d|[0-9a-f]{8}: |.*allocated|read \d)/.test(line))
}

describe("qemu-io and vioblk io", () => {

  for (const format of ["qcow2", "raw"] as const) {
    for (const lines of LINES) {
      // What a discard leaves is the program's own choice, and a raw image of ours keeps what is too short to be worth a hole.
      if (format === "raw" && lines.includes("discard 0 64k")) continue
      itWithQemu(`${format}: ${lines.join("; ")}`, async () => {
        const folder = temporaryDirectory()
        const [ours, theirs, source] = [join(folder, "ours"), join(folder, "theirs"), join(folder, "source")]
        qemuImg("create", "-q", "-f", format, ours, "1M")
        copyFileSync(ours, theirs)
        writeFileSync(source, "abcdefg")
        const words = lines.map((line) => line.replace("-s source", `-s ${source}`)).flatMap((line) => ["-c", line])
        const mine = await commandLine("io", "-f", format, ...words, ours)
        const { status, stdout } = spawnSync("qemu-io", ["-f", format, ...words, theirs], { encoding: "utf8" })
        expect({ code: mine.code, out: essence(mine.out) }).toEqual({ code: status, out: essence(stdout) })
        const { status: same } = spawnSync("qemu-img", ["compare", "-f", format, "-F", format, ours, theirs])
        expect(same).toBe(0)
      })
    }
  }

  it("a script, comments, and a read-only image", async () => {
    const folder = temporaryDirectory()
    const [path, script] = [join(folder, "disk.qcow2"), join(folder, "script")]
    await commandLine("create", "-q", "-f", "qcow2", path, "1M")
    writeFileSync(script, "# a comment\n\nwrite -q -P 7 0 64k\nread -P 7 0 64k\nquit\nfoo\n")
    expect(await commandLine("io", "--script", script, path)).toMatchObject({ code: 0, err: "" })
    expect(await commandLine("io", "-r", "-c", "write 0 512", path)).toMatchObject({ code: 1, out: expect.stringContaining("read-only") })
  })
})
