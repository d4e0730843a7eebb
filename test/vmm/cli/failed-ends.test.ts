/** Commands whose work fails, and then what they do about it fails as well, as on a full file system: one line says what went wrong. */
import { spawnSync } from "node:child_process"
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { afterEach, expect, it, vi } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { createImage } from "../../../src/backing/create.ts"
import { HostFile } from "../../../src/backing/host/host-file.ts"
import { openImage } from "../../../src/backing/open.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { Snapshots } from "../../../src/backing/qcow2/snapshots/snapshots.ts"
import { commandLine } from "../../support/command-line.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const MIB = 1 << 20

afterEach(() => vi.restoreAllMocks())

function image(): string {
  const path = join(temporaryDirectory(), "a.qcow2")
  createImage(path, { size: MIB })
  return path
}

function failing(message: string): () => never {
  return () => {
    throw new BackingError("no-space", message)
  }
}

it.each([
  ["resize", "a.qcow2", "2M"], ["snapshot", "-c", "one", "a.qcow2"],
])("%s tells its own error, not that of the close after it", async (...words) => {
  const path = image()
  const { close } = Qcow2Image.prototype
  vi.spyOn(Qcow2Image.prototype, "resize").mockImplementation(failing("no room for the work"))
  vi.spyOn(Snapshots.prototype, "create").mockImplementation(failing("no room for the work"))
  vi.spyOn(Qcow2Image.prototype, "close").mockImplementation(function (this: Qcow2Image) {
    close.call(this)
    failing("no room for the close")()
  })
  const { code, out, err } = await commandLine(...words.map((word) => word === "a.qcow2" ? path : word))
  expect([code, out, err]).toEqual([1, "", "vioblk: no room for the work\n"])
})

it("resize that runs out of space and cannot restore the old size says which size the disk has, and what to do", async () => {
  const path = image()
  const { resize } = Qcow2Image.prototype
  vi.spyOn(Qcow2Image.prototype, "resize")
    .mockImplementation(failing("no room"))
    .mockImplementationOnce(function (this: Qcow2Image, ...given) {
    resize.apply(this, given)
  })
  const { code, err } = await commandLine("resize", "--preallocation", "metadata", path, "1G")
  const size = MIB + (256 << 20)
  const line = `vioblk: ${path}: the disk has ${size} bytes now; free some space, and run vioblk resize --shrink with ${MIB}\n`
  expect([code, err]).toEqual([1, line])
  vi.restoreAllMocks()
  using disk = openImage(path)
  expect(disk.size).toBe(size)
})

it("create that finds no space for the data file leaves neither that nor the image", async () => {
  const folder = temporaryDirectory()
  const { write } = HostFile.prototype
  vi.spyOn(HostFile.prototype, "write").mockImplementation(function (this: HostFile, buffer, offset) {
    if (this.path.endsWith("d.raw")) failing("no room")()
    write.call(this, buffer, offset)
  })
  const options = "data_file=d.raw,preallocation=full"
  const { code, err } = await commandLine("create", "-f", "qcow2", "-o", options, join(folder, "a.qcow2"), "4M")
  expect([code, err, readdirSync(folder)]).toEqual([1, "vioblk: no room\n", []])
})

it("a process without file descriptors says so in one line: nothing has to be loaded for that", () => {
  const words = ["-c", 'ulimit -n 128; exec "$0" "$@"', process.execPath, "--import", "tsx", "test/vmm/cli/no-descriptors.ts", image()]
  const { stdout, stderr } = spawnSync("bash", words, { encoding: "utf8" })
  expect([stdout.split("\n").slice(-2), stderr]).toEqual([
    ["", "1"], expect.stringMatching(/^vioblk: [^\n]*: too many open files; [^\n]*\n$/),
  ])
})
