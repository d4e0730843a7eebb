/** Scripts that were written for qemu-img, run with it and with us in its place: what they print, and the images that they leave. */
import { spawnSync } from "node:child_process"
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { expect, it } from "vitest"
import { hasQemu, qemuCheck } from "../../support/qemu.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const SCRIPTS = resolve("test/interop/qemu-img/scripts")

function run(
  script: string, folder: string, bin: string,
): { readonly status: number | null; readonly stdout: string; readonly stderr: string } {
  const content = new Uint8Array(1 << 20)
  content.fill(7, 0, 3000)
  writeFileSync(join(folder, "rootfs.raw"), content)
  const env = { ...process.env, PATH: `${bin}${process.env["PATH"] ?? ""}`, VIOBLK: resolve("."), E2FSPROGS_FAKE_TIME: "1700000000" }
  const { status, stdout, stderr } = spawnSync("sh", [join(SCRIPTS, script)], { cwd: folder, env, encoding: "utf8" })
  return { status, stdout: stdout.replaceAll(folder, "HERE"), stderr }
}

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).sort()
}

it.runIf(hasQemu || process.env["CI"] !== undefined).each(["sandbox.sh", "builder.sh"])(
  "%s prints the same, and leaves the same behind", { timeout: 240_000 }, (script) => {
    const [ours, theirs] = [temporaryDirectory(), temporaryDirectory()]
    const [mine, yours] = [run(script, ours, `${SCRIPTS}/bin:`), run(script, theirs, "")]
    expect(mine).toEqual({ ...yours, stderr: "" })
    expect([yours.status, yours.stdout.length > 50]).toEqual([0, true])
    expect(filesOf(ours)).toEqual(filesOf(theirs))
    for (const name of filesOf(ours).filter((file) => file.endsWith(".qcow2"))) {
      expect([name, qemuCheck(join(ours, name)).exitCode]).toEqual([name, 0])
      // Each opens the other's images: the chains are the same.
      const { status } = spawnSync("qemu-img", ["compare", "-q", join(ours, name), join(theirs, name)])
      expect([name, status]).toEqual([name, 0])
    }
    for (const name of ["fs.raw", "back.raw"].filter((file) => existsSync(join(ours, file)))) {
      expect(readFileSync(join(ours, name)).equals(readFileSync(join(theirs, name)))).toBe(true)
    }
  },
)
