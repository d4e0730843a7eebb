/** CONTRIBUTING.md draws the call path of an allocating write: its files, their order and the number of stack frames must be right. */
import { readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { afterEach, expect, it, vi } from "vitest"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { BlockDriver, createImage, findBlockDevices, Machine, openImage } from "../../src/index.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const CONTRIBUTING = readFileSync(resolve(import.meta.dirname, "../../CONTRIBUTING.md"), "utf8")

afterEach(() => {
  vi.restoreAllMocks()
  Error.stackTraceLimit = 10
})

it("the stack from `Machine.mmioWrite` to `HostFile.writeFrom` is that of the drawing, under 20 frames in under 11 files", async () => {
  const path = join(temporaryDirectory(), "way.qcow2")
  createImage(path, { size: 1 << 20 })
  const image = openImage(path)
  const vm = new Machine({ ramSize: 4 << 20 })
  vm.attachDisk(image)
  const [device] = findBlockDevices(vm)
  if (device === undefined) throw new Error("the machine has no disk")
  const disk = await BlockDriver.open(device)
  Error.stackTraceLimit = 100
  let stack: string | undefined
  const { writeFrom } = HostFile.prototype
  vi.spyOn(HostFile.prototype, "writeFrom").mockImplementation(function (this: HostFile, ...args: Parameters<typeof writeFrom>) {
    stack ??= new Error("here").stack
    return writeFrom.apply(this, args)
  })
  // The first kick of a queue never takes the short path.
  await disk.read(0, 512)
  await disk.write(64, new Uint8Array(4096).fill(7))
  image.close()
  const files = [...filesIn(stack ?? "")].slice(0, filesIn(stack ?? "").lastIndexOf("vmm/machine.ts") + 1).reverse()
  // The spy's frame hides that of `writeFrom`.
  files.push("backing/host/host-file.ts")
  expect(counted(files)).toEqual(drawn())
  expect(files.length).toBeLessThan(20)
  expect(new Set(files).size).toBeLessThan(11)
})

/** The files of `src` in a stack, innermost frame first. */
function filesIn(stack: string): string[] {
  return [...stack.matchAll(/\/src\/([\w/-]+\.ts)/g)].map(([, file = ""]) => file)
}

/** Each run of frames in one file: the file, and the number of frames up to the end of the run. */
function counted(files: readonly string[]): (readonly [string, number])[] {
  return files.flatMap((file, index) => (files[index + 1] === file ? [] : [[file, index + 1] as const]))
}

function drawn(): (readonly [string, number])[] {
  const drawing = /```\nMachine\.mmioWrite[^]*?```/.exec(CONTRIBUTING)?.[0] ?? ""
  return [...drawing.matchAll(/ ([\w/-]+\.ts) +(\d+)(?= |$)/gm)].map(([, file = "", frames]) => [file, Number(frames)] as const)
}
